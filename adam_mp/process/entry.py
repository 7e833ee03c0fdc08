"""What a child process does first, forked or fresh: answer SIGUSR1, tie its life to its supervisor's, run its task.

Two mechanisms make sure that a child never outlives its supervisor. First, the kernel kills the child when the
supervisor's thread that started it ends (the parent-death signal); this works even if no thread of the child can run.
Second, the child's standard input is a pipe that the supervisor holds open for as long as it lives; a thread of the
child reads it, and ends the child at its end of file.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import os
import pickle
import signal
import sys
import threading

from adam_mp.clash import named_clash
from adam_mp.errors import speaking_flags
from adam_mp.machine import pin_to

STACKS_SIGNAL = signal.SIGUSR1  # every process of a run prints its stacks when it gets this signal
GO = b"g"  # the supervisor writes this into a forked child's input; the child then runs its task
_PR_SET_PDEATHSIG = 1


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
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {STACKS_SIGNAL})
    if waits and os.read(sys.stdin.fileno(), 1) != GO:
        os._exit(1)
    with named_clash(), open(descriptor, "rb") as task:
        supervisor, flags, core, module, function, argument = pickle.load(task)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(supervisor)
    threading.Thread(target=_end_with_input, name="end-with-supervisor", daemon=True).start()
    pin_to(core)
    with named_clash():
        loaded = importlib.import_module(module)
    with speaking_flags(flags):
        getattr(loaded, function)(argument)


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
