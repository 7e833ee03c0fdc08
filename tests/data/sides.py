"""Copies of a data set on several machines, for tests: one serves pictures of its copy, the other asks for them."""

from __future__ import annotations

import contextlib
import dataclasses
import threading

import numpy as np

from adam_mp.data.augmentation import PRESETS
from adam_mp.data.normalization import Normalization
from adam_mp.data.pictures import PictureSpec
from adam_mp.data.reading.dataset import make_dataset
from adam_mp.data.reading.options import WHITE
from adam_mp.data.reading.samples import Samples
from adam_mp.data.serving.last_resort import PicturesOfServers
from adam_mp.data.serving.makers import Makers
from adam_mp.data.serving.picture_maker import PictureMaker, Served, make_pictures
from adam_mp.data.serving.picture_messages import longest_answer, samples_in
from adam_mp.data.serving.picture_service import PictureServer, PictureService
from adam_mp.data.serving.remote import RemotePictures, RemoteSource
from adam_mp.memory.cache import ImageCache
from adam_mp.memory.ring import RingShape
from adam_mp.memory.run_memory import RunMemory, RunShape
from adam_mp.training.data.data_plan import join_records, make_source
from adam_mp.transport.addresses import Address
from adam_mp.transport.zeromq import SocketListener

COUNT, GREY, COLOUR = 40, (9, 9, 1), (32, 32, 3)
GREYS = Normalization((10.0,), (5.1,), 0.3)
COLOURS = Normalization((100.0, 90.0, 80.0), (50.0, 60.0, 70.0), 5.0, ((9.0, 0, 0), (0, 8.0, 0), (0, 0, 7.0)))
SPEC = PictureSpec(GREYS, PRESETS["mnist"])


def arrays_data(seed=0):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (COUNT, *GREY), dtype=np.uint8)
    train = Samples(images, generator.integers(3, size=COUNT).astype(np.int32))
    return make_dataset("bars", train, None, None)


class Side:
    """One machine's copy of a data set, in memory of its own."""

    def __init__(self, data, keep=1.0, workers=3, servers=0, cache=1 << 24):
        count, shape = data.count, data.image_shape
        self.data, self.source, self.cache = data, None, None
        arrays = {"labels": ("<i4", (count,))}
        if isinstance(data.train, Samples):
            arrays["images"] = ("|u1", data.train.images.shape)
        else:
            table = join_records(data)
            arrays |= {"bad": ("|u1", (count,)), "cache_places": ("<i8", (count,))}
            tabled = {} if table is None else table.arrays()
            arrays |= {name: (array.dtype.str, array.shape) for name, array in tabled.items()}
        batches = -(-count // 4)
        ring = RingShape(16, 4, shape)
        self.memory = memory = RunMemory.create(RunShape(workers, servers, batches, 0, count, ring, arrays))
        memory.arrays["labels"][...] = data.labels
        if isinstance(data.train, Samples):
            memory.arrays["images"][...] = data.train.images
            return
        for name, array in tabled.items():
            memory.arrays[name][...] = array
        self.source = make_source(data, keep)
        self.cache = ImageCache.create(cache, 3000, memory.arrays["cache_places"])

    @property
    def handle(self):
        return None if self.cache is None else self.cache.handle

    def served(self):
        return Served(self.data.name, self.data.image_shape, self.source, self.handle)

    def makers(self, count=1, **options):
        """Processes that make pictures of this copy; `notices` has what they said."""
        notices = []
        options = {"restarts": 0, "function": make_pictures, **options}
        makers = Makers(count, self.served(), self.memory, self.data.place, notices.append, **options)
        makers.notices = notices
        return makers

    def fetcher(self, service):
        """A function that answers FETCH in this process."""
        maker, opened = PictureMaker(self.served(), self.memory, 0), set()

        def fetch(session, payload):
            if session not in opened:
                maker.open(session, service.session(session))
                opened.add(session)
            samples = samples_in(payload)
            content = np.zeros(longest_answer(samples, self.data.image_shape), np.uint8)
            return content[: maker.make(session, payload, content)]

        return fetch

    def close(self):
        if self.cache is not None:
            self.cache.close()
        self.memory.close()


@contextlib.contextmanager
def serving(side, port=0, keys=None, service=None, kind=PictureServer, ready=True, **options):
    """A server in a thread, with processes that make pictures of `side`; gives its address and the server."""
    listener = SocketListener(Address("127.0.0.1", port), keys)
    with side.makers(**options) as makers:
        server = kind(service or PictureService(side.data), listener, makers)
        server.makers = makers
        if ready:
            makers.wait_ready(lambda: False)
        stop = threading.Event()
        thread = threading.Thread(target=server.run, args=(stop.is_set,))
        thread.start()
        try:
            yield str(listener.address), server
        finally:
            stop.set()
            thread.join(20)
            listener.close()
            assert not thread.is_alive()


def source_of(side, *addresses, deadline=60.0, keys=None):
    data = side.data
    return RemoteSource(addresses, keys, data.digest, data.image_shape, data.count, deadline)


@contextlib.contextmanager
def remote(side, *addresses, spec=SPEC, **options):
    pictures = RemotePictures(spec, source_of(side, *addresses, **options), side.memory, side.memory.board.counters[0])
    try:
        yield pictures
    finally:
        pictures.close()


@contextlib.contextmanager
def with_last_resort(side, *addresses, spec=SPEC, **options):
    """Pictures that this side makes itself while no server answers; `told` has what was said of it."""
    told = []
    spec = dataclasses.replace(spec, source=side.source, cache=side.handle)
    source = source_of(side, *addresses, **options)
    pictures = PicturesOfServers(spec, source, side.memory, side.memory.board.counters[0], told.append)
    pictures.told = told
    try:
        yield pictures
    finally:
        pictures.close()


def fill(pictures, samples, shape, key):
    """Return (images, labels) of what can be had."""
    samples = np.asarray(samples, np.int64)
    images, labels = np.zeros((len(samples), *shape), np.float32), np.zeros(len(samples), np.int32)
    kept = pictures.fill(samples, images, labels, key)
    return images[:kept], labels[:kept]


def expect_same(pictures, local, batches, shape, key):
    """Have batches made both ways, the next one prepared as the data server does it."""
    for batch, following in zip(batches, [*batches[1:], batches[0]], strict=True):
        pictures.prepare(np.asarray(batch), np.asarray(following), key=key)
        for mine, theirs in zip(fill(local, batch, shape, key), fill(pictures, batch, shape, key), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def question(side, spec=SPEC, **changes):
    data = side.data
    return {
        "digest": data.digest, "image_shape": list(data.image_shape), "count": data.count,
        "normalization": dataclasses.asdict(spec.normalization), "ranges": spec.augmentation.ranges.tolist(),
        "keep": spec.keep, "turned": True, "white": WHITE, **changes,
    }  # fmt: skip
