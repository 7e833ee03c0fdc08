"""What this machine has: cores that this process may use, free memory, caches, NUMA nodes, thread counts.

Only this module asks the operating system about these. What this process may use is less than the machine has where its
control groups limit it. May import: `errors`, `control_groups`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import platform
import stat
from pathlib import Path

import psutil

from adam_mp import control_groups
from adam_mp.control_groups import MemoryLimit, Quota

# BLAS, OpenMP, numexpr and numba read these when they load. One thread each: adam_mp uses more cores by more processes.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "BLIS_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}
# glibc's M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD
_MALLOC_OPTIONS = ((-8, 1), (-3, 1 << 30), (-1, 1 << 30), (-2, 64 << 20))
_MOUNTS = Path("/proc/self/mountinfo")
_NODES = Path("/sys/devices/system/node")
_L2 = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")


def allowed_cores() -> list[int]:
    """Return the numbers of the cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cpu_quota() -> Quota | None:
    """Return how much processor time this process's control groups grant; None if they set no limit."""
    return control_groups.cpu_quota()


def usable_cores() -> int:
    """Return how many cores a run uses by default: as many as are allowed, and the quota at most; at least 1."""
    quota = cpu_quota()
    count = len(allowed_cores())
    return count if quota is None else max(1, min(count, math.ceil(quota.cores)))


def free_memory() -> int:
    """Return the bytes that this process can take now without swapping, and within the limits of its control groups."""
    free = int(psutil.virtual_memory().available)
    return min([free, *(limit.free for limit in control_groups.memory_limits())])


def memory_limit() -> MemoryLimit | None:
    """Return the memory limit of this process's control groups that leaves least free; None if there is none.

    A limit of more than the machine has limits nothing.
    """
    limits = (limit for limit in control_groups.memory_limits() if limit.limit < psutil.virtual_memory().total)
    return min(limits, key=lambda limit: limit.free, default=None)


def lies_in_memory(folder: Path) -> bool:
    """Tell whether the files of `folder` take memory and no disk (tmpfs). Raises OSError if there is no such folder."""
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return False  # not Linux
    mounts = (line.partition(" - ") for line in lines)
    kinds = (after.split(" ")[0] for before, _, after in mounts if before.split(" ")[2:3] == [number])
    return any(kind in ("tmpfs", "ramfs") for kind in kinds)


def l2_bytes() -> int:
    """Return the size of a core's L2 cache; 1 MB if the system does not tell it."""
    try:
        text = _L2.read_text().strip()
        return int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}[text[-1]]
    except (OSError, ValueError, KeyError):
        return 1 << 20


def numa_nodes() -> dict[int, str]:
    """Return NUMA node -> its cores as the kernel lists them, such as "0-15"; empty if there is no such list."""
    nodes = {}
    for folder in sorted(_NODES.glob("node[0-9]*")):
        nodes[int(folder.name[4:])] = (folder / "cpulist").read_text().strip()
    return nodes


def cpu_name() -> str:
    """Return the processor's model name, or its architecture if the model is not known."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


@functools.cache
def keep_freed_memory() -> None:
    """Have the C library keep freed memory for this process instead of giving it back to the kernel, from now on.

    For processes that receive many messages of a megabyte. Each page that the kernel gives out is zeroed first, which
    took as long as all other work on a message. One pool serves all threads, as one thread receives a message and
    another frees it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return  # another C library than glibc
    for option, value in _MALLOC_OPTIONS:
        mallopt(option, value)


def as_text(name: str) -> str:
    """Return the name of a file or folder as text, which is the same in the environment of every process.

    Names are bytes, nearly always UTF-8. A process whose locale is not UTF-8 (LC_ALL=C) gets each byte as a surrogate
    from Python. This function decodes them as UTF-8; bytes that are no UTF-8 stay surrogates.
    """
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name  # it has other surrogates, so it is the name of nothing


def as_name(text: str) -> str:
    """Return a name that `as_text` may have returned as Python must have it here to find the file."""
    try:
        return os.fsdecode(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return text


def pin_to(core: int | None) -> None:
    """Run this process on `core` only; None leaves the choice to the scheduler, and so does a system that refuses."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {core})


def private_folder(purpose: str) -> Path | None:
    """Return a folder among the temporary files that only this user can write; None if there can be none.

    Its name has the user's number, because a user need not have a name. A folder that belongs to another user, or that
    others can write, is not used. Python takes the present folder for temporary files if no other can be written; that
    is used only if a variable such as TMPDIR names it.
    """
    import tempfile  # short commands need none

    try:
        place = Path(tempfile.gettempdir())
        named = [os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)]
        if place == Path.cwd() and place not in map(Path, map(os.path.abspath, named)):
            return None
        folder = place / f"adam_mp-{purpose}-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    return folder if own and os.access(folder, os.W_OK | os.X_OK) else None
