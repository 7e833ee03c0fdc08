"""One shared-memory segment with a header and flat, 64-byte-aligned float32 spaces of one layout.

The header describes the segment: magic number, version, the layout's digest, the owner's process id, and how many
values and spaces there are. `attach` refuses a handle with another layout or version before the process can write
anywhere.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from adam_mp.errors import ProcessError
from adam_mp.memory.layout import Layout
from adam_mp.memory.segment import Segment, SegmentHandle

_MAGIC = 0x6164616D_61726E61  # "adamarna"
_VERSION = 1
_HEADER_WORDS = 8
_COUNTER_WORDS = 64  # shared int64 words after the header, for the arena's users
_FIELDS = ("magic", "version", "layout", "owner", "numbers", "spaces")


@dataclasses.dataclass(frozen=True)
class ArenaHandle:
    """What a child needs to attach to an arena."""

    segment: SegmentHandle
    layout: Layout
    spaces: int


class Arena:
    """Flat float32 spaces of one layout, and 64 int64 counters, in one segment.

    `spaces` are the spaces, each an array [layout.size]. `counters` are int64 [64]; processes read and write them by
    `kernels.atomic`. Any process may read and write all of it at any time. Only accesses to the counters are ordered
    between processes.
    """

    def __init__(self, segment: Segment, layout: Layout, spaces: int) -> None:
        self.segment = segment
        self.layout = layout
        self.header = segment.array(np.int64, (_HEADER_WORDS,), 0)
        self.counters = segment.array(np.int64, (_COUNTER_WORDS,), 8 * _HEADER_WORDS)
        start = 8 * (_HEADER_WORDS + _COUNTER_WORDS)
        self.spaces = [
            segment.array(np.float32, (layout.size,), start + 4 * layout.size * index) for index in range(spaces)
        ]

    @staticmethod
    def bytes_needed(layout: Layout, spaces: int) -> int:
        """Return the bytes an arena takes."""
        return 8 * (_HEADER_WORDS + _COUNTER_WORDS) + 4 * layout.size * spaces

    @classmethod
    def create(cls, purpose: str, layout: Layout, spaces: int, folder: Path | None = None) -> Arena:
        """Make a zeroed arena; the calling process owns it. Raises SpaceError if there is no room."""
        arena = cls(Segment.create(purpose, cls.bytes_needed(layout, spaces), folder), layout, spaces)
        arena.header[: len(_FIELDS)] = (_MAGIC, _VERSION, layout.digest, os.getpid(), layout.size, spaces)
        return arena

    @classmethod
    def attach(cls, handle: ArenaHandle) -> Arena:
        """Map an arena that the supervisor made; raises ProcessError if its header differs from the handle."""
        arena = cls(Segment.attach(handle.segment), handle.layout, handle.spaces)
        expected = {
            "magic": _MAGIC, "version": _VERSION, "layout": handle.layout.digest,
            "numbers": handle.layout.size, "spaces": handle.spaces,
        }  # fmt: skip
        found = dict(zip(_FIELDS, arena.header.tolist(), strict=False))
        for field, value in expected.items():
            if found[field] != value:
                raise ProcessError(f"arena has {field} {found[field]:#x}, expected {value:#x}")
        return arena

    @property
    def handle(self) -> ArenaHandle:
        """What to send to a child, which must also inherit the segment's descriptor."""
        return ArenaHandle(self.segment.handle, self.layout, len(self.spaces))

    def close(self) -> None:
        """Give up this process's mapping."""
        del self.header, self.counters, self.spaces
        self.segment.close()
