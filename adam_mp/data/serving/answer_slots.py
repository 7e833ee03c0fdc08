"""Answers of a data server for other machines, in memory that it shares with the processes that make the pictures.

A process writes an answer into a slot, and the server sends it from there, with no copy. The server alone decides who
has a slot, so the death of any process loses none.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from adam_mp.errors import SpaceError, refusal
from adam_mp.memory.segment import Segment, SegmentHandle, megabytes


@dataclasses.dataclass(frozen=True)
class SlotsHandle:
    """What a child needs to attach: the segment, how many slots it has and the bytes of each."""

    segment: SegmentHandle
    slots: int
    slot_bytes: int


class AnswerSlots:
    """`contents` uint8 [slots, bytes]; memory is taken as slots are written."""

    def __init__(self, segment: Segment, slots: int, slot_bytes: int) -> None:
        self._segment = segment
        self.handle = SlotsHandle(segment.handle, slots, slot_bytes)
        self.contents = segment.array(np.uint8, (slots, slot_bytes), 0)
        self._free = list(range(slots))
        self._backed = [0] * slots  # bytes of each slot that the system has given memory for

    @classmethod
    def create(cls, slots: int, slot_bytes: int, folder: Path | None = None) -> AnswerSlots:
        """Make the slots, owned by the caller, of memory or of disk in `folder`; raises SpaceError."""
        slot_bytes = -(-slot_bytes // 64) * 64
        return cls(Segment.create("answers", slots * slot_bytes, folder, reserved=1), slots, slot_bytes)

    @classmethod
    def attach(cls, handle: SlotsHandle) -> AnswerSlots:
        """Map the slots that the server made."""
        return cls(Segment.attach(handle.segment), handle.slots, handle.slot_bytes)

    def take(self, size: int) -> int:
        """Return a free slot with memory for `size` bytes; raises SpaceError where the system has none."""
        slot = self._free[-1]  # the one that was free last: its memory is there, and may still be in the cache
        if self._backed[slot] < size:
            try:
                os.posix_fallocate(self.handle.segment.descriptor, slot * self.handle.slot_bytes, size)
            except OSError as error:
                raise SpaceError(f"no room for {megabytes(size)} of pictures: {refusal(error)}") from None
            self._backed[slot] = size
        self._free.pop()
        return slot

    def give_back(self, slot: int) -> None:
        """Say that nobody reads or writes a slot any more."""
        self._free.append(slot)

    def close(self) -> None:
        """Give up this process's mapping."""
        del self.contents
        self._segment.close()
