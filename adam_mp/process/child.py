"""How a process of the run starts, and why it never outlives its supervisor: the one module about signals and death.

A child is a fresh interpreter that runs one function of adam_mp on one argument. It does not import the user's script,
so it starts the same from a script, guarded or not, a notebook, a test or a pipe. What it is to do comes pickled in a
nameless file that it inherits, so that the supervisor never waits for a child that does not read. Its standard input is
a pipe that carries nothing and that the supervisor holds open for as long as it lives: at its end of file a thread ends
the child at once, and on Linux the kernel kills it even where no thread can run. It is in a session of its own, so
that Ctrl-C reaches the supervisor alone. What it prints or dies of is kept in a nameless file for the supervisor.
"""

from __future__ import annotations

import ctypes
import faulthandler
import fcntl
import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, Any

from adam_mp.machine import ONE_THREAD, pin_to

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from adam_mp.process.child import main; main()"
_PR_SET_PDEATHSIG = 1
STACKS_SIGNAL = signal.SIGUSR1  # on which every process of a run prints its stacks
_LAST_WORDS = 8000  # bytes
_END_OF_STACKS = "Extension modules: "  # the last line of what Python prints when a signal kills it
_RAISING = "ADAM_MP_RAISE_ON_SIGUSR2"


class Child:
    """A process started and owned by the supervisor."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], output: IO[bytes]) -> None:
        self.name = name
        self.pid = popen.pid
        self.started = time.monotonic()
        self._popen = popen
        self._output = output

    @property
    def exit_code(self) -> int | None:
        """None while it runs; its exit code, or minus the signal that killed it."""
        return self._popen.poll()

    def describe_end(self) -> str:
        """Say how it ended: exit code or signal, and the last line it printed."""
        code = self.exit_code
        if code is None:
            return "still runs"
        if code < 0:
            try:
                cause = f"was killed by {signal.Signals(-code).name}"
                if code == -signal.SIGKILL:
                    cause += ", by hand or by the kernel for want of memory"
            except ValueError:
                cause = f"was killed by signal {-code}"
        else:
            cause = f"ended with exit code {code}"
        lines = self.last_words().strip().splitlines()
        if not lines or lines[-1].startswith(_END_OF_STACKS):  # which say no more than the signal does
            return cause
        return f"{cause}: {lines[-1].strip()}"

    def last_words(self) -> str:
        """Return the end of what it printed: its traceback, if it died of an exception."""
        size = os.fstat(self._output.fileno()).st_size
        tail = os.pread(self._output.fileno(), _LAST_WORDS, max(0, size - _LAST_WORDS))
        return tail.decode(errors="replace")

    def ask(self, number: int) -> int:
        """Send it a signal that it answers in what it prints; return where its answer will begin."""
        begin = os.fstat(self._output.fileno()).st_size
        if self._popen.poll() is None:
            self._popen.send_signal(number)
        return begin

    def said_since(self, begin: int) -> str:
        """Return what it printed from byte `begin` on."""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), max(0, size - begin), begin).decode(errors="replace")

    def wait(self, deadline: float) -> bool:
        """Wait for its end until `deadline` (of time.monotonic); tell whether it ended."""
        try:
            self._popen.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End it at once, stopped or not, and take leave of it."""
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait()

    def close(self) -> None:
        """Free what the supervisor holds of it, after its end."""
        if self._popen.stdin is not None:
            self._popen.stdin.close()
        self._output.close()


def start_child(
    name: str, function: Callable[[Any], None], argument: Any, descriptors: Sequence[int], core: int | None
) -> Child:
    """Start a process that runs `function(argument)`, a module-level function of adam_mp.

    It inherits `descriptors` under the same numbers, and runs on `core` alone if one is given.
    """
    output = tempfile.TemporaryFile()  # noqa: SIM115, the child's lifetime
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {STACKS_SIGNAL})  # until the child can answer it
    task = -1
    try:
        task = _keep((os.getpid(), core, function.__module__, function.__qualname__, argument))
        popen = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps([entry or os.getcwd() for entry in sys.path]), str(task), name],
            stdin=subprocess.PIPE, stdout=output, stderr=output, pass_fds=[*descriptors, task],
            start_new_session=True, env={**os.environ, **ONE_THREAD},
        )  # fmt: skip
    except BaseException:
        output.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if task >= 0:
            os.close(task)  # the child has its own
    return Child(name, popen, output)


def _keep(task: tuple[Any, ...]) -> int:
    """Pickle `task` into a nameless file; return it open at its beginning, beyond the child's standard streams."""
    in_memory = hasattr(os, "memfd_create")
    with os.fdopen(os.memfd_create("task"), "w+b") if in_memory else tempfile.TemporaryFile() as file:
        pickle.dump(task, file)
        file.seek(0)
        return fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)


def is_child(command: Sequence[str]) -> bool:
    """Tell whether a command line is that of a process that `start_child` of this version started."""
    return list(command[1:3]) == ["-c", _START]


def main() -> None:
    """Run the function that the supervisor sent; the entry of every child process."""
    faulthandler.enable()
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {STACKS_SIGNAL})
    raise_when_asked()
    with open(int(sys.argv[2]), "rb") as task:
        supervisor, core, module, function, argument = pickle.load(task)
    die_with(supervisor)
    pin_to(core)
    getattr(importlib.import_module(module), function)(argument)


def raise_when_asked() -> None:
    """For tests: where the environment says so, let SIGUSR2 raise an exception wherever this process is."""
    if os.environ.get(_RAISING) == "1":
        signal.signal(signal.SIGUSR2, _raise)


def _raise(_number: int, _frame: object) -> None:
    raise RuntimeError("raised by SIGUSR2")


def die_with(supervisor: int) -> None:
    """Have this process end when process `supervisor` does, however it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it died before the kernel was asked
        os._exit(1)
    threading.Thread(target=_end_with_input, name="end-with-supervisor", daemon=True).start()


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)
