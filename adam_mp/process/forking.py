"""The supervisor's side of its fork server: it is started, asked for children, replaced if it is killed or stopped.

`fork_server` is entered for as long as there may be children to start; `start_child` of the same thread then forks
them. A fork server that does not answer in time is killed, and another is started; the child that was wanted is started
as a fresh interpreter meanwhile. One that cannot work here says why, and is asked no more.
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

SERVE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from adam_mp.process.fork_server import main; main()"
_READY, _ANSWER = 15.0, 2.0  # seconds that it may take to import what it is told to, and to fork
_LOOK = 0.02
_MOST = 3  # fork servers that a run starts; who kills the last wants none
_LONGEST_ANSWER = 4096  # bytes


class Forked:
    """A process that was forked on this one's behalf. It is a child of this process: a subset of Popen's methods."""

    def __init__(self, process: int) -> None:
        self.pid = process
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return None while it runs; its exit code, or minus the signal that killed it."""
        if self._code is None:
            try:
                process, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else of this process took it: as Popen does, say 0
                process, status = self.pid, 0
            if process:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send it SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """A fork server of this process, for one thread: children end with the thread that made it.

    It has imported `preload` before it forks: names of modules, or "module:function" for functions to be called.
    """

    def __init__(self, preload: Sequence[str] = ()) -> None:
        self._preload = list(preload)
        self._started = self._numbers = 0
        self._trouble: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
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
        if self._line is not None:
            self._line.close()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            descriptor = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)  # beyond its standard streams
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {STACKS_SIGNAL})  # in it and children, until they can answer
        try:
            path = json.dumps([entry or os.getcwd() for entry in sys.path])
            task = json.dumps((os.getpid(), descriptor, self._preload))
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVE, path, task, ROOM, NAME],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[descriptor],
                start_new_session=True, env={**os.environ, **ONE_THREAD},
            )  # fmt: skip
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(descriptor)

    def trouble(self) -> str | None:
        """Wait until it is ready; say why it will not fork, or None. Raises OSError if it does not get ready."""
        if self._trouble is None and not self._is_ready:
            self._trouble, self._is_ready = self._receive(self._began + _READY)["trouble"], True
        return self._trouble

    def fork(self, name: str, files: Sequence[int], places: Sequence[int]) -> Forked | None:
        """Fork a process that has `files` as standard input, as output, under the numbers `places`, and its task.

        It runs nothing until it has read GO from its input. Returns None if it is to be started in another way.
        """
        self._numbers += 1
        request = json.dumps((self._numbers, name, [entry or os.getcwd() for entry in sys.path], list(places))).encode()
        try:
            if self.trouble() is not None or len(files) > MOST_FILES or len(request) > LONGEST_REQUEST:
                return None
            assert self._line is not None, "it is ready"
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))
            self._line.settimeout(_ANSWER)
            self._line.sendmsg([request], [rights], socket.MSG_NOSIGNAL)
            return self._answer(time.monotonic() + _ANSWER)
        except OSError:
            self._end()
            forked = None
            with contextlib.suppress(OSError):
                forked = self._answer(time.monotonic())  # the child itself may have said it
            self._start()
            return forked

    def _answer(self, deadline: float) -> Forked | None:
        """Return the process that answers the last request, once it has its name; None if there will be none.

        One that dies or is stopped before it has its name is returned too. Raises OSError if there is no answer.
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
        """Return the next message. Raises TimeoutError at the deadline (of time.monotonic), OSError at its end."""
        if self._line is None:
            raise BrokenPipeError
        poll = select.poll()
        poll.register(self._line, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        content = self._line.recv(_LONGEST_ANSWER)
        if not content:
            raise BrokenPipeError
        return json.loads(content)

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()  # stopped or not
            self._process.wait()

    def close(self) -> None:
        """End the fork server. Its children go on."""
        self._end()
        if self._line is not None:
            self._line.close()


_current: ContextVar[ForkServer | None] = ContextVar("fork server", default=None)


@contextlib.contextmanager
def fork_server(preload: Sequence[str] = ()) -> Iterator[None]:
    """While entered, `start_child` in this thread forks children from a fork server that has imported `preload`.

    Entered again meanwhile, it changes nothing. It does not wait for the fork server, which imports while this process
    goes on.
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
    """Have this thread's fork server fork a process, as `ForkServer.fork` does; None where there is none."""
    server = _current.get()
    return None if server is None else server.fork(name, files, places)


def forking_trouble() -> str | None:
    """Start a fork server, and say why it cannot fork here; None if it can."""
    if sys.platform != "linux":
        return "this is not Linux"
    server = ForkServer()
    try:
        return server.trouble()
    except OSError:
        return "the fork server does not answer"
    finally:
        server.close()
