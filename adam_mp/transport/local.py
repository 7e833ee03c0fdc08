"""A channel: a queue of float32 arrays in shared memory, from one process (the sender) to another (the receiver).

The sender writes an array into a free slot and publishes the slot. The receiver reads the array where it is, with no
copy, and gives the slot back, as in a ring of batches (`memory.slots`). When no slot is free, `reserve` returns None at
once. Either process may die at any moment: published slots stay, and a successor goes on.

A channel is not an `Endpoint`: it carries arrays that the sender writes in place, and no messages that a peer answers.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from adam_mp.memory.segment import Segment, SegmentHandle
from adam_mp.memory.slots import WORDS_BYTES, SlotWords


@dataclasses.dataclass(frozen=True)
class ChannelHandle:
    """What a process needs to attach: the segment, the channel's offset in bytes, its slots, float32 values a slot."""

    segment: SegmentHandle
    offset: int
    slots: int
    numbers: int


class LocalChannel:
    """A channel of `slots` slots, each of `numbers` float32 values; zeroed memory is an empty channel.

    The sender calls `reserve`, `publish` and `lose`; the receiver calls `peek` and `consume`. Both may read `waiting`
    and `lost`.
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
        """Map a channel that the supervisor made; give `segment` if this process has mapped it already."""
        return cls(segment or Segment.attach(handle.segment), handle.offset, handle.slots, handle.numbers)

    def reserve(self) -> np.ndarray | None:
        """Return the next free slot to write, float32 [numbers]; None if the channel is full. Sender only."""
        free = self._words.free()
        return None if free is None else self._slots[free]

    def publish(self) -> None:
        """Hand the slot that `reserve` returned to the receiver. Sender only."""
        self._words.publish()

    def lose(self) -> None:
        """Count an array that the sender dropped because the channel was full. Sender only."""
        self._words.extra += 1

    @property
    def lost(self) -> int:
        """How many arrays the sender dropped because the channel was full."""
        return self._words.extra

    @property
    def waiting(self) -> int:
        """How many slots are published and not yet consumed."""
        published, consumed = self._words.counts()
        return published - consumed

    def peek(self, ahead: int) -> np.ndarray:
        """Return the slot that was published `ahead` slots after the oldest, float32 [numbers]. Receiver only."""
        slot: np.ndarray = self._slots[self._words.at(ahead)]
        return slot

    def consume(self, count: int) -> None:
        """Give the oldest `count` slots back to the sender. Receiver only."""
        self._words.consume(count)
