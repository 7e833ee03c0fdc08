"""Decoded images in shared memory, for all processes of a run: what fits is decoded once.

An image that was added never moves or goes. In each epoch every sample is wanted once, in random order, so to throw one
image out for another would gain nothing; what no longer fits is decoded anew each time.

A word a sample tells where its image is, published when it is there: readers take no lock. Its size stands before its
pixels. Space is taken in chunks. A process claims the next chunk by one fetch-and-add, has the system back it with
memory, and fills it alone; so the cache never takes more than it holds, and the end of a process wastes at most the
rest of its chunk.
"""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import numpy as np

from adam_mp.kernels.atomic import fetch_add, observe, publish
from adam_mp.machine import free_memory
from adam_mp.memory.segment import Segment, SegmentHandle

_PAGE = 4096  # the first holds the count of chunks claimed, and nothing else
_LINE = 64
_LARGEST_CHUNK = 8 << 20
_CHUNKS = 64  # at least, where the cache is small: what processes leave unused stays below a tenth
_IMAGES_A_CHUNK = 8  # at least, or much would be left at its end
LEFT_FREE = 256 << 20  # of the machine's memory: the cache stops before


@dataclasses.dataclass(frozen=True)
class CacheHandle:
    """What a child needs to attach: the segment of the pixels, the bytes of a chunk, and how many there are.

    `spare` bytes of the machine's memory are left to others.
    """

    segment: SegmentHandle
    chunk: int
    chunks: int
    spare: int = LEFT_FREE


@dataclasses.dataclass(frozen=True)
class CacheStatistics:
    """How many images a cache holds, how many bytes it took for them, and whether it is full."""

    images: int
    bytes: int
    full: bool


class ImageCache:
    """Images uint8 [h, w, c] by sample number; `places` is int64 [samples], zeroed at first."""

    def __init__(self, segment: Segment, handle: CacheHandle, places: np.ndarray) -> None:
        self._segment, self.handle, self._places = segment, handle, places
        self._begin = self._end = 0  # what is left of this process's chunk
        self._full = False
        self._view()

    def _view(self) -> None:
        size = self._segment.handle.size
        self._claimed = self._segment.array(np.int64, (1,), 0)
        self.pixels = self._segment.array(np.uint8, (size,), 0)
        self._words = self._segment.array(np.int64, (size // 8,), 0)

    @classmethod
    def create(
        cls, size: int, image_bytes: float, places: np.ndarray, folder: Path | None = None, spare: int = LEFT_FREE
    ) -> ImageCache:
        """Make a cache of up to `size` bytes, of memory or of disk in `folder`; it takes them as it fills.

        An image usually has `image_bytes`; those that are many times as large are not kept. `spare` bytes of the
        machine's memory are left to others.
        """
        chunk = max(min(_LARGEST_CHUNK, size // _CHUNKS), math.ceil(_IMAGES_A_CHUNK * image_bytes))
        chunk = max(1, -(-chunk // _PAGE)) * _PAGE
        chunks = size // chunk
        segment = Segment.create("cache", _PAGE + chunk * chunks, folder, reserved=_PAGE)
        return cls(segment, CacheHandle(segment.handle, chunk, chunks, spare), places)

    @classmethod
    def attach(cls, handle: CacheHandle, places: np.ndarray) -> ImageCache:
        """Map the cache that the supervisor made."""
        return cls(Segment.attach(handle.segment), handle, places)

    def find(self, sample: int) -> tuple[int, int, int] | None:
        """Return (offset in `pixels`, height, width) of a sample's image, or None if it is not here."""
        place = int(observe(self._places, sample))
        if place == 0:
            return None
        size = int(self._words[place // 8 - 1])
        return place, size >> 32, size & 0xFFFFFFFF

    def add(self, sample: int, image: np.ndarray) -> bool:
        """Keep an image; False if there is no room, or if it is there already."""
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
        """Return where `size` bytes are free, or None."""
        room = self._end - self._begin
        if room < size and (size > self.handle.chunk or self._full or not self._claim()):
            return None
        place = self._begin
        self._begin += size
        return place

    def _claim(self) -> bool:
        """Claim a chunk for this process alone."""
        if free_memory() < self.handle.spare + self.handle.chunk:
            self._full = True
            return False
        number = int(fetch_add(self._claimed, 0, 1))
        if number >= self.handle.chunks:
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

    def resize(self, size: int) -> None:
        """Let the cache take up to `size` bytes, but no less than what it holds.

        For its owner, while no other process has it.
        """
        chunk = self.handle.chunk
        held = min(int(self._claimed[0]), self.handle.chunks)
        self._claimed[0] = held  # claims that found it full are forgotten: there may be room now
        chunks = max(size // chunk, held)
        self._segment.resize(_PAGE + chunk * chunks)
        self.handle = dataclasses.replace(self.handle, segment=self._segment.handle, chunks=chunks)
        self._full = False
        self._view()

    def adopt(self, places: np.ndarray, spare: int) -> None:
        """Go on with another index, which has the places of all images, and leave so much memory free."""
        self._places = places
        self.handle = dataclasses.replace(self.handle, spare=spare)

    def statistics(self) -> CacheStatistics:
        """Return what the cache holds now."""
        claimed = min(int(self._claimed[0]), self.handle.chunks)
        images = int(np.count_nonzero(self._places))
        return CacheStatistics(images, claimed * self.handle.chunk, int(self._claimed[0]) > self.handle.chunks)

    def close(self) -> None:
        """Give up this process's mapping."""
        del self._claimed, self.pixels, self._words
        self._segment.close()


def expected_bytes(count: int, pixels: float, channels: int) -> int:
    """Return what a cache needs for `count` images of `pixels` pixels in the mean."""
    return _PAGE + math.ceil(1.05 * count * (pixels * channels + 2 * _LINE)) + _LARGEST_CHUNK
