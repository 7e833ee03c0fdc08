"""Slots for the answers of a data server for other machines, in memory that it shares with its picture makers.

A picture maker writes an answer into a slot, and the data server sends it from there, with no copy. The data server
alone decides which picture maker has which slot, so the death of a picture maker loses no slot.
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
    """What a child needs to attach: the segment, the number of slots, and the bytes of each."""

    segment: SegmentHandle
    slots: int
    slot_bytes: int


class AnswerSlots:
    """The slots, `contents` uint8 [slots, bytes]. The system gives a slot memory when it is first taken for that size.

    Only the data server calls `create`, `take` and `give_back`. A picture maker writes the slots that its tasks name.
    """

    def __init__(self, segment: Segment, slots: int, slot_bytes: int) -> None:
        self._segment = segment
        self.handle = SlotsHandle(segment.handle, slots, slot_bytes)
        self.contents = segment.array(np.uint8, (slots, slot_bytes), 0)
        self._free = list(range(slots))
        self._backed = [0] * slots  # bytes of each slot for which the system has given memory

    @classmethod
    def create(cls, slots: int, slot_bytes: int, folder: Path | None = None) -> AnswerSlots:
        """Make the slots, in memory or in a deleted file in `folder`; the caller owns them.

        Raises SpaceError if there is no room for all of them.
        """
        slot_bytes = -(-slot_bytes // 64) * 64
        return cls(Segment.create("answers", slots * slot_bytes, folder, reserved=1), slots, slot_bytes)

    @classmethod
    def attach(cls, handle: SlotsHandle) -> AnswerSlots:
        """Map the slots that the data server made."""
        return cls(Segment.attach(handle.segment), handle.slots, handle.slot_bytes)

    def take(self, size: int) -> int:
        """Take a free slot with memory for `size` bytes; return its index. Raises SpaceError if memory is used up."""
        slot = self._free[-1]  # given back last, so it has memory already, perhaps still in the processor's cache
        if self._backed[slot] < size:
            try:
                os.posix_fallocate(self.handle.segment.descriptor, slot * self.handle.slot_bytes, size)
            except OSError as error:
                raise SpaceError(f"no room for {megabytes(size)} of pictures: {refusal(error)}") from None
            self._backed[slot] = size
        self._free.pop()
        return slot

    def give_back(self, slot: int) -> None:
        """Free a slot; no process may read or write it any more."""
        self._free.append(slot)

    def close(self) -> None:
        """Give up this process's mapping."""
        del self.contents
        self._segment.close()
