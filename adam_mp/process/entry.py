"""What a child process does first, however it was started: answer for itself, tie its life to its supervisor's, run.

A child never outlives its supervisor, by two chains. The kernel kills it when the supervisor's thread that made it ends
(the parent-death signal), which works even where no thread of the child can run. And its standard input is a pipe that
the supervisor holds open for as long as it lives: at its end of file a thread ends the child at once.
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

from adam_mp.machine import pin_to

STACKS_SIGNAL = signal.SIGUSR1  # on which every process of a run prints its stacks
GO = b"g"  # what a forked child reads before it runs its task
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the task whose file the command line tells; the entry of a fresh interpreter."""
    run_task(int(sys.argv[2]), waits=False)


def run_task(descriptor: int, waits: bool) -> None:
    """Run the task that lies in an open file; one that `waits` reads it, and all else, only once GO is in its input.

    That wait ends with the supervisor, or when the supervisor gives this child up.
    """
    faulthandler.enable()
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {STACKS_SIGNAL})
    if waits and os.read(sys.stdin.fileno(), 1) != GO:
        os._exit(1)
    with open(descriptor, "rb") as task:
        supervisor, core, module, function, argument = pickle.load(task)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(supervisor)
    threading.Thread(target=_end_with_input, name="end-with-supervisor", daemon=True).start()
    pin_to(core)
    getattr(importlib.import_module(module), function)(argument)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread of process `parent` that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(1)


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)
