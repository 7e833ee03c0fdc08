"""Decoded images in shared memory, for all processes of a run: an image that fits is decoded once.

An image in the cache never moves. Every epoch needs every sample once, in random order, so replacing one image by
another would gain nothing. An image that does not fit is decoded anew in each epoch.

The index has a word for each sample: where its image is, published once the image is complete, so that readers take no
lock. The image's size is in front of its pixels. Space is taken in chunks. A process claims the next chunk by one
fetch-and-add, has the system back the chunk with memory, and fills it alone. So the cache takes no more memory than
the chunks claimed, and the death of a process wastes at most the rest of its chunk.

If memory becomes scarce, the owner makes the cache smaller while others use it (`shrink`). It first lowers the number
of chunks that count, then gives the memory of the others back. So a reader may have read pixels that were just given
back. It therefore asks `still_has` after it has used them:

    owner                                 reader
                                            find a sample: it is in chunk 9
      chunks that count: 5                  use its pixels, which may be zeroed by now
      give back the memory from chunk 5 on  still_has? no: decode the image and use that
"""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import numpy as np

from adam_mp.kernels.atomic import fetch_add, observe, publish
from adam_mp.machine import free_memory
from adam_mp.memory.segment import Segment, SegmentHandle, megabytes

_PAGE = 4096  # bytes; the first page holds only two words: the chunks claimed, and the chunks that count
_LINE = 64  # bytes
_LARGEST_CHUNK = 8 << 20  # bytes
_CHUNKS = 64  # a small cache is cut into so many, so that unused ends of chunks stay below a tenth of it
_IMAGES_A_CHUNK = 8  # at least; with fewer, the unused end of a chunk would be a large part of it
LEFT_FREE = 256 << 20  # bytes of the machine's memory that the cache leaves free


@dataclasses.dataclass(frozen=True)
class CacheHandle:
    """What a child needs to attach: the segment, the bytes of a chunk, and how many chunks there are.

    The cache leaves `spare` bytes of the machine's memory free.
    """

    segment: SegmentHandle
    chunk: int
    chunks: int
    spare: int = LEFT_FREE


@dataclasses.dataclass(frozen=True)
class CacheStatistics:
    """How many images a cache holds, how many bytes its claimed chunks have, and whether all chunks are claimed."""

    images: int
    bytes: int
    full: bool


class ImageCache:
    """Decoded images, uint8 [h, w, c], by sample number.

    `places` is the index, int64 [samples] in shared memory, zeroed at first: where each sample's image is in `pixels`,
    0 for none. Any process may call `find`, `still_has` and `add`; only the owner `shrink`, `resize` and `adopt`.
    """

    def __init__(self, segment: Segment, handle: CacheHandle, places: np.ndarray) -> None:
        self._segment, self.handle, self._places = segment, handle, places
        self._begin = self._end = 0  # the unused part of this process's chunk
        self._full = False
        self._view()

    def _view(self) -> None:
        size = self._segment.handle.size
        self._claimed = self._segment.array(np.int64, (1,), 0)
        self._counting = self._segment.array(np.int64, (1,), 8)
        self.pixels = self._segment.array(np.uint8, (size,), 0)
        self._words = self._segment.array(np.int64, (size // 8,), 0)

    @classmethod
    def create(
        cls, size: int, image_bytes: float, places: np.ndarray, folder: Path | None = None, spare: int = LEFT_FREE
    ) -> ImageCache:
        """Make a cache of up to `size` bytes, in memory or in a file in `folder`; it takes them as it fills.

        `image_bytes` is the usual size of an image; chunks are made for it, and an image larger than a chunk is not
        kept. The cache leaves `spare` bytes of the machine's memory free.
        """
        chunk = max(min(_LARGEST_CHUNK, size // _CHUNKS), math.ceil(_IMAGES_A_CHUNK * image_bytes))
        chunk = max(1, -(-chunk // _PAGE)) * _PAGE
        chunks = size // chunk
        segment = Segment.create("cache", _PAGE + chunk * chunks, folder, reserved=_PAGE)
        cache = cls(segment, CacheHandle(segment.handle, chunk, chunks, spare), places)
        cache._counting[0] = chunks
        return cache

    @classmethod
    def attach(cls, handle: CacheHandle, places: np.ndarray) -> ImageCache:
        """Map the cache that the supervisor made."""
        return cls(Segment.attach(handle.segment), handle, places)

    def find(self, sample: int) -> tuple[int, int, int] | None:
        """Return (offset in `pixels`, height, width) of a sample's image, or None if the cache does not have it.

        Ask `still_has` about the offset once the pixels are used.
        """
        place = int(observe(self._places, sample))
        if place == 0 or not self.still_has(place):
            return None
        size = int(self._words[place // 8 - 1])
        return (place, size >> 32, size & 0xFFFFFFFF) if size else None  # 0: the cache shrank just now

    def still_has(self, place: int) -> bool:
        """Tell whether the pixels that were read at offset `place` until now were those of an image."""
        return place < self._end_of_all()

    def _end_of_all(self) -> int:
        return _PAGE + int(observe(self._counting, 0)) * self.handle.chunk

    def add(self, sample: int, image: np.ndarray) -> bool:
        """Keep a sample's image; False if there is no room, or if the cache has it already."""
        if int(observe(self._places, sample)):
            return False
        begin = self._take(_LINE + -(-image.size // _LINE) * _LINE)
        if begin is None:
            return False
        place = begin + _LINE
        self._words[place // 8 - 1] = image.shape[0] << 32 | image.shape[1]
        self.pixels[place : place + image.size] = image.reshape(-1)
        publish(self._places, sample, place)
        return True

    def _take(self, size: int) -> int | None:
        """Take `size` bytes of this process's chunk, or of a new one; return where they begin, None if it is full."""
        if self._end > self._end_of_all():  # this process's chunk was given back
            self._full, self._begin = True, self._end
        room = self._end - self._begin
        if room < size and (size > self.handle.chunk or self._full or not self._claim()):
            return None
        place = self._begin
        self._begin += size
        return place

    def _claim(self) -> bool:
        """Claim the next chunk for this process alone; False, from then on, if there is no chunk or memory left."""
        if free_memory() < self.handle.spare + self.handle.chunk:
            self._full = True
            return False
        number = int(fetch_add(self._claimed, 0, 1))
        if number >= int(observe(self._counting, 0)):
            self._full = True
            return False
        begin = _PAGE + number * self.handle.chunk
        try:
            os.posix_fallocate(self.handle.segment.descriptor, begin, self.handle.chunk)
        except OSError:
            self._full = True
            return False
        self._begin, self._end = begin, begin + self.handle.chunk
        return True

    def shrink(self) -> int | None:
        """Give back half of the memory that the cache has taken, and take no more from now on.

        Returns the bytes that it still has; None if it had none that it could give back. Only its owner may call this;
        other processes may go on using the cache.
        """
        held = self._held()
        publish(self._counting, 0, held // 2)
        begin = self._end_of_all()
        if not held or not self._segment.release(begin, begin + (held - held // 2) * self.handle.chunk):
            return None
        return held // 2 * self.handle.chunk

    def _held(self) -> int:
        """Return how many chunks are claimed and count."""
        return min(int(observe(self._claimed, 0)), int(observe(self._counting, 0)))

    def resize(self, size: int) -> None:
        """Let the cache take up to `size` bytes, but no less than its claimed chunks have, and no more if it shrank.

        Only its owner may call this, while no other process maps the cache.
        """
        chunk = self.handle.chunk
        held = self._held()
        self._claimed[0] = held  # without the claims that failed because all chunks were claimed
        shrank = int(self._counting[0]) < self.handle.chunks
        chunks = held if shrank else max(size // chunk, held)
        self._counting[0] = chunks
        self._segment.resize(_PAGE + chunk * chunks)
        self.handle = dataclasses.replace(self.handle, segment=self._segment.handle, chunks=chunks)
        self._full = False
        self._view()

    def adopt(self, places: np.ndarray, spare: int) -> None:
        """Use another index, `places`, which already has the places of all images; leave `spare` bytes free."""
        self._places = places
        self.handle = dataclasses.replace(self.handle, spare=spare)

    def statistics(self) -> CacheStatistics:
        """Return what the cache holds now."""
        images = int(np.count_nonzero((self._places > 0) & (self._places < self._end_of_all())))
        full = int(self._claimed[0]) > int(self._counting[0])
        return CacheStatistics(images, self._held() * self.handle.chunk, full)

    def close(self) -> None:
        """Give up this process's mapping."""
        del self._claimed, self._counting, self.pixels, self._words
        self._segment.close()


def shrink_after_death(cache: ImageCache | None, wanted_memory: bool | None) -> str:
    """Make the cache smaller if a process that used it was killed for want of memory; None: perhaps it was.

    Returns what to tell the user in front of what happens next; "" if nothing was done.
    """
    left = None if cache is None or wanted_memory is False else cache.shrink()
    return "" if left is None else f"the cache is made smaller, to {megabytes(left)}; "


def expected_bytes(count: int, pixels: float, channels: int) -> int:
    """Return the bytes that a cache needs for `count` images of, on average, `pixels` pixels with `channels` values."""
    return _PAGE + math.ceil(1.05 * count * (pixels * channels + 2 * _LINE)) + _LARGEST_CHUNK
