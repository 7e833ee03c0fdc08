"""A queue of batches in shared memory, from one data server (the producer) to one worker (the consumer).

The producer writes a batch into a slot and then publishes the slot. The consumer uses the batch where it is, with no
copy, and then gives the slot back (`slots`). Either process may die at any moment. Nothing here waits: `reserve` and
`peek` return None at once, and callers wait by `memory.waiting`.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from adam_mp.memory.segment import Segment
from adam_mp.memory.slots import LINE, WORDS_BYTES, SlotWords

NO_PRODUCER = -1
_TAG_BYTES = LINE * 8


@dataclasses.dataclass(frozen=True)
class RingShape:
    """The size of a ring: `slots` slots, each for up to `batch` pictures of shape `image` (height, width, channels)."""

    slots: int
    batch: int
    image: tuple[int, ...]

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot: the tag's cache line, labels, pictures; each part is 64-byte aligned."""
        return _TAG_BYTES + _line_up(4 * self.batch) + _line_up(4 * self.batch * int(np.prod(self.image)))

    @property
    def bytes(self) -> int:
        """Bytes of the ring."""
        return WORDS_BYTES + self.slots * self.slot_bytes


class Tag(NamedTuple):
    """What a slot holds: its first `images` pictures are batch `batch` of `epoch`.

    `server` is the process number of the data server that made them.
    """

    epoch: int
    batch: int
    images: int
    server: int


_TAG_WORDS = len(Tag._fields)


@dataclasses.dataclass(frozen=True)
class Slot:
    """Room for a batch of b pictures.

    `words` are int64 [7] and begin with the tag, `labels` int32 [b], `images` float32 [b, h, w, c]. `mixed`, float64
    [1] in the eighth word, is the share that each image and label has of its partner's (`data.mixing`). The producer
    writes all of it before it publishes the slot, and the consumer reads it after that and changes nothing.
    """

    words: np.ndarray
    mixed: np.ndarray
    labels: np.ndarray
    images: np.ndarray

    def write_tag(self, tag: Tag) -> None:
        """Note what the slot holds."""
        self.words[:_TAG_WORDS] = tag

    def read_tag(self) -> Tag:
        """Return what the slot holds."""
        return Tag._make(self.words[:_TAG_WORDS].tolist())


def slot_at(segment: Segment, offset: int, shape: RingShape) -> Slot:
    """Return the slot at `offset` bytes of a segment, of a ring of this shape."""
    labels = offset + _TAG_BYTES
    images = labels + _line_up(4 * shape.batch)
    return Slot(
        segment.array(np.int64, (LINE - 1,), offset),
        segment.array(np.float64, (1,), offset + 8 * (LINE - 1)),
        segment.array(np.int32, (shape.batch,), labels),
        segment.array(np.float32, (shape.batch, *shape.image), images),
    )


@dataclasses.dataclass(frozen=True)
class RingStatistics:
    """A ring's counters: batches published and consumed since the start."""

    published: int
    consumed: int

    @property
    def waiting(self) -> int:
        """Batches published and not yet consumed."""
        return self.published - self.consumed


class Ring:
    """A view of a ring at `offset` bytes of a segment; zeroed memory is an empty ring.

    The data server that fills the ring calls `reserve` and `publish`; the worker that empties it calls `peek`,
    `published` and `consume`. The supervisor alone sets `producer`. Any process may call the rest.
    """

    def __init__(self, segment: Segment, offset: int, shape: RingShape) -> None:
        self.shape = shape
        self._words = SlotWords(segment, offset, shape.slots)
        self._slots = [
            slot_at(segment, offset + WORDS_BYTES + index * shape.slot_bytes, shape) for index in range(shape.slots)
        ]

    @property
    def slots(self) -> list[Slot]:
        """All slots: a worker makes its views of them once, at its start."""
        return self._slots

    def reserve(self) -> Slot | None:
        """Return the next free slot to write, or None when the ring is full. Producer only."""
        free = self._words.free()
        return None if free is None else self._slots[free]

    def publish(self) -> None:
        """Hand the slot that `reserve` returned to the consumer. Producer only."""
        self._words.publish()

    def peek(self) -> int | None:
        """Return the index of the oldest published slot, or None when the ring is empty. Consumer only."""
        return self._words.oldest()

    def published(self) -> list[int]:
        """Return the indices of all published slots, the oldest first. Consumer only."""
        head, tail = self._words.counts()
        return [place % self.shape.slots for place in range(tail, head)]

    @property
    def full(self) -> bool:
        """Whether no slot is free."""
        return self.statistics().waiting >= self.shape.slots

    def consume(self) -> None:
        """Give the slot that `peek` names back to the producer. Consumer only."""
        self._words.consume()

    @property
    def producer(self) -> int:
        """The process number of the data server that fills the ring, or NO_PRODUCER.

        The supervisor sets it, and only while the data server that filled the ring before is not alive.
        """
        return self._words.extra

    @producer.setter
    def producer(self, process: int) -> None:
        self._words.extra = process

    def statistics(self) -> RingStatistics:
        """Return the ring's counters as of now."""
        return RingStatistics(*self._words.counts())


def _line_up(size: int) -> int:
    return -(-size // 64) * 64
