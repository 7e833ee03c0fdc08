"""What the control groups of this process grant it: processor time and memory.

A container, a batch system or a service manager puts a process into a control group, and limits the group or one above
it. `/proc/self/cgroup` names the process's groups, `/proc/self/mountinfo` says where they are seen as folders. There
are two versions: in the first each controller (`cpu`, `memory`) may have a hierarchy of its own, in the second all have
one; a machine may have both at once. A limit holds for all groups below it, so each group from the process's own up to
the mount counts, and the smallest limit wins.

All functions read files below `root`, so that a test can write a tree of such files. What cannot be read limits
nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_ROOT = Path("/")
_NO_LIMIT = 1 << 60  # bytes; version 1 writes a number beyond this where there is no limit
_PERIOD = 100_000  # microseconds, the kernel's own default
_ESCAPED = re.compile(r"\\([0-7]{3})")  # how mountinfo writes blanks and the like
# Lines of memory.stat, in bytes: memory of the group that the kernel frees when somebody needs it. Those of version 1
# that begin with total_ count the groups below too, those of version 2 always do.
_RECLAIMABLE_1 = ("total_inactive_file", "total_active_file")
_RECLAIMABLE_2 = ("inactive_file", "active_file", "slab_reclaimable")


@dataclasses.dataclass(frozen=True)
class Quota:
    """Processor time that a group may use: so many `cores`; `source` is the file that says so."""

    cores: float
    source: str


@dataclasses.dataclass(frozen=True)
class MemoryLimit:
    """Memory that a group may use, in bytes; `source` is the file that says so.

    `used` is what the group uses now, without what the kernel would free if somebody needed it.
    """

    limit: int
    used: int
    source: str

    @property
    def free(self) -> int:
        """The bytes that processes of the group can still take."""
        return max(0, self.limit - self.used)


class Kills(NamedTuple):
    """How many processes the kernel has killed for want of memory so far; None where it does not tell.

    `own` are those of this process's own groups, `machine` those of the whole machine.
    """

    own: int | None
    machine: int | None


def cpu_quota(root: Path = _ROOT) -> Quota | None:
    """Return the smallest quota of processor time over this process's groups; None if there is none."""
    quotas = [quota for version, folder in _own_folders("cpu", root) if (quota := _quota_of(version, folder, root))]
    return min(quotas, key=lambda quota: quota.cores, default=None)


def memory_limits(root: Path = _ROOT) -> list[MemoryLimit]:
    """Return the memory limits of this process's groups; none if no group has one."""
    return [limit for version, folder in _own_folders("memory", root) for limit in _limits_of(version, folder, root)]


def memory_kills(root: Path = _ROOT) -> Kills:
    """Return how many processes the kernel has killed for want of memory so far."""
    own = []
    for version, folder in _own_folders("memory", root):
        file = folder / ("memory.oom_control" if version == 1 else "memory.events")
        own += [count for name, count in _table(file) if name == "oom_kill"]
    machine = [count for name, count in _table(root / "proc/vmstat") if name == "oom_kill"]
    return Kills(sum(own) if own else None, machine[0] if machine else None)


def killed_since(before: Kills, now: Kills) -> bool | None:
    """Tell whether the kernel killed a process of this one's groups between two counts; None if it perhaps did."""
    if before.own is not None and now.own is not None and now.own > before.own:
        return True
    if before.machine is None or now.machine is None:
        return None if before.own is None or now.own is None else False
    return None if now.machine > before.machine else False  # a process of other groups, or one moved to another group


def _quota_of(version: int, folder: Path, root: Path) -> Quota | None:
    file = folder / ("cpu.cfs_quota_us" if version == 1 else "cpu.max")
    words = _text(file).split()
    period = _text(folder / "cpu.cfs_period_us").split() if version == 1 else words[1:]
    try:
        quota, length = int(words[0]), int(period[0]) if period else _PERIOD
    except (IndexError, ValueError):  # no such file, or "max"
        return None
    return Quota(quota / length, _shown(file, root)) if quota > 0 and length > 0 else None  # version 1: -1 is no quota


def _limits_of(version: int, folder: Path, root: Path) -> Iterator[MemoryLimit]:
    names = ("memory.limit_in_bytes",) if version == 1 else ("memory.max", "memory.high")  # beyond high: reclaim alone
    used: int | None = None
    for name in names:
        limit = _number(folder / name)
        if limit is None or not 0 < limit < _NO_LIMIT:
            continue
        if used is None:
            used = _used_in(version, folder)
        yield MemoryLimit(limit, used, _shown(folder / name, root))


def _used_in(version: int, folder: Path) -> int:
    used = _number(folder / ("memory.usage_in_bytes" if version == 1 else "memory.current")) or 0
    names = _RECLAIMABLE_1 if version == 1 else _RECLAIMABLE_2
    return max(0, used - sum(size for name, size in _table(folder / "memory.stat") if name in names))


def _own_folders(controller: str, root: Path) -> list[tuple[int, Path]]:
    """Return (version, folder) of this process's groups that may limit `controller`, and of all groups above them."""
    return _folders(controller, _text(root / "proc/self/cgroup"), _text(root / "proc/self/mountinfo"), root)


@functools.lru_cache(maxsize=4)
def _folders(controller: str, groups: str, mounted: str, root: Path) -> list[tuple[int, Path]]:
    own = dict(_own_groups(controller, groups))
    mounts = [(version, top, mount) for version, top, mount in _mounts(controller, mounted, root) if version in own]
    found: dict[Path, int] = {}
    for version, path in own.items():
        seen = [(path.relative_to(top), mount) for kind, top, mount in mounts if kind == version and _is_in(path, top)]
        # If no mount shows the own group, the top of a mount is as near as this process can look.
        for inside, mount in seen or [(PurePosixPath(), mount) for kind, _, mount in mounts if kind == version]:
            for part in (inside, *inside.parents):
                found.setdefault(mount / part, version)
    return [(version, folder) for folder, version in found.items()]


def _is_in(path: PurePosixPath, top: PurePosixPath) -> bool:
    return path.is_relative_to(top) and ".." not in path.relative_to(top).parts


def _own_groups(controller: str, groups: str) -> Iterator[tuple[int, PurePosixPath]]:
    """Yield (version, path in its hierarchy) of this process's groups that may limit `controller`."""
    for line in groups.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, PurePosixPath(path)
        elif controller in controllers.split(","):
            yield 1, PurePosixPath(path)


def _mounts(controller: str, mounted: str, root: Path) -> Iterator[tuple[int, PurePosixPath, Path]]:
    """Yield (version, group that is the mount's top, folder) of the mounted hierarchies with `controller`.

    A line of mountinfo is: number, parent, device, top, folder, options, perhaps more, "-", kind, source, options.
    """
    for line in mounted.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if not separator or len(fields) < 5 or len(kinds) < 3 or kinds[0] not in ("cgroup", "cgroup2"):
            continue
        version = 1 if kinds[0] == "cgroup" else 2
        if version == 2 or controller in kinds[2].split(","):
            top, folder = (_ESCAPED.sub(lambda match: chr(int(match[1], 8)), field) for field in fields[3:5])
            yield version, PurePosixPath(top), root / folder.lstrip("/")


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _number(file: Path) -> int | None:
    try:
        return int(_text(file))
    except ValueError:  # no such file, or "max"
        return None


def _table(file: Path) -> Iterator[tuple[str, int]]:
    """Yield the (name, number) lines of a file."""
    for line in _text(file).splitlines():
        name, _, value = line.partition(" ")
        if value.isdecimal():
            yield name, int(value)


def _shown(file: Path, root: Path) -> str:
    """Return the path of `file` as the process sees it."""
    return f"/{file.relative_to(root)}"
