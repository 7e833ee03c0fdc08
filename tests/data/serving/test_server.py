from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from adam_mp.data.augmentation import PRESETS
from adam_mp.data.mixing import Mixing
from adam_mp.data.normalization import Normalization
from adam_mp.data.pictures import PictureSpec
from adam_mp.data.reading.dataset import epoch_order
from adam_mp.data.serving.server import DataServer, DataServerSpec
from adam_mp.memory.board import STOP
from adam_mp.memory.ledger import HELD
from adam_mp.memory.ring import NO_PRODUCER, RingShape
from adam_mp.memory.run_memory import RunMemory, RunShape

COUNT, BATCH = 22, 4
PLAIN = Mixing()
ROUNDS = 3  # of the epoch, until every slot of the rings was used
NORMALIZATION = Normalization((10.0,), (5.0,), 0.0)
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 9, 9, 1), dtype=np.uint8)


@pytest.fixture
def make_servers(monkeypatch):
    """Data servers in this process, on one memory, for two workers."""
    made = []

    def make(servers, epoch=3, mixing=PLAIN):
        arrays = {"images": ("|u1", IMAGES.shape), "labels": ("<i4", (COUNT,))}
        shape = RunShape(2, servers, 6, 0, COUNT, RingShape(8, BATCH, (9, 9, 1)), arrays)
        memory = RunMemory.create(shape)
        memory.arrays["images"][...] = IMAGES
        memory.arrays["labels"][...] = range(COUNT)
        memory.sample_order[...] = epoch_order(np.arange(COUNT), 1, epoch)
        memory.ledger.open(epoch, np.zeros(6, np.uint8))
        made.append(memory)
        monkeypatch.setattr(RunMemory, "attach", lambda handle: memory)
        pictures = PictureSpec(NORMALIZATION, PRESETS["mnist"])
        specs = [DataServerSpec(2 + n, memory.handle, BATCH, 1, pictures, mixing=mixing) for n in range(servers)]
        return memory, [DataServer(spec) for spec in specs]

    yield make
    for memory in made:
        memory.close()


def drain(memory, servers):
    """Let the servers fill the rings until nothing is left; return label -> picture, and the tags."""
    pictures, tags = {}, []
    while sum(server.fill_rings() for server in servers):
        for ring in memory.rings:
            while (index := ring.peek()) is not None:
                slot = ring.slots[index]
                tags.append(slot.read_tag())
                for place in range(tags[-1].images):
                    pictures[int(slot.labels[place])] = slot.images[place].copy()
                ring.consume()
    return pictures, tags


def test_the_same_pictures_come_from_any_number_of_servers(make_servers):
    pictures, tags = drain(*make_servers(1))
    assert sorted(pictures) == list(range(COUNT))
    assert sorted(tag.batch for tag in tags) == list(range(6))
    assert sorted(tag.images for tag in tags) == [2, 4, 4, 4, 4, 4]
    assert all(tag.epoch == 3 and tag.server == 2 for tag in tags)
    others, _ = drain(*make_servers(3))
    later, _ = drain(*make_servers(1, epoch=4))
    for label, picture in pictures.items():
        np.testing.assert_array_equal(picture, others[label])
    assert any((picture != later[label]).any() for label, picture in pictures.items())


def batches(memory, servers):
    """Let the servers make all batches; return batch -> (pictures, labels, share of the partner)."""
    made = {}
    while sum(server.fill_rings() for server in servers):
        for ring in memory.rings:
            while (index := ring.peek()) is not None:
                slot = ring.slots[index]
                tag = slot.read_tag()
                made[tag.batch] = (
                    slot.images[: tag.images].copy(), slot.labels[: tag.images].copy(), float(slot.mixed[0])
                )  # fmt: skip
                ring.consume()
    return made


@pytest.mark.parametrize("mixing", [Mixing(mixup=1.0), Mixing(cutmix=1.0), Mixing(1.0, 1.0)])
def test_the_same_mixed_batches_come_from_any_number_of_servers(make_servers, mixing):
    plain = batches(*make_servers(1))
    memory, servers = make_servers(1, mixing=mixing)
    mixed = batches(memory, servers)
    assert servers[0].counters.read().augment_ns > 0
    others = batches(*make_servers(3, mixing=mixing))
    for _ in range(ROUNDS):  # as after a death: in the end into slots that have mixed pictures already
        memory.ledger.open(3, np.zeros(6, np.uint8))
        again = batches(memory, servers)
    assert sorted(mixed) == sorted(others) == sorted(again) == list(range(6))
    for number, (images, labels, share) in plain.items():
        expected = images.copy()
        assert share == 0
        assert mixing.mix(expected, 1, 3, number) == mixed[number][2]
        for found, found_labels, found_share in (mixed[number], others[number], again[number]):
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(found_labels, labels)
            assert found_share == mixed[number][2]
    assert len({share for *_, share in mixed.values()}) > 3


def test_a_slot_that_had_a_mixed_batch_says_so_no_more(make_servers):
    memory, (mixer,) = make_servers(1, mixing=Mixing(mixup=1.0))
    for _ in range(ROUNDS):
        memory.ledger.open(3, np.zeros(6, np.uint8))
        assert all(share > 0 for *_, share in batches(memory, [mixer]).values())
    assert all(slot.mixed[0] > 0 for ring in memory.rings for slot in ring.slots)
    plain = DataServer(dataclasses.replace(mixer.spec, mixing=PLAIN))
    memory.ledger.open(3, np.zeros(6, np.uint8))
    assert not any(share for *_, share in batches(memory, [plain]).values())


def test_a_full_ring_is_left_alone_and_an_orphaned_one_too(make_servers):
    memory, servers = make_servers(1)
    memory.rings[1].producer = NO_PRODUCER
    while servers[0].fill_rings():
        pass
    assert memory.rings[0].statistics().waiting == 6
    assert memory.rings[1].statistics().waiting == 0
    assert memory.ledger.statistics().held == 6
    assert (memory.ledger.states() == HELD).all()


def test_a_batch_whose_round_ended_while_it_was_made_is_dropped(make_servers):
    memory, (server,) = make_servers(1)
    batch = server.take_batch(3, 0)
    memory.ledger.close_round()
    memory.sample_order[...] = epoch_order(np.arange(COUNT), 1, 2)  # back to the epoch before
    memory.ledger.open(2, np.zeros(6, np.uint8))
    server.write_batch(memory.rings[0], 3, batch)
    assert memory.rings[0].peek() is None
    pictures, tags = drain(memory, [server])
    assert sorted(pictures) == list(range(COUNT))
    assert {tag.epoch for tag in tags} == {2}


def test_it_serves_until_it_is_told_to_stop(make_servers):
    memory, servers = make_servers(1)
    memory.board.give_order(STOP)
    servers[0].run()
    assert memory.board.counters[2].read().ready == 1
