"""Messages between two processes of one machine: the bytes stay where they are in shared memory, an offset goes over.

A channel has one sender and one receiver. The sender writes into a free slot and publishes it; the receiver reads it
where it lies and gives it back, as in a ring of batches (`memory.slots`). A full channel says so at once. Either side
may die at any moment: what was published stays, a successor carries on.

It is no `Endpoint`: a slot is an array of numbers that its sender writes in place, not a message that somebody answers.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from adam_mp.memory.segment import Segment, SegmentHandle
from adam_mp.memory.slots import WORDS_BYTES, SlotWords


@dataclasses.dataclass(frozen=True)
class ChannelHandle:
    """What a process needs to attach: the segment, where the channel begins in it, slots and numbers a slot."""

    segment: SegmentHandle
    offset: int
    slots: int
    numbers: int


class LocalChannel:
    """A queue of `slots` float32 arrays of up to `numbers` numbers; zeroed memory is an empty one.

    The sender calls `reserve`, `publish` and `lose`; one other process `waiting`, `peek`, `consume` and `lost`.
    """

    def __init__(self, segment: Segment, offset: int, slots: int, numbers: int) -> None:
        self.handle = ChannelHandle(segment.handle, offset, slots, numbers)
        self._words = SlotWords(segment, offset, slots)
        self._slots = segment.array(np.float32, (slots, numbers), offset + WORDS_BYTES)

    @staticmethod
    def bytes_needed(slots: int, numbers: int) -> int:
        """Return the bytes a channel takes, a multiple of 64."""
        return WORDS_BYTES + -(-4 * slots * numbers // 64) * 64

    @classmethod
    def attach(cls, handle: ChannelHandle, segment: Segment | None = None) -> LocalChannel:
        """Map a channel that the supervisor made; `segment`, if its memory is mapped here already."""
        return cls(segment or Segment.attach(handle.segment), handle.offset, handle.slots, handle.numbers)

    def reserve(self) -> np.ndarray | None:
        """Return the next slot, float32 [numbers], to write; None if the channel is full."""
        free = self._words.free()
        return None if free is None else self._slots[free]

    def publish(self) -> None:
        """Hand the reserved slot over."""
        self._words.publish()

    def lose(self) -> None:
        """Note that something could not be sent because the channel was full."""
        self._words.extra += 1

    @property
    def lost(self) -> int:
        """How often something could not be sent."""
        return self._words.extra

    @property
    def waiting(self) -> int:
        """How many slots are published and not yet consumed."""
        published, consumed = self._words.counts()
        return published - consumed

    def peek(self, ahead: int) -> np.ndarray:
        """Return the slot that was published `ahead` after the oldest."""
        slot: np.ndarray = self._slots[self._words.at(ahead)]
        return slot

    def consume(self, count: int) -> None:
        """Give the oldest `count` slots back."""
        self._words.consume(count)
