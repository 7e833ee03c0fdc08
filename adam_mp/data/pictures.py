"""From sample numbers to augmented, normalised pictures in place: what data servers do, and evaluating workers.

Samples of a run are numbered through all its parts. Arrays stand in shared memory whole; encoded images and items of
Python objects go through the cache. A sample that cannot be had is marked with its fault, once, and left out.
"""

from __future__ import annotations

import dataclasses
import pickle
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from adam_mp.data.augmentation import Augmentation
from adam_mp.data.decoding import decode
from adam_mp.data.faults import Fault, SampleError
from adam_mp.data.items import item_pixels
from adam_mp.data.normalization import Normalization
from adam_mp.data.records import RecordTable
from adam_mp.kernels.warp import frame_room, warp_batch, warp_picture
from adam_mp.memory.board import Counters
from adam_mp.memory.cache import CacheHandle, ImageCache
from adam_mp.memory.run_memory import RunMemory

_READERS = 4  # threads that wait for the disk
RECORDS, ITEMS, ARRAYS = "records", "items", "arrays"


@dataclasses.dataclass(frozen=True)
class PictureSpec:
    """How samples become pictures.

    `kind` RECORDS, ITEMS or ARRAYS; `least` (height, width) below which no image is shrunk, `keep` the part of its middle
    that is shown when nothing is drawn; `datasets` the pickled objects of ITEMS with the number of samples of each.
    """

    kind: str
    normalization: Normalization
    augmentation: Augmentation
    keep: float = 1.0
    least: tuple[int, int] | None = None
    pixel_limit: int = 0
    datasets: bytes = b""
    cache: CacheHandle | None = None


class Pictures:
    """One process's way to the pictures of a run; `fill` is all of it."""

    def __init__(self, spec: PictureSpec, memory: RunMemory, counters: Counters) -> None:
        self.spec, self.counters = spec, counters
        self.labels = memory.arrays["labels"]
        normalization = spec.normalization
        self.drawn, self.still = spec.augmentation.ranges, Augmentation().ranges
        self.colours = normalization.arrays()
        self.fill_value = np.float32(normalization.fill)

    def prepare(self, samples: np.ndarray) -> None:
        """Have what these samples need read ahead, if anything has to be, and forget what was read for others."""

    def fill(self, samples: np.ndarray, images: np.ndarray, labels: np.ndarray, key: int | None) -> int:
        """Write the pictures and labels of `samples`, those that can be had, in order; return how many.

        `key` stands for (seed, epoch); with None nothing is drawn.
        """
        raise NotImplementedError


class ArrayPictures(Pictures):
    """Pictures of images that all have the network's size and stand in shared memory."""

    def __init__(self, spec: PictureSpec, memory: RunMemory, counters: Counters) -> None:
        super().__init__(spec, memory, counters)
        self.images = memory.arrays["images"]

    def fill(self, samples: np.ndarray, images: np.ndarray, labels: np.ndarray, key: int | None) -> int:
        """See Pictures."""
        count = len(samples)
        ranges = self.still if key is None else self.drawn
        warp_batch(self.images, samples, images[:count], ranges, np.uint64(key or 0), *self.colours, self.fill_value)
        labels[:count] = self.labels[samples]
        return count


class DecodedPictures(Pictures):
    """Pictures of images that are decoded, and kept in the cache as far as it reaches."""

    def __init__(self, spec: PictureSpec, memory: RunMemory, counters: Counters) -> None:
        super().__init__(spec, memory, counters)
        arrays = memory.arrays
        self.bad, self.channels = arrays["bad"], memory.shape.ring.image[2]
        self.source: RecordSource | ItemSource
        self.source = RecordSource(spec, memory) if spec.kind == RECORDS else ItemSource(spec, memory)
        assert spec.cache is not None
        self.cache = ImageCache.attach(spec.cache, arrays["cache_places"], arrays["cache_sizes"])
        self.frame: np.ndarray = np.zeros(0, np.uint8)
        self.reals: np.ndarray = np.zeros(0, np.float32)

    def prepare(self, samples: np.ndarray) -> None:
        """See Pictures."""
        self.source.prepare(sample for sample in samples.tolist() if not self.bad[sample] and not self.cache.find(sample))

    def fill(self, samples: np.ndarray, images: np.ndarray, labels: np.ndarray, key: int | None) -> int:
        """See Pictures."""
        kept = 0
        for sample in samples.tolist():
            if self.bad[sample]:
                continue
            try:
                flat, height, width = self.pixels(sample)
            except SampleError as error:
                self.bad[sample] = error.fault
                self.counters.add("bad", 1)
                continue
            began = time.perf_counter_ns()
            self.warp(flat, height, width, images[kept], sample, key)
            self.counters.add("augment_ns", time.perf_counter_ns() - began)
            labels[kept] = self.labels[sample]
            kept += 1
        return kept

    def pixels(self, sample: int) -> tuple[np.ndarray, int, int]:
        """Return (flat pixels, height, width) from the cache, or decoded now."""
        found = self.cache.find(sample)
        if found is not None:
            self.counters.add("hits", 1)
            place, height, width = found
            return self.cache.pixels[place : place + height * width * self.channels], height, width
        # Should the decoder kill this process, the supervisor sees by this word which sample it was.
        self.counters.publish("decoding", sample + 1)
        began = time.perf_counter_ns()
        image = self.source.pixels(sample, self.channels)
        self.counters.add("decode_ns", time.perf_counter_ns() - began)
        self.counters.add("decoded", 1)
        self.counters.publish("decoding", 0)
        self.cache.add(sample, image)
        return image.reshape(-1), image.shape[0], image.shape[1]

    def warp(self, flat: np.ndarray, height: int, width: int, out: np.ndarray, sample: int, key: int | None) -> None:
        """Write one picture into `out`."""
        room = frame_room(height, width, self.channels)
        if len(self.frame) < room:
            self.frame, self.reals = np.zeros(room, np.uint8), np.zeros(room, np.float32)
        ranges = self.still if key is None else self.drawn
        warp_picture(
            flat, height, width, out, ranges, self.spec.keep, np.uint64(key or 0), sample, *self.colours, self.fill_value,
            self.frame, self.reals,
        )  # fmt: skip


class RecordSource:
    """Reads files ahead in threads, which wait for the disk while this process works, and decodes."""

    def __init__(self, spec: PictureSpec, memory: RunMemory) -> None:
        self.spec = spec
        self.table = RecordTable.from_arrays("", memory.arrays)
        self.readers = ThreadPoolExecutor(_READERS, thread_name_prefix="read-ahead")
        self.ahead: dict[int, Future[bytes]] = {}

    def prepare(self, samples: Iterable[int]) -> None:
        """Begin to read these samples, and forget the others."""
        self.ahead = {
            sample: self.ahead.get(sample) or self.readers.submit(self.table.read, sample) for sample in samples
        }

    def pixels(self, sample: int, channels: int) -> np.ndarray:
        """Return the decoded image; raises SampleError."""
        waiting = self.ahead.pop(sample, None)
        content = self.table.read(sample) if waiting is None else waiting.result()
        return decode(content, channels, self.spec.least, self.spec.pixel_limit)


class ItemSource:
    """Items of the data-set objects, numbered one object after the other."""

    def __init__(self, spec: PictureSpec, memory: RunMemory) -> None:
        self.datasets = [
            (dataset, first) for dataset, first in pickle.loads(spec.datasets)
        ]  # from the supervisor, through the pipe that started this process

    def prepare(self, samples: Iterable[int]) -> None:
        """Nothing: what an item costs is the object's own affair."""

    def pixels(self, sample: int, channels: int) -> np.ndarray:
        """Return the item's image; raises SampleError."""
        dataset, first = next(pair for pair in reversed(self.datasets) if pair[1] <= sample)
        return item_pixels(dataset, sample - first, channels)


def open_pictures(spec: PictureSpec, memory: RunMemory, counters: Counters) -> Pictures:
    """Return the pictures of a run, for one process that counts in `counters`."""
    return (ArrayPictures if spec.kind == ARRAYS else DecodedPictures)(spec, memory, counters)
