"""Forking a process that is the child of this one's parent, and giving it a name of its own: what only Linux can do.

A fork server forks on behalf of its supervisor. With os.fork its children would be the supervisor's grandchildren:
their exit codes would have to be told, by a process that may itself be stopped or killed, and their chain of death
would have two links. clone with CLONE_PARENT makes them the supervisor's own children at once: it reaps them as any
others, the kernel kills them with it and with nobody else, and the fork server's end is nothing to them. (A subreaper
would come to the same, but would adopt every orphan of a user's program.)

clone is called past the C library. So what the library does around a fork is done here: the interpreter is told before
and after, as os.fork tells it, and the kernel writes the new thread's number where the library keeps it. Locks of other
threads need no care, because there must be none.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_CLONE = {"x86_64": (56, 3), "aarch64": (220, 4)}  # its number, and which of its five arguments is the thread's place
_CLONE_PARENT, _CHILD_CLEARTID, _CHILD_SETTID = 0x8000, 0x0020_0000, 0x0100_0000
_PR_GET_TID_ADDRESS = 40
_ARG_START, _ARG_END = 45, 46  # of what stands behind the name in /proc/PID/stat
_SELF = Path("/proc/self")


def sibling_trouble() -> str | None:
    """Say why this process cannot fork siblings; None if it can."""
    if sys.platform != "linux" or sys.implementation.name != "cpython" or sys.maxsize <= 1 << 32:
        return "only CPython on 64-bit Linux forks them"
    if os.uname().machine not in _CLONE:
        return f"adam_mp does not know how a {os.uname().machine} processor forks them"
    try:
        threads = len(os.listdir(_SELF / "task"))
    except OSError:
        return "there is no /proc"
    if threads != 1:
        return f"the fork server has {threads} threads"
    if _thread_place() is None:
        return "the C library does not tell where it keeps a thread's number"
    return None


def fork_sibling() -> int:
    """Fork a child of this process's parent; return its process id, and 0 in it. Raises OSError.

    For a process of a single thread, without which `sibling_trouble` says so, and with the garbage collector off.
    """
    library, interpreter = ctypes.PyDLL(None, use_errno=True), ctypes.pythonapi
    number, place = _CLONE[os.uname().machine]
    arguments = [ctypes.c_long(0) for _ in range(5)]
    arguments[0] = ctypes.c_long(_CLONE_PARENT | _CHILD_SETTID | _CHILD_CLEARTID | signal.SIGCHLD)
    arguments[place] = ctypes.c_long(_thread_place() or 0)
    library.syscall.restype = ctypes.c_long
    interpreter.PyOS_BeforeFork()
    process = int(library.syscall(ctypes.c_long(number), *arguments))
    if process == 0:
        interpreter.PyOS_AfterFork_Child()
        return 0
    interpreter.PyOS_AfterFork_Parent()
    if process < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return process


def _thread_place() -> int | None:
    """Return the address at which the C library keeps this thread's number; None if the kernel names none such."""
    address = ctypes.c_void_p()
    if ctypes.CDLL(None).prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) != 0 or not address.value:
        return None
    if ctypes.c_int.from_address(address.value).value != os.getpid():  # musl keeps something else there
        return None
    return address.value


class Title:
    """The end of this process's command line, where its name stands and may be written over, for `ps` to show.

    The kernel shows the memory in which a program got its arguments. Its size is fixed, so the last two arguments are
    to be blanks, room for a longer name, and the name.
    """

    def __init__(self, end: int, size: int) -> None:
        self._end, self._size = end, size

    @classmethod
    def find(cls, room: str, name: str) -> Title | None:
        """Find it in a process whose last two arguments are `room` and `name`; None where it is not as expected."""
        try:
            fields = (_SELF / "stat").read_text().rpartition(")")[2].split()
            begin, end = int(fields[_ARG_START]), int(fields[_ARG_END])
            shown = (_SELF / "cmdline").read_bytes()
        except (OSError, ValueError, IndexError):
            return None
        last = f"\0{room}\0{name}\0".encode()
        if not begin or end - begin != len(shown) or not shown.endswith(last):
            return None
        return cls(end, len(last) - 1) if ctypes.string_at(begin, len(shown)) == shown else None

    def write(self, name: str) -> None:
        """Give this process another name, cut to the room that there is."""
        kept = name.replace("\0", " ").encode()[: self._size - 2]
        ctypes.memmove(self._end - self._size, b" " * (self._size - 2 - len(kept)) + b"\0" + kept + b"\0", self._size)
