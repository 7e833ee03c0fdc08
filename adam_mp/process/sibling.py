"""Forking a sibling, a child of this process's own parent, and giving it a name for `ps`. Only Linux can do this.

A fork server forks for its supervisor. Forked with os.fork, its children would be the supervisor's grandchildren: the
fork server would have to report their exit codes, although it may itself be stopped or killed, and they would die with
the fork server in place of the supervisor. clone with CLONE_PARENT makes them the supervisor's own children at once:
the supervisor collects their exit codes itself, the kernel kills them when the supervisor ends, and the end of the fork
server does not touch them. (A subreaper would do the same, but would adopt every orphan of a user's program.)

The clone system call is made directly, without the C library's fork. So this module does what the library does around a
fork: it tells the interpreter before and after, as os.fork does, and has the kernel write the new thread's id to the
address where the library keeps it. Locks of other threads need no care: the process may have only one thread.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

# Processor -> (number of the clone system call, which of its five arguments is the address for the thread's id).
_CLONE = {"x86_64": (56, 3), "aarch64": (220, 4)}
_CLONE_PARENT, _CHILD_CLEARTID, _CHILD_SETTID = 0x8000, 0x0020_0000, 0x0100_0000
_PR_GET_TID_ADDRESS = 40
_ARG_START, _ARG_END = 45, 46  # indices of arg_start and arg_end among the fields behind the name in /proc/PID/stat
_SELF = Path("/proc/self")


def sibling_trouble() -> str | None:
    """Return why this process cannot fork siblings, as a text; None if it can."""
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
    """Fork a child of this process's parent; return the child's process id here, and 0 in the child.

    Call it only where `sibling_trouble()` is None (so the process has one thread), with the garbage collector off.
    Raises OSError if the kernel refuses.
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
    """Return the address at which the C library keeps this thread's id; None if the kernel does not know it."""
    address = ctypes.c_void_p()
    if ctypes.CDLL(None).prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) != 0 or not address.value:
        return None
    if ctypes.c_int.from_address(address.value).value != os.getpid():  # musl keeps something else there
        return None
    return address.value


class Title:
    """The end of this process's command line, which holds the name that `ps` shows and can be written over.

    The kernel reads a command line from the memory in which the program received its arguments. That memory's size is
    fixed. So the process must be started with two last arguments: blanks, as room for a longer name, and the name.
    """

    def __init__(self, end: int, size: int) -> None:
        self._end, self._size = end, size

    @classmethod
    def find(cls, room: str, name: str) -> Title | None:
        """Return this process's title; None if its last two arguments are not `room` and `name`."""
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
        """Give this process another name, cut to the room for it."""
        kept = name.replace("\0", " ").encode()[: self._size - 2]
        ctypes.memmove(self._end - self._size, b" " * (self._size - 2 - len(kept)) + b"\0" + kept + b"\0", self._size)
