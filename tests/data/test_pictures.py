"""Data servers on encoded images: the same pictures whatever the cache and the number of servers, bad ones left out."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from adam_mp.data.augmentation import parse_augmentation
from adam_mp.data.mixing import Mixing
from adam_mp.data.normalization import Normalization, even_background, looks_inverted
from adam_mp.data.pictures import PictureSpec, open_pictures, picture_of
from adam_mp.data.reading.dataset import epoch_order
from adam_mp.data.reading.faults import Fault
from adam_mp.data.reading.loading import LoadOptions, load_data
from adam_mp.data.reading.records import RecordTable
from adam_mp.data.reading.sources import SourceSpec, pickle_items
from adam_mp.data.serving.server import DataServer, DataServerSpec
from adam_mp.errors import DataError
from adam_mp.memory.cache import ImageCache
from adam_mp.memory.ring import NO_PRODUCER, RingShape
from adam_mp.memory.run_memory import RunMemory, RunShape
from tests.data.pictures_on_disk import write_folder
from tests.data.reading.test_loading import Items
from tests.data.serving.test_server import drain

IMAGE = (32, 32, 3)
BATCH = 4
PLAIN = Mixing()
NORMALIZATION = Normalization((100.0, 90.0, 80.0), (50.0, 60.0, 70.0), 5.0, ((9.0, 0, 0), (0, 8.0, 0), (0, 0, 7.0)))
AUGMENTATION = parse_augmentation("reflect=0.5,crop=0.3,colour=0.1,noise=2", IMAGE)


@pytest.fixture
def make_servers(monkeypatch):
    """Data servers in this process for the samples of a data set, in one epoch, with a cache of `cache` bytes."""
    made = []

    def make(data, servers=1, cache=1 << 24, epoch=2, mixing=PLAIN):
        count = data.count
        arrays = {"labels": ("<i4", (count,)), "bad": ("|u1", (count,))}
        arrays["cache_places"] = ("<i8", (count,))
        items = b""
        table = None
        if hasattr(data.train, "table"):
            table = RecordTable.joined([part.table for part in data.parts])
            arrays |= {name: (array.dtype.str, array.shape) for name, array in table.arrays().items()}
        else:
            items = pickle_items(data.parts)
        batches = -(-count // BATCH)
        memory = RunMemory.create(RunShape(1, servers, batches, 0, count, RingShape(50, BATCH, IMAGE), arrays))
        memory.arrays["labels"][...] = np.arange(count)
        for name, array in table.arrays().items() if table else ():
            memory.arrays[name][...] = array
        memory.sample_order[...] = epoch_order(np.arange(count), 1, epoch)
        memory.ledger.open(epoch, np.zeros(batches, np.uint8))
        kept = ImageCache.create(cache, 1000, memory.arrays["cache_places"])
        made.extend((kept, memory))
        monkeypatch.setattr(RunMemory, "attach", lambda handle: memory)
        monkeypatch.setattr(ImageCache, "attach", lambda *_: kept)
        spec = PictureSpec(NORMALIZATION, AUGMENTATION, 7 / 8, SourceSpec(3, (37, 37), datasets=items), kept.handle)
        specs = [DataServerSpec(1 + number, memory.handle, BATCH, 1, spec, mixing=mixing) for number in range(servers)]
        return memory, [DataServer(spec) for spec in specs]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def photographs(tmp_path):
    write_folder(tmp_path, 5, height=60, width=90)
    return tmp_path


def counters(servers):
    rows = [server.counters.read() for server in servers]
    return [sum(getattr(row, name) for row in rows) for name in ("hits", "decoded", "bad", "augmented")]


def test_pictures_do_not_depend_on_cache_or_servers(make_servers, photographs):
    data = load_data(photographs, LoadOptions("32"))
    memory, servers = make_servers(data)
    first, _ = drain(memory, servers)
    assert sorted(first) == list(range(15))
    assert counters(servers) == [0, 15, 0, 15]
    memory.ledger.open(2, np.zeros(4, np.uint8))  # the same epoch again, now from the cache
    again, _ = drain(memory, servers)
    assert counters(servers) == [15, 15, 0, 30]
    uncached, _ = drain(*make_servers(data, servers=3, cache=0))
    partly, _ = drain(*make_servers(data, servers=2, cache=40_000))
    for sample, picture in first.items():
        for other in (again, uncached, partly):
            np.testing.assert_array_equal(picture, other[sample])
    later, _ = drain(*make_servers(data, epoch=3))
    assert any((later[sample] != picture).any() for sample, picture in first.items())


def test_what_is_bad_is_marked_and_left_out(make_servers, photographs):
    data = load_data(photographs, LoadOptions("32"))
    (photographs / "blue" / "0001.jpg").write_bytes(b"")
    (photographs / "green" / "0002.jpg").unlink()
    whole = (photographs / "red" / "0003.jpg").read_bytes()
    (photographs / "red" / "0003.jpg").write_bytes(whole[:-300])
    memory, servers = make_servers(data)
    pictures, tags = drain(memory, servers)
    assert sorted(pictures) == [0, *range(2, 7), *range(8, 13), 14]
    assert sum(tag.images for tag in tags) == 12
    assert sorted(tag.batch for tag in tags) == [0, 1, 2, 3]  # batches are served all the same, with fewer images
    bad = memory.arrays["bad"]
    assert {place: Fault(bad[place]) for place in np.flatnonzero(bad).tolist()} == {
        1: Fault.EMPTY, 7: Fault.MISSING, 13: Fault.DAMAGED,
    }  # fmt: skip
    assert counters(servers) == [0, 12, 3, 12]
    memory.ledger.open(2, np.zeros(4, np.uint8))
    assert sorted(drain(memory, servers)[0]) == sorted(pictures)
    assert counters(servers)[2] == 3


def test_the_images_of_a_batch_that_could_be_read_are_mixed_with_each_other(make_servers, photographs):
    data = load_data(photographs, LoadOptions("32"))
    for name in ("blue/0001.jpg", "green/0002.jpg", "red/0003.jpg"):
        (photographs / name).write_bytes(b"")
    plain, tags = drain(*make_servers(data))
    mixing = Mixing(1.0, 1.0)
    memory, servers = make_servers(data, mixing=mixing)
    mixed, _ = drain(memory, servers)
    assert min(tag.images for tag in tags) < 3  # the last batch has three samples, the others four
    for tag in tags:
        samples = memory.sample_order[tag.batch * BATCH : (tag.batch + 1) * BATCH]
        read = [sample for sample in samples.tolist() if sample in plain]
        expected = np.stack([plain[sample] for sample in read])
        mixing.mix(expected, 1, 2, tag.batch)
        for sample, picture in zip(read, expected, strict=True):
            np.testing.assert_array_equal(mixed[sample], picture)


def test_objects_are_served(make_servers):
    class Halved(Items):
        def __getitem__(self, index):
            if index == 2:
                raise RuntimeError("broken")
            return super().__getitem__(index)

    data = load_data((Halved(), Items(3, (200, 300, 3))), LoadOptions("32"))
    pictures, _ = drain(*make_servers(data))
    assert sorted(pictures) == [0, 1, *range(3, 12)]


def test_objects_that_cannot_be_sent_are_refused():
    dataset = Items()
    dataset.lock = threading.Lock()
    with pytest.raises(DataError, match="Items cannot be sent to the data servers"):
        pickle_items(load_data(dataset).parts)


def test_evaluation_shows_the_middle_without_draws(make_servers, photographs):
    data = load_data(photographs, LoadOptions("32"))
    memory, servers = make_servers(data)
    images, labels = np.zeros((BATCH, *IMAGE), np.float32), np.zeros(BATCH, np.int32)
    pictures = open_pictures(servers[0].spec.pictures, memory, servers[0].counters)
    assert pictures.fill(np.array([3, 9]), images, labels, None) == 2
    assert labels[:2].tolist() == [3, 9]
    for place, sample in enumerate((3, 9)):
        with open(data.place(sample), "rb") as file:
            plain = picture_of(file.read(), IMAGE, 7 / 8, LoadOptions())
        expected = (plain - NORMALIZATION.mean) / NORMALIZATION.deviation
        np.testing.assert_allclose(images[place], expected, atol=1e-4)


def test_the_next_batch_is_read_ahead_and_given_back_by_a_new_epoch(make_servers, photographs):
    memory, servers = make_servers(load_data(photographs, LoadOptions("32")))
    (server,) = servers
    assert server.fill_rings() == 1
    assert memory.ledger.statistics().held == 2  # one in the ring, one being read
    memory.ledger.open(3, np.zeros(4, np.uint8))
    assert server.fill_rings() == 1
    assert memory.ledger.statistics().held == 2
    memory.rings[0].producer = NO_PRODUCER
    assert server.fill_rings() == 0
    assert memory.ledger.statistics().held == 1  # what it was reading is for others
    memory.rings[0].producer = 1
    while server.fill_rings():
        pass
    assert memory.ledger.statistics().held == 4


def test_a_background_is_even_only_if_no_image_has_the_opposite():
    dark = np.random.default_rng(0).integers(0, 60, (100, 8, 8, 1)).astype(np.uint8)
    assert even_background(dark, 20.0)
    assert even_background(255 - dark, 235.0)
    mixed = dark.copy()
    mixed[::20] += 180
    assert not even_background(mixed, 20.0)
    assert looks_inverted(235.0, 20.0)
    assert not looks_inverted(120.0, 20.0)
