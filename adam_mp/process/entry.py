"""What a child process does first, forked or fresh: answer SIGUSR1, tie its life to its supervisor's, run its task.

Two mechanisms make sure that a child never outlives its supervisor. First, the kernel kills the child when the
supervisor's thread that started it ends (the parent-death signal); this works even if no thread of the child can run.
Second, the child's standard input is a pipe that the supervisor holds open for as long as it lives; a thread of the
child reads it, and ends the child at its end of file.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import os
import pickle
import signal
import sys
import threading
from typing import NoReturn

from adam_mp.clash import named_clash
from adam_mp.errors import speaking_flags
from adam_mp.machine import pin_to
from adam_mp.process.output import guard_streams, standard_error

STACKS_SIGNAL = signal.SIGUSR1  # every process of a run prints its stacks when it gets this signal
# Signals that someone sends who stops all processes of a job at once. Children pass them over: the supervisor gets them
# too, stops the run in order, and ends its children.
_OF_THE_SUPERVISOR = (
    "SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGPWR", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGPOLL",
    "SIGSTKFLT",
)  # fmt: skip
GO = b"g"  # the supervisor writes this into a forked child's input; the child then runs its task
_PR_SET_PDEATHSIG = 1
_OOM_SCORE = "/proc/self/oom_score_adj"  # 1000 counts as all memory that the process may have
_FIRST_TO_GO, _MOST = 300, 1000


def main() -> None:
    """Run a task in a fresh interpreter; the command line gives the descriptor of the task's file."""
    run_task(int(sys.argv[1]), waits=False)


def run_task(descriptor: int, waits: bool) -> None:
    """Run the task that is pickled in the open file `descriptor`.

    A forked child `waits`: it does not read the task before it has read GO from its input. If the supervisor ends, or
    closes the other end of that pipe because it has given the child up, the child reads the end of file and ends.
    """
    faulthandler.enable()
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
    guard_streams()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {STACKS_SIGNAL})
    if waits and os.read(sys.stdin.fileno(), 1) != GO:
        os._exit(1)
    with named_clash(), open(descriptor, "rb") as task:
        supervisor, flags, core, module, function, argument = pickle.load(task)
    leave_signals_to_the_supervisor()
    end_with_parent(supervisor)
    threading.Thread(target=_end_with_input, name="end-with-supervisor", daemon=True).start()
    pin_to(core)
    _go_before_the_supervisor()
    code: object = 0
    try:
        with named_clash():
            loaded = importlib.import_module(module)
        with speaking_flags(flags):
            getattr(loaded, function)(argument)
    except SystemExit as end:
        code = end.code
    _end(code)


def _end(code: object) -> NoReturn:
    """End this process with the exit code of a SystemExit, without Python's clean-up.

    The clean-up of a forked child writes to nearly all objects that it shares with its siblings. So each of them would
    take 70 MB in the moment in which it ends.
    """
    if code is not None and not isinstance(code, int):
        standard_error().say(str(code))  # as Python's own end does
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _go_before_the_supervisor() -> None:
    """Have the kernel kill this process before the supervisor if memory runs out.

    This process has a successor then; with the supervisor the run would end. Where the kernel does not let this process
    say so, nothing changes.
    """
    with contextlib.suppress(OSError, ValueError), open(_OOM_SCORE, "r+") as file:
        score = int(file.read()) + _FIRST_TO_GO
        file.seek(0)
        file.write(str(min(score, _MOST)))


def leave_signals_to_the_supervisor() -> None:
    """Ignore the signals that are meant for the whole run."""
    for name in _OF_THE_SUPERVISOR:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent's thread that started it ends; end now if that has happened.

    `parent` is the process id of the parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before this process asked the kernel
        os._exit(1)


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)
