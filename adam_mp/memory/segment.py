"""A piece of shared memory without a name: the only module that knows how the operating system makes one.

The owner calls `create`; children get `descriptor` by inheritance and call `attach`. `live_segments` finds the segments
of all runs on this machine through the processes that hold them, and tells which have lost their supervisor.
"""

from __future__ import annotations

import dataclasses
import fcntl
import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import psutil

from adam_mp.errors import SpaceError, refusal
from adam_mp.machine import free_memory

_PREFIX = "adam_mp"
# What /proc/PID/fd shows of a segment: a memory file, or one that was made in a folder and deleted at once.
_LINK = re.compile(
    rf"/memfd:{_PREFIX}:(\d+):([a-z ]+) \(deleted\)|.*/{_PREFIX}-(\d+)-([a-z ]+)-[a-z0-9_]+ \(deleted\)", re.DOTALL
)
# Left to the rest of the machine: a run that takes the last page is the next one to be killed.
_RESERVE = 32 << 20


@dataclasses.dataclass(frozen=True)
class SegmentHandle:
    """What a child needs to map a segment: an inherited file descriptor and its size in bytes."""

    descriptor: int
    size: int


class Segment:
    """Shared memory of `size` bytes, zeroed at first, mapped into this process.

    Any process that holds it may read and write anywhere. The owner's `close` and every child's end give the memory
    back.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self.handle = SegmentHandle(descriptor, size)
        self._map = mmap.mmap(descriptor, size)

    @classmethod
    def create(cls, purpose: str, size: int, folder: Path | None = None, reserved: int | None = None) -> Segment:
        """Take `size` bytes of memory, or of a deleted file in `folder`; raises SpaceError if there is no room.

        With `reserved`, only that much at its beginning: who writes behind that has to allocate the part first.
        """
        size = max(mmap.PAGESIZE, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        check_space(size, purpose, folder)
        descriptor = -1
        try:
            descriptor = _open_anonymous(f"{_PREFIX}:{os.getpid()}:{purpose}", folder)
            os.ftruncate(descriptor, size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size if reserved is None else reserved)
            return cls(descriptor, size)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            raise SpaceError(f"no room for {megabytes(size)} of {purpose}: {refusal(error)}") from None

    @classmethod
    def attach(cls, handle: SegmentHandle) -> Segment:
        """Map a segment whose descriptor this process inherited."""
        return cls(handle.descriptor, handle.size)

    def array(self, dtype: type | np.dtype, shape: tuple[int, ...], offset: int) -> np.ndarray:
        """Return a view of the segment as an array; `offset` in bytes."""
        return np.ndarray(shape, dtype, buffer=self._map, offset=offset)

    def resize(self, size: int) -> None:
        """Make it longer or shorter, with no memory behind what is new. Raises SpaceError if the system refuses.

        For its owner, while no other process maps it; arrays of before have to be made anew.
        """
        size = max(mmap.PAGESIZE, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        try:
            os.ftruncate(self.handle.descriptor, size)
            self._map = mmap.mmap(self.handle.descriptor, size)  # the old map goes with the last array of it
        except OSError as error:
            raise SpaceError(f"cannot resize a segment to {megabytes(size)}: {refusal(error)}") from None
        self.handle = SegmentHandle(self.handle.descriptor, size)

    def close(self) -> None:
        """Give up the mapping and the descriptor. Arrays that still view the segment keep its memory until they go."""
        try:
            self._map.close()
        except BufferError:
            pass  # an array still views it; the map goes with the last of them
        if self.handle.descriptor >= 0:
            os.close(self.handle.descriptor)
            self.handle = SegmentHandle(-1, self.handle.size)


def check_space(
    size: int, purpose: str, folder: Path | None = None, parts: Mapping[str, int] | None = None
) -> None:  # fmt: skip
    """Raise SpaceError, which names the large ones of its `parts`, unless `size` bytes can be taken now.

    They are taken in memory, or in `folder`.
    """
    free = free_space(folder)
    if folder is None:
        place, advice = "memory", "use a smaller network, batch or data set, fewer --cores, or --memory-dir"
    else:
        place, advice = f"folder {folder}", "name a folder with more room"
    if size + _RESERVE > free:
        needs = f"{megabytes(size)}{_named(parts or {}, size)}"
        raise SpaceError(f"{purpose} needs {needs}, but {place} has {megabytes(free)} free; {advice}")


def _named(parts: Mapping[str, int], size: int) -> str:
    """Return the parts of `size` in brackets, the largest first, those below a fiftieth as one."""
    large = {name: part for name, part in parts.items() if part >= size / 50}
    if len(large) < 2:
        return ""
    texts = [f"{name} {megabytes(large[name])}" for name in sorted(large, key=lambda name: -large[name])]
    rest = size - sum(large.values())
    return f" ({', '.join(texts)}{f', the rest {megabytes(rest)}' if rest else ''})"


def free_space(folder: Path | None) -> int:
    """Return the bytes that are free in memory, or on the disk of `folder`; raises SpaceError if it is none."""
    if folder is None:
        return free_memory()
    try:
        return shutil.disk_usage(folder).free
    except OSError as error:
        raise SpaceError(f"cannot use folder {folder} for shared memory: {refusal(error)}") from None


def megabytes(size: float) -> str:
    """Say `size` bytes in MB."""
    return f"{size / 1e6:,.1f} MB" if size < 1e7 else f"{size / 1e6:,.0f} MB"


def _open_anonymous(name: str, folder: Path | None) -> int:
    if folder is None and hasattr(os, "memfd_create"):
        return _beyond_standard_streams(os.memfd_create(name))
    try:
        descriptor, path = tempfile.mkstemp(prefix=name.replace(":", "-") + "-", dir=folder)
    except OSError as error:
        raise SpaceError(f"cannot make a file for shared memory in {folder}: {refusal(error)}") from None
    os.unlink(path)
    return _beyond_standard_streams(descriptor)


def _beyond_standard_streams(descriptor: int) -> int:
    """Move a descriptor that took the place of a closed standard stream: a child's streams would cover it."""
    if descriptor > 2:
        return descriptor
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


@dataclasses.dataclass(frozen=True)
class LiveSegment:
    """A segment that some process of this machine holds: what for, which supervisor made it, who holds it now.

    `user` is whose file it is; `stale` tells whether its supervisor is gone while others still hold it. Names are not
    proof: any process can make a file that is called so, and give it to any other.
    """

    purpose: str
    owner: int
    size: int
    user: int
    holders: tuple[int, ...]
    stale: bool


def live_segments() -> list[LiveSegment]:
    """Find all segments on this machine that this user may see; empty where there is no /proc."""
    found: dict[tuple[int, int], tuple[int, str, os.stat_result, set[int]]] = {}
    for process in psutil.pids():
        try:
            for link in Path(f"/proc/{process}/fd").iterdir():
                match = _LINK.fullmatch(os.readlink(link))
                if match:
                    status = link.stat()
                    entry = (int(match[1] or match[3]), match[2] or match[4], status, set[int]())
                    found.setdefault((status.st_dev, status.st_ino), entry)[3].add(process)
        except OSError:
            continue  # it ended meanwhile, or belongs to someone else
    return [
        LiveSegment(
            purpose, owner, status.st_size, status.st_uid, tuple(sorted(who)), owner not in map(_own_number, who)
        )
        for owner, purpose, status, who in found.values()
    ]  # fmt: skip


def _own_number(process: int) -> int:
    """Return the number by which a process knows itself: in a container that is another one than from outside."""
    try:
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    except OSError:
        pass  # it ended meanwhile
    return process
