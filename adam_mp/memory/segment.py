"""A piece of shared memory without a name: the only module that knows how the operating system makes one.

The owner calls `create`. Its children inherit the open file and call `attach` with the owner's `handle`.
`live_segments` finds the segments of all runs on this machine through the processes that hold them, and says which of
them have lost their supervisor.
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
from adam_mp.machine import free_memory, lies_in_memory

_PREFIX = "adam_mp"
# How /proc/PID/fd shows a segment: as a memory file, or as a deleted file of a folder (--memory-dir).
_LINK = re.compile(
    rf"/memfd:{_PREFIX}:(\d+):([a-z ]+) \(deleted\)|.*/{_PREFIX}-(\d+)-([a-z ]+)-[a-z0-9_]+ \(deleted\)", re.DOTALL
)
# Bytes left to the rest of the machine: when memory is used up, the kernel kills large processes such as a run's.
_RESERVE = 32 << 20


@dataclasses.dataclass(frozen=True)
class SegmentHandle:
    """What a child needs to map a segment: an inherited file descriptor and its size in bytes."""

    descriptor: int
    size: int


class Segment:
    """Shared memory, zeroed at first, mapped into this process.

    Any process that has mapped it may read and write anywhere. The kernel takes the memory back once the owner has
    called `close` and every child that mapped it has ended.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self.handle = SegmentHandle(descriptor, size)
        self._map = mmap.mmap(descriptor, size)

    @classmethod
    def create(cls, purpose: str, size: int, folder: Path | None = None, reserved: int | None = None) -> Segment:
        """Make a segment of `size` bytes, in memory or in a deleted file in `folder`.

        All of the space is taken now; with `reserved`, only the first `reserved` bytes are. Then a process must call
        `os.posix_fallocate` on the segment's descriptor before it writes behind them. Raises SpaceError if there is no
        room.
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
        """Make the segment longer or shorter; a new part has no memory behind it yet, as after `create(reserved=...)`.

        Only its owner may call this, while no other process maps the segment. Arrays made before keep the old mapping:
        make them anew. Raises SpaceError if the system refuses.
        """
        size = max(mmap.PAGESIZE, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        try:
            os.ftruncate(self.handle.descriptor, size)
            self._map = mmap.mmap(self.handle.descriptor, size)  # the old map is freed with the last array on it
        except OSError as error:
            raise SpaceError(f"cannot resize a segment to {megabytes(size)}: {refusal(error)}") from None
        self.handle = SegmentHandle(self.handle.descriptor, size)

    def release(self, begin: int, end: int) -> bool:
        """Give the memory of bytes `begin` to `end`, multiples of a page, back to the system; they are zeroed then.

        Processes that map the segment may go on. Returns whether the system did it: not every file system can.
        """
        try:
            self._map.madvise(mmap.MADV_REMOVE, begin, end - begin)
        except (AttributeError, OSError):  # AttributeError: not Linux
            return False
        return True

    def close(self) -> None:
        """Give up the mapping and the descriptor. Arrays that still view the segment keep its memory."""
        try:
            self._map.close()
        except BufferError:
            pass  # an array still views the map, which is freed with the last such array
        if self.handle.descriptor >= 0:
            os.close(self.handle.descriptor)
            self.handle = SegmentHandle(-1, self.handle.size)


def check_space(
    size: int, purpose: str, folder: Path | None = None, parts: Mapping[str, int] | None = None
) -> None:  # fmt: skip
    """Raise SpaceError unless memory, or the disk of `folder`, has `size` bytes free now.

    `purpose` names the use of the bytes in the message. `parts` (name -> bytes) says what they consist of: the message
    lists the large ones.
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
    """Return the parts of `size` in brackets, the largest first; "" unless two or more are a fiftieth of it or larger.

    Smaller parts are summed up as the rest.
    """
    large = {name: part for name, part in parts.items() if part >= size / 50}
    if len(large) < 2:
        return ""
    texts = [f"{name} {megabytes(large[name])}" for name in sorted(large, key=lambda name: -large[name])]
    rest = size - sum(large.values())
    return f" ({', '.join(texts)}{f', the rest {megabytes(rest)}' if rest else ''})"


def free_space(folder: Path | None) -> int:
    """Return the free bytes of memory, or of the disk of `folder`; raises SpaceError if `folder` cannot be used."""
    if folder is None:
        return free_memory()
    try:
        free = shutil.disk_usage(folder).free
        return min(free, free_memory()) if lies_in_memory(folder) else free
    except OSError as error:
        raise SpaceError(f"cannot use folder {folder} for shared memory: {refusal(error)}") from None


def megabytes(size: float) -> str:
    """Return `size` bytes as a text in MB."""
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
    """Return the same open file under a descriptor of 3 or more.

    If this process has a standard stream closed, a new file gets that number. A child would put its own standard
    stream there, and lose the segment.
    """
    if descriptor > 2:
        return descriptor
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


@dataclasses.dataclass(frozen=True)
class LiveSegment:
    """A segment that some process of this machine holds.

    `purpose` is what it is for, `owner` the process id of the supervisor that made it, `size` its bytes, `user` the id
    of the user who owns the file, `holders` the process ids that hold it now. `stale` says that the supervisor is not
    among the holders: it has ended. Purpose and owner come from the file's name, which is no proof: any process can
    make a file of such a name and pass it to another process.
    """

    purpose: str
    owner: int
    size: int
    user: int
    holders: tuple[int, ...]
    stale: bool


def live_segments() -> list[LiveSegment]:
    """Return all segments on this machine that this user may see; none where there is no /proc."""
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
            continue  # the process ended meanwhile, or belongs to another user
    return [
        LiveSegment(
            purpose, owner, status.st_size, status.st_uid, tuple(sorted(who)), owner not in map(_own_number, who)
        )
        for owner, purpose, status, who in found.values()
    ]  # fmt: skip


def _own_number(process: int) -> int:
    """Return a process's id as the process itself sees it; in a container it differs from the id seen from outside."""
    try:
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    except OSError:
        pass  # the process ended meanwhile
    return process
