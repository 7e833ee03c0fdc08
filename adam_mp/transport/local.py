"""Messages between two processes of one machine: the bytes stay where they are in shared memory, an offset goes over.

A channel has one sender and one receiver. The sender writes into a free slot and publishes it; the receiver reads it
where it lies and gives it back. A full channel says so at once. Either side may die at any moment: what was published
stays, a successor carries on.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from adam_mp.kernels.atomic import observe, publish
from adam_mp.memory.segment import Segment, SegmentHandle

_LINE = 8
_HEAD, _TAIL, _LOST = 0, _LINE, 2 * _LINE
_HEADER_BYTES = 3 * _LINE * 8


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
        self._words = segment.array(np.int64, (3 * _LINE,), offset)
        self._slots = segment.array(np.float32, (slots, numbers), offset + _HEADER_BYTES)

    @staticmethod
    def bytes_needed(slots: int, numbers: int) -> int:
        """Return the bytes a channel takes, a multiple of 64."""
        return _HEADER_BYTES + -(-4 * slots * numbers // 64) * 64

    @classmethod
    def attach(cls, handle: ChannelHandle, segment: Segment | None = None) -> LocalChannel:
        """Map a channel that the supervisor made; `segment`, if its memory is mapped here already."""
        return cls(segment or Segment.attach(handle.segment), handle.offset, handle.slots, handle.numbers)

    def reserve(self) -> np.ndarray | None:
        """Return the next slot, float32 [numbers], to write; None if the channel is full."""
        head = observe(self._words, _HEAD)
        if head - observe(self._words, _TAIL) >= len(self._slots):
            return None
        slot: np.ndarray = self._slots[int(head % len(self._slots))]
        return slot

    def publish(self) -> None:
        """Hand the reserved slot over."""
        publish(self._words, _HEAD, observe(self._words, _HEAD) + 1)

    def lose(self) -> None:
        """Note that something could not be sent because the channel was full."""
        publish(self._words, _LOST, observe(self._words, _LOST) + 1)

    @property
    def lost(self) -> int:
        """How often something could not be sent."""
        return int(observe(self._words, _LOST))

    @property
    def waiting(self) -> int:
        """How many slots are published and not yet consumed."""
        return int(observe(self._words, _HEAD) - observe(self._words, _TAIL))

    def peek(self, ahead: int) -> np.ndarray:
        """Return the slot that was published `ahead` after the oldest."""
        slot: np.ndarray = self._slots[int((observe(self._words, _TAIL) + ahead) % len(self._slots))]
        return slot

    def consume(self, count: int) -> None:
        """Give the oldest `count` slots back."""
        publish(self._words, _TAIL, observe(self._words, _TAIL) + count)
