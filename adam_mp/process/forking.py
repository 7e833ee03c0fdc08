"""The supervisor's side of a fork server: start it, ask it for children, replace it when it is killed or stopped.

While a thread has entered `fork_server`, `start_child` in that thread forks its children from a fork server. If the
fork server does not answer in time, this side kills it and starts another; the child that was asked for starts as a
fresh interpreter instead. If the fork server reports that it cannot fork on this machine, this side stops asking it.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from adam_mp.errors import refusal
from adam_mp.machine import ONE_THREAD
from adam_mp.process.entry import STACKS_SIGNAL
from adam_mp.process.fork_server import LONGEST_REQUEST, MOST_FILES, NAME, NOBODY, ROOM
from adam_mp.process.interpreter import OWN_PATH, command, own_path

SERVE = f"{OWN_PATH}; from adam_mp.process.fork_server import main; main()"
_READY, _ANSWER = 15.0, 2.0  # seconds that a fork server may take to import its modules, and to fork
_LOOK = 0.02  # seconds between two looks whether a forked process has ended
_MOST = 3  # fork servers that a run starts; if the third is killed or stopped too, somebody does not want one
_LONGEST_ANSWER = 4096  # bytes


class Forked:
    """A child of this process that the fork server forked; it has some of the methods of subprocess.Popen."""

    def __init__(self, process: int) -> None:
        self.pid = process
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return None while the process runs; then its exit code, or minus the number of the signal that killed it."""
        if self._code is None:
            try:
                process, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # other code in this process has waited for it: return 0, as Popen does
                process, status = self.pid, 0
            if process:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def send_signal(self, number: int) -> None:
        """Send the process signal `number`, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send the process SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """A fork server that this process has started. Only the thread that made it may use it.

    The fork server and its children end when that thread ends. If only the fork server ends, its children go on.

    Before it forks, the fork server has imported `preload`: names of modules, or "module:function" for a function that
    it also calls.
    """

    def __init__(self, preload: Sequence[str] = ()) -> None:
        self._preload = list(preload)
        self._started = self._numbers = 0
        self._trouble: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._start()

    def _start(self) -> None:
        if self._started == _MOST:
            self._trouble = f"{_MOST} fork servers were killed or stopped"
            return
        self._started += 1
        try:
            self._start_process()
        except OSError as error:
            self._trouble = refusal(error)

    def _start_process(self) -> None:
        self._is_ready, self._began = False, time.monotonic()
        if self._connection is not None:
            self._connection.close()
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            descriptor = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)  # not the number of a standard stream
        # The fork server and its children inherit the blocked signal. A child unblocks it once it can answer.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {STACKS_SIGNAL})
        try:
            task = json.dumps((os.getpid(), descriptor, self._preload))
            self._process = subprocess.Popen(
                [*command(SERVE, task), ROOM, NAME],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[descriptor],
                start_new_session=True, env={**os.environ, **ONE_THREAD},
            )  # fmt: skip
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(descriptor)

    def trouble(self) -> str | None:
        """Wait until the fork server is ready; return why it cannot fork, None if it can.

        Raises OSError if it ends or is not ready in time.
        """
        if self._trouble is None and not self._is_ready:
            self._trouble, self._is_ready = self._receive(self._began + _READY)["trouble"], True
        return self._trouble

    def fork(self, name: str, files: Sequence[int], places: Sequence[int]) -> Forked | None:
        """Have the fork server fork a child; return it, None if the caller must start the child in another way.

        The first of `files` becomes the child's standard input, the second its standard output and error; then follow
        files that it gets under the numbers `places`; the last is its task. The child runs nothing before it has read
        GO from its input.
        """
        self._numbers += 1
        request = json.dumps((self._numbers, name, own_path(), list(places))).encode()
        try:
            if self.trouble() is not None or len(files) > MOST_FILES or len(request) > LONGEST_REQUEST:
                return None
            assert self._connection is not None, "the fork server is ready"
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))
            self._connection.settimeout(_ANSWER)
            self._connection.sendmsg([request], [rights], socket.MSG_NOSIGNAL)
            return self._answer(time.monotonic() + _ANSWER)
        except OSError:
            self._end()
            forked = None
            with contextlib.suppress(OSError):
                forked = self._answer(time.monotonic())  # the child may have answered although the fork server did not
            self._start()
            return forked

    def _answer(self, deadline: float) -> Forked | None:
        """Return the child of the last request, once it has reported itself; None if the fork server could not fork.

        A child that dies or is stopped before it reports is returned too, since the fork server has named it. Raises
        OSError if there is no answer by `deadline` (of time.monotonic).
        """
        forked: Forked | None = None
        while True:
            try:
                answer = self._receive(deadline if forked is None else min(deadline, time.monotonic() + _LOOK))
            except TimeoutError:
                if forked is None:
                    raise
                if forked.poll() is not None or time.monotonic() >= deadline:
                    return forked
                continue
            except OSError:
                if forked is None:
                    raise
                return forked
            if answer.get("number") == self._numbers:
                if answer["process"] == NOBODY:
                    return None
                forked = forked or Forked(answer["process"])
                if answer["began"]:
                    return forked

    def _receive(self, deadline: float) -> Any:
        """Return the next message from the socket.

        Raises TimeoutError at the deadline (of time.monotonic), another OSError if the fork server has ended.
        """
        if self._connection is None:
            raise BrokenPipeError
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        content = self._connection.recv(_LONGEST_ANSWER)
        if not content:
            raise BrokenPipeError
        return json.loads(content)

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()  # SIGKILL ends a stopped process too
            self._process.wait()

    def close(self) -> None:
        """End the fork server. The children that it forked go on."""
        self._end()
        if self._connection is not None:
            self._connection.close()


_current: ContextVar[ForkServer | None] = ContextVar("fork server", default=None)


@contextlib.contextmanager
def fork_server(preload: Sequence[str] = ()) -> Iterator[None]:
    """While entered, `start_child` in this thread forks children from a fork server that has imported `preload`.

    Entering it again inside changes nothing. Entering does not wait: the fork server imports while this process goes
    on.
    """
    if _current.get() is not None:
        yield
        return
    server = ForkServer(preload) if sys.platform == "linux" else None
    token = _current.set(server)
    try:
        yield
    finally:
        _current.reset(token)
        if server is not None:
            server.close()


def fork(name: str, files: Sequence[int], places: Sequence[int]) -> Forked | None:
    """Have this thread's fork server fork a child, as `ForkServer.fork` does; None if the thread has no fork server."""
    server = _current.get()
    return None if server is None else server.fork(name, files, places)


def forking_trouble() -> str | None:
    """Start a fork server to find out why it cannot fork on this machine; return the reason, None if it can."""
    if sys.platform != "linux":
        return "this is not Linux"
    server = ForkServer()
    try:
        return server.trouble()
    except OSError:
        return "the fork server does not answer"
    finally:
        server.close()
