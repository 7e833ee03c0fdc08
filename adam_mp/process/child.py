"""A child process of a run, as its supervisor sees it: start it, ask it for its stacks, wait for it, end it.

A child runs one function of adam_mp on one argument. It does not import the user's script, so it starts the same from
a script (with or without a `__main__` guard), a notebook, a test or a pipe. The fork server forks it if there is one
(`forking`); otherwise it is a fresh interpreter. All else is the same for both.

The supervisor pickles the task into an anonymous file, which the child inherits, so the supervisor never waits for a
child that does not read. The child's output and errors go to another anonymous file, which the supervisor reads. The
child has an operating-system session of its own (setsid), so Ctrl-C reaches the supervisor alone. `entry` says how a
child is kept from outliving its supervisor.
"""

from __future__ import annotations

import builtins
import fcntl
import math
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import IO, Any

from adam_mp.control_groups import killed_since, memory_kills
from adam_mp.errors import AdamError, speaks_flags
from adam_mp.machine import ONE_THREAD
from adam_mp.process.entry import GO, STACKS_SIGNAL
from adam_mp.process.forking import SERVE, Forked, fork
from adam_mp.process.interpreter import OWN_PATH, command
from adam_mp.process.interruption import EXIT_CODES

_START = f"{OWN_PATH}; from adam_mp.process.entry import main; main()"
_LAST_WORDS, _LAST_LINES = 8000, 12  # bytes of a child's output that are kept, and lines of them that are shown
_TRACEBACK = "Traceback (most recent call last):"
_STOPPED = {code: name for name, code in EXIT_CODES.items()}  # exit code of a child that ended in order on a signal
_LOOK, _LONGEST_LOOK = 0.0005, 0.02  # seconds between two looks whether a child has ended: at first, and at most


class Child:
    """A process started and owned by the supervisor."""

    def __init__(
        self, name: str, process: subprocess.Popen[bytes] | Forked, output: IO[bytes], held: int
    ) -> None:  # fmt: skip
        self.name = name
        self.pid = process.pid
        self.started = time.monotonic()
        self._process = process
        self._output = output
        self._held = held  # the writing end of the child's input: the child lives while it is open
        self._seen = 0  # bytes of its output that `new_lines` has returned
        self._kills = memory_kills()
        self._wanted_memory: bool | None = False
        self._looked = False  # whether `_wanted_memory` is known

    @property
    def exit_code(self) -> int | None:
        """None while the child runs; then its exit code, or minus the number of the signal that killed it."""
        return self._process.poll()

    @property
    def wanted_memory(self) -> bool | None:
        """Whether the kernel killed the child for want of memory; None if it perhaps did."""
        if not self._looked and self.exit_code == -signal.SIGKILL:
            self._looked, self._wanted_memory = True, killed_since(self._kills, memory_kills())
        return self._wanted_memory

    def describe_end(self) -> str:
        """Say how the child ended: exit code or signal, and the exception that ended it, if one did.

        If no exception ended the child, the text that it printed is no cause and is left out; `last_words` returns it.
        """
        code = self.exit_code
        if code is None:
            return "still runs"
        if code < 0:
            return f"was killed by {_signal_name(-code)}{self._who_killed(-code)}"
        if code in _STOPPED:
            return f"was stopped by {_STOPPED[code]}"
        exception = _exception_in(self.last_words())
        return f"ended with exit code {code}{exception and ': '}{exception}"

    def _who_killed(self, number: int) -> str:
        if number != signal.SIGKILL:
            return ""
        by_whom = {
            True: "by the kernel for want of memory",
            False: "by another process",
            None: "by another process or by the kernel for want of memory",
        }
        return f", {by_whom[self.wanted_memory]}"

    def own_fault(self) -> str:
        """Return the exception that ended the child if a successor would die of it as well; else "".

        A successor may fare better if a signal ended the child, or if the system or another process refused something.
        """
        code = self.exit_code
        exception = _exception_in(self.last_words()) if code is not None and code > 0 else ""
        module, _, name = exception.partition(":")[0].rpartition(".")
        kind = getattr(sys.modules.get(module, builtins), name, Exception)
        outside = isinstance(kind, type) and issubclass(kind, (AdamError, OSError, MemoryError))
        return "" if outside else exception

    def last_lines(self) -> str:
        """Return the last lines that the child printed, to be shown below a message: each begins with a line break."""
        lines = self.last_words().strip().splitlines()[-_LAST_LINES:]
        return "".join(f"\n    {line}" for line in lines)

    def last_words(self) -> str:
        """Return the end of what the child printed: its traceback, if it died of an exception."""
        size = os.fstat(self._output.fileno()).st_size
        tail = os.pread(self._output.fileno(), _LAST_WORDS, max(0, size - _LAST_WORDS))
        return tail.decode(errors="replace")

    def ask(self, number: int) -> int:
        """Send the child signal `number`, whose answer it prints; return the byte of its output where that begins."""
        begin = os.fstat(self._output.fileno()).st_size
        if self._process.poll() is None:
            self._process.send_signal(number)
        return begin

    def said_since(self, begin: int) -> str:
        """Return what the child printed from byte `begin` of its output on."""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), max(0, size - begin), begin).decode(errors="replace")

    def new_lines(self) -> list[str]:
        """Return the whole lines that the child has printed since the last call."""
        size = os.fstat(self._output.fileno()).st_size
        said = os.pread(self._output.fileno(), size - self._seen, self._seen)
        whole = said[: said.rfind(b"\n") + 1]
        self._seen += len(whole)
        return whole.decode(errors="replace").splitlines()

    def wait(self, deadline: float) -> bool:
        """Wait until the child has ended, or until `deadline` (of time.monotonic); tell whether it has ended."""
        look = _LOOK
        while self._process.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(look, left))
            look = min(2 * look, _LONGEST_LOOK)
        return True

    def kill(self) -> None:
        """Kill the child (SIGKILL, which ends a stopped process too), and wait until it has ended."""
        if self._process.poll() is None:
            self._process.kill()
        self.wait(math.inf)

    def close(self) -> None:
        """Close the supervisor's ends of the child's input and output, after the child has ended."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1
        self._output.close()


def start_child(
    name: str, function: Callable[[Any], None], argument: Any, descriptors: Sequence[int], core: int | None
) -> Child:
    """Start a child that runs `function(argument)`; `function` is a module-level function of adam_mp.

    The child inherits `descriptors` under the same numbers, and runs on `core` alone if one is given. Raises OSError if
    the system does not start it.
    """
    files = list(dict.fromkeys(descriptors))
    output = anonymous_file()
    task = reading = held = -1
    try:
        task = _keep((os.getpid(), speaks_flags(), core, function.__module__, function.__qualname__, argument))
        reading, held = os.pipe()
        process: subprocess.Popen[bytes] | Forked | None = fork(name, [reading, output.fileno(), *files, task], files)
        if process is None:
            _close(reading, held)  # ends a child that was forked although the fork server could not say so
            reading = held = -1
            reading, held = os.pipe()
            process = _start_fresh(name, reading, output, files, task)
        else:
            os.write(held, GO)
    except BaseException:
        output.close()
        _close(held)
        raise
    finally:
        _close(reading, task)  # the child has its own copies
    return Child(name, process, output, held)


def _start_fresh(
    name: str, reading: int, output: IO[bytes], files: Sequence[int], task: int
) -> subprocess.Popen[bytes]:  # fmt: skip
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {STACKS_SIGNAL})  # until the child can answer it
    try:
        return subprocess.Popen(
            [*command(_START, str(task)), name],
            stdin=reading, stdout=output, stderr=output, pass_fds=[*files, task], start_new_session=True,
            env={**os.environ, **ONE_THREAD},
        )  # fmt: skip
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _exception_in(words: str) -> str:
    """Return the last line of the last traceback in `words`, which names the exception; "" if there is none."""
    traceback = words.rpartition(_TRACEBACK)[2].strip().splitlines()
    return traceback[-1].strip() if _TRACEBACK in words and traceback else ""


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)


def anonymous_file() -> IO[bytes]:
    """Return an open file without a name, on disk; in memory if every folder for temporary files is full or missing."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        if not hasattr(os, "memfd_create"):
            raise
        return os.fdopen(os.memfd_create("output"), "w+b")


def _keep(task: tuple[Any, ...]) -> int:
    """Pickle `task` into an anonymous file; return the file's descriptor, 3 or more, with the file at its beginning.

    Lower numbers are those of the child's standard streams.
    """
    in_memory = hasattr(os, "memfd_create")
    with os.fdopen(os.memfd_create("task"), "w+b") if in_memory else tempfile.TemporaryFile() as file:
        pickle.dump(task, file)
        file.seek(0)
        return fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)


def is_child(line: list[str]) -> bool:
    """Tell whether `line` is the command line of a child or fork server that this version of adam_mp started."""
    return line[1:2] == ["-c"] and line[2:3] in ([_START], [SERVE])
