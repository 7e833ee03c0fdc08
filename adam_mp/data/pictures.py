"""From sample numbers to pictures, written in place. Data servers call this, and workers when they evaluate.

The samples of a run are numbered through all parts of its data set. Images that are arrays are in the run's shared
memory as a whole. Encoded images and items of Python objects are decoded, and kept in the cache. A sample that cannot
be read or decoded is left out, and its fault is noted once in the shared array `bad`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time

import numpy as np

from adam_mp.data.augmentation import Augmentation
from adam_mp.data.normalization import Normalization
from adam_mp.data.reading.decoding import decode
from adam_mp.data.reading.faults import SampleError
from adam_mp.data.reading.options import LoadOptions
from adam_mp.data.reading.read_only import for_kernels
from adam_mp.data.reading.records import RecordTable
from adam_mp.data.reading.sources import SourceSpec, open_source
from adam_mp.kernels.warp import frame_room, warp_batch, warp_picture
from adam_mp.memory.board import Counters
from adam_mp.memory.cache import CacheHandle, ImageCache
from adam_mp.memory.run_memory import RunMemory


@dataclasses.dataclass(frozen=True)
class PictureSpec:
    """How samples become pictures.

    `keep` is the share of an image's sides, 0 to 1, that a picture shows of its middle when no augmentation is drawn.
    `source` and `cache` are None if the images are arrays in the run's memory.
    """

    normalization: Normalization
    augmentation: Augmentation
    keep: float = 1.0
    source: SourceSpec | None = None
    cache: CacheHandle | None = None


class ArrayPictures:
    """Makes pictures of images that are arrays in shared memory and all have the network's size."""

    reads_ahead = False

    def __init__(self, spec: PictureSpec, memory: RunMemory, counters: Counters) -> None:
        self._counters = counters
        self._images, self._labels = memory.arrays["images"], memory.arrays["labels"]
        self._drawn, self._still = spec.augmentation.ranges, Augmentation().ranges
        self._colours = spec.normalization.arrays()
        self._fill = np.float32(spec.normalization.fill)

    def prepare(self, *batches: np.ndarray, key: int | None = None) -> None:
        """Do nothing: all images are in memory."""

    def fill(self, samples: np.ndarray, images: np.ndarray, labels: np.ndarray, key: int | None) -> int:
        """Write the pictures and labels of `samples` into the first places, in order; return how many.

        `images` is float32 [n, h, w, c], `labels` int32 [n]. `key` is `picture_key(seed, epoch)`: it decides the random
        numbers of the augmentation; with None there is no augmentation.
        """
        count = len(samples)
        ranges = self._still if key is None else self._drawn
        began = time.perf_counter_ns()
        warp_batch(self._images, samples, images[:count], ranges, np.uint64(key or 0), *self._colours, self._fill)
        self._counters.add("augment_ns", time.perf_counter_ns() - began)
        labels[:count] = self._labels[samples]
        return count


class DecodedPictures:
    """Makes pictures of encoded images and items: decodes images, and keeps them in the cache while it has room."""

    reads_ahead = True

    def __init__(self, spec: PictureSpec, memory: RunMemory, counters: Counters) -> None:
        arrays = memory.arrays
        assert spec.source is not None
        assert spec.cache is not None
        self._counters, self._keep, self._channels = counters, spec.keep, spec.source.channels
        self._labels, self._bad = arrays["labels"], arrays["bad"]
        self._drawn, self._still = spec.augmentation.ranges, Augmentation().ranges
        self._colours = spec.normalization.arrays()
        self._fill = np.float32(spec.normalization.fill)
        self._source = open_source(spec.source, RecordTable.in_arrays(arrays))
        self._cache = ImageCache.attach(spec.cache, arrays["cache_places"])
        self._warp = PictureWarp(self._channels)

    def prepare(self, *batches: np.ndarray, key: int | None = None) -> None:
        """Begin to read the files of these batches' samples ahead, and forget what was read ahead for other batches.

        `key` is not used here: `PicturesOfServers`, which has the same methods, asks other machines with it.
        """
        find, bad = self._cache.find, self._bad
        samples = itertools.chain.from_iterable(batch.tolist() for batch in batches)
        self._source.prepare(sample for sample in samples if not bad[sample] and find(sample) is None)

    def fill(self, samples: np.ndarray, images: np.ndarray, labels: np.ndarray, key: int | None) -> int:
        """Write the pictures and labels of those of `samples` that are not bad, in order; return how many.

        `images`, `labels` and `key` are as in `ArrayPictures.fill`.
        """
        kept = 0
        ranges = self._still if key is None else self._drawn
        for sample in samples.tolist():
            if self._bad[sample]:
                continue
            try:
                self._make(sample, images[kept], ranges, key)
            except SampleError as error:
                self._bad[sample] = error.fault
                self._counters.add("bad", 1)
                continue
            labels[kept] = self._labels[sample]
            kept += 1
        return kept

    def _make(self, sample: int, out: np.ndarray, ranges: np.ndarray, key: int | None) -> None:
        """Write the picture of a sample into `out`, from the cache or decoded now. Raises SampleError."""
        found = self._cache.find(sample)
        if found is not None:
            place, height, width = found
            flat = self._cache.pixels[place : place + height * width * self._channels]
            self._draw(flat, height, width, out, ranges, key or 0, sample)
            if self._cache.still_has(place):
                self._counters.add("hits", 1)
                return
        self._draw(*self._decoded(sample, key), out, ranges, key or 0, sample)

    def _draw(
        self, flat: np.ndarray, height: int, width: int, out: np.ndarray, ranges: np.ndarray, key: int, sample: int
    ) -> None:  # fmt: skip
        began = time.perf_counter_ns()
        self._warp(flat, height, width, out, ranges, self._keep, key, sample, self._colours, self._fill)
        self._counters.add("augment_ns", time.perf_counter_ns() - began)

    def _decoded(self, sample: int, key: int | None) -> tuple[np.ndarray, int, int]:
        """Return (flat pixels, height, width) of a sample's image, decoded now and put into the cache."""
        # If the decoder kills this process, the process that watches it reads here which sample is to blame (`Blame`).
        self._counters.publish("decoding", sample + 1)
        began = time.perf_counter_ns()
        try:
            image = self._source.pixels(sample, key)
        finally:
            self._counters.publish("decoding", 0)
        self._counters.add("decode_ns", time.perf_counter_ns() - began)
        self._counters.add("decoded", 1)
        self._cache.add(sample, image)
        return image.reshape(-1), image.shape[0], image.shape[1]


class PictureWarp:
    """Calls `kernels.warp.warp_picture`, and owns the scratch memory that it needs, as large as the largest image."""

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._frame: np.ndarray = np.zeros(0, np.uint8)
        self._reals: np.ndarray = np.zeros(0, np.float32)

    def __call__(
        self, flat: np.ndarray, height: int, width: int, out: np.ndarray, ranges: np.ndarray, keep: float, key: int,
        sample: int, colours: tuple[np.ndarray, np.ndarray, np.ndarray], fill: np.float32,
    ) -> None:  # fmt: skip
        """Write the picture of `flat`, uint8 [height * width * c], into `out` float32 [h, w, c]; see `warp_picture`."""
        room = frame_room(height, width, self._channels)
        if len(self._frame) < room:
            self._frame, self._reals = np.zeros(room, np.uint8), np.zeros(room, np.float32)
        warp_picture(
            for_kernels(flat), height, width, out, ranges, keep, np.uint64(key), sample, *colours, fill, self._frame,
            self._reals,
        )  # fmt: skip


Pictures = ArrayPictures | DecodedPictures


def open_pictures(spec: PictureSpec, memory: RunMemory, counters: Counters) -> Pictures:
    """Return what makes the pictures of a run in one process, which counts in its own `counters`."""
    return (ArrayPictures if spec.source is None else DecodedPictures)(spec, memory, counters)


def picture_of(content: bytes, shape: tuple[int, int, int], keep: float, options: LoadOptions) -> np.ndarray:
    """Return the picture of an encoded image, without augmentation and normalisation, float32 of `shape`.

    Raises SampleError if the image cannot be decoded.
    """
    least = (math.ceil(shape[0] / keep), math.ceil(shape[1] / keep))
    return picture_from(decode(content, shape[2], least, options), shape, keep)


def picture_from(image: np.ndarray, shape: tuple[int, int, int], keep: float) -> np.ndarray:
    """Return the picture of a decoded image, uint8 [h, w, c], without augmentation and normalisation, of `shape`."""
    out = np.zeros(shape, np.float32)
    plain = Normalization((0.0,) * shape[2], (1.0,) * shape[2], 0.0).arrays()
    height, width, _ = image.shape
    warp = PictureWarp(shape[2])
    warp(image.reshape(-1), height, width, out, Augmentation().ranges, keep, 0, 0, plain, np.float32(0))
    return out
