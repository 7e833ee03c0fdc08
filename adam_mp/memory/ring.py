"""A single-producer single-consumer queue of fixed batch slots in shared memory: data server to worker.

The producer writes a slot and then publishes the new head; the consumer uses the slot where it lies (no copy) and then
publishes the new tail. Head and tail only grow, each written by one side, each on its own cache line. Either side may
die at any moment: what was published stays valid, what was not never existed, a successor carries on from the words.
Nothing here waits; `reserve` and `peek` return None at once, and callers wait by `memory.waiting`.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from adam_mp.kernels.atomic import observe, publish
from adam_mp.memory.segment import Segment

_LINE = 8  # int64 words in a cache line
_HEAD, _TAIL, _PRODUCER = 0, _LINE, 2 * _LINE
_HEADER_BYTES = 3 * _LINE * 8
NO_PRODUCER = -1
_TAG_BYTES = _LINE * 8


@dataclasses.dataclass(frozen=True)
class RingShape:
    """The size of a ring: `slots` batches of up to `batch` images of `image` shape."""

    slots: int
    batch: int
    image: tuple[int, ...]

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot: a tag line, labels, images, each 64-byte aligned."""
        return _TAG_BYTES + _line_up(4 * self.batch) + _line_up(4 * self.batch * int(np.prod(self.image)))

    @property
    def bytes(self) -> int:
        """Bytes of the ring."""
        return _HEADER_BYTES + self.slots * self.slot_bytes


class Tag(NamedTuple):
    """What a slot holds: the first `images` pictures are batch `batch` of epoch `epoch`, made by process `server`."""

    epoch: int
    batch: int
    images: int
    server: int


_TAG_WORDS = len(Tag._fields)


@dataclasses.dataclass(frozen=True)
class Slot:
    """Room for a batch: `words` int64 [8], which begin with its tag, `labels` int32 [b], `images` float32 [b, h, w, c].

    The producer writes the tag before it publishes the slot; the consumer reads it after that.
    """

    words: np.ndarray
    labels: np.ndarray
    images: np.ndarray

    def write_tag(self, tag: Tag) -> None:
        """Say what the slot holds."""
        self.words[:_TAG_WORDS] = tag

    def read_tag(self) -> Tag:
        """Return what the slot holds."""
        return Tag._make(self.words[:_TAG_WORDS].tolist())


@dataclasses.dataclass(frozen=True)
class RingStatistics:
    """A ring's counters: batches published and consumed since the start, and how many wait in it now."""

    published: int
    consumed: int

    @property
    def waiting(self) -> int:
        """Batches published and not yet consumed."""
        return self.published - self.consumed


class Ring:
    """A view of a ring at `offset` bytes of a segment; zeroed memory is an empty ring.

    The producer calls `reserve` and `publish`, one other process `peek`, `published` and `consume`; all else is for
    anyone.
    """

    def __init__(self, segment: Segment, offset: int, shape: RingShape) -> None:
        self.shape = shape
        self._words = segment.array(np.int64, (3 * _LINE,), offset)
        self._slots = [
            self._slot(segment, offset + _HEADER_BYTES + index * shape.slot_bytes) for index in range(shape.slots)
        ]

    def _slot(self, segment: Segment, offset: int) -> Slot:
        labels = offset + _TAG_BYTES
        images = labels + _line_up(4 * self.shape.batch)
        return Slot(
            segment.array(np.int64, (_LINE,), offset),
            segment.array(np.int32, (self.shape.batch,), labels),
            segment.array(np.float32, (self.shape.batch, *self.shape.image), images),
        )

    @property
    def slots(self) -> list[Slot]:
        """All slots, for a worker that prepares its views of them once."""
        return self._slots

    def reserve(self) -> Slot | None:
        """Return the next free slot to write, or None when the ring is full. Producer only."""
        head = observe(self._words, _HEAD)
        if head - observe(self._words, _TAIL) >= self.shape.slots:
            return None
        return self._slots[int(head % self.shape.slots)]

    def publish(self) -> None:
        """Hand the reserved slot to the consumer. Producer only."""
        publish(self._words, _HEAD, observe(self._words, _HEAD) + 1)

    def peek(self) -> int | None:
        """Return the index of the oldest published slot, or None when the ring is empty. Consumer only."""
        tail = observe(self._words, _TAIL)
        if observe(self._words, _HEAD) == tail:
            return None
        return int(tail % self.shape.slots)

    def published(self) -> list[int]:
        """Return the indices of all published slots, the oldest first. Consumer only."""
        tail, head = int(observe(self._words, _TAIL)), int(observe(self._words, _HEAD))
        return [place % self.shape.slots for place in range(tail, head)]

    @property
    def full(self) -> bool:
        """Whether no slot is free."""
        return self.statistics().waiting >= self.shape.slots

    def consume(self) -> None:
        """Give the slot seen by `peek` back to the producer. Consumer only."""
        publish(self._words, _TAIL, observe(self._words, _TAIL) + 1)

    @property
    def producer(self) -> int:
        """Which process fills the ring, or NO_PRODUCER. Set by the supervisor alone, when that process is not alive."""
        return int(observe(self._words, _PRODUCER))

    @producer.setter
    def producer(self, process: int) -> None:
        publish(self._words, _PRODUCER, process)

    def statistics(self) -> RingStatistics:
        """Return the ring's counters as of now."""
        tail = int(observe(self._words, _TAIL))  # first, or it may be beyond the head by then
        return RingStatistics(int(observe(self._words, _HEAD)), tail)


def _line_up(size: int) -> int:
    return -(-size // 64) * 64
