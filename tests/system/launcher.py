"""Commands as processes of their own, without a second of imports for each.

A launcher is a process that has imported what commands need. It forks each command as a child of the tests. All but the
imports is as ever: the command's signals, streams, folder and arguments, its fork server, its children. Where a test
has changed the environment, or the launcher cannot fork, the command is a fresh interpreter.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from adam_mp.machine import ONE_THREAD
from adam_mp.process.forking import Forked
from adam_mp.process.sibling import fork_sibling, sibling_trouble

IMPORTED = (
    "adam_mp.api", "adam_mp.cli.train", "adam_mp.cli.serve_data", "adam_mp.cli.serve_params", "adam_mp.cli.status",
    "adam_mp.report.progress", "adam_mp.report.curves", "adam_mp.data.serving.server", "adam_mp.training.worker.worker",
    "adam_mp.transport.zeromq", "matplotlib.backends.backend_agg",
)  # fmt: skip
LONGEST = 1 << 16  # bytes of a request
OF_TESTS = ("PYTEST_CURRENT_TEST",)  # variables of the environment that differ in each test


class Launched(Forked):
    """A command that the launcher forked."""

    def wait(self, seconds: float | None = None) -> int:
        """Return its exit code; raise TimeoutExpired if it does not end in time."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("adam_mp", seconds or 0)
            time.sleep(0.01)
        return code


class Launcher:
    """The tests' side of a launcher."""

    def __init__(self) -> None:
        self._environment = _environment()
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.system.launcher", str(theirs.fileno())], pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parents[2], env={**os.environ, **ONE_THREAD},
            )  # fmt: skip
        self._connection.settimeout(100)
        self._can = json.loads(self._connection.recv(LONGEST)) is None

    def start(self, arguments: Sequence[str], folder: Path, out: IO[bytes], err: IO[bytes]) -> Launched | None:
        """Return the command's process; None if the launcher must not start it."""
        if not self._can or _environment() != self._environment:
            return None
        threads = {name: os.environ.get(name) for name in ONE_THREAD}
        request = json.dumps([[str(each) for each in arguments], str(folder), threads]).encode()
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [out.fileno(), err.fileno()]))
        self._connection.sendmsg([request], [rights])
        return Launched(json.loads(self._connection.recv(LONGEST)))

    def close(self) -> None:
        self._connection.close()
        self._process.wait(100)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in OF_TESTS}


def serve(connection: socket.socket) -> None:
    """Fork a command at each request; return when the tests have closed the connection, and in each command."""
    connection.send(json.dumps(sibling_trouble()).encode())
    while True:
        content, files, _, _ = socket.recv_fds(connection, LONGEST, 2)
        if not content:
            sys.exit()
        process = fork_sibling()
        if process == 0:
            break
        for file in files:
            os.close(file)
        connection.send(json.dumps(process).encode())
    connection.close()
    arguments, folder, threads = json.loads(content)
    for file, place in zip(files, (1, 2), strict=True):
        os.dup2(file, place)
        os.close(file)
    os.chdir(folder)
    for name, value in threads.items():  # one thread was for the launcher
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value
    sys.path[0] = folder  # as `python -m` has it
    sys.argv[1:] = arguments
    with contextlib.suppress(KeyError):
        sys.modules["numpy.random"].seed()
    gc.enable()


if __name__ == "__main__":
    gc.disable()
    for name in IMPORTED:
        importlib.import_module(name)
    importlib.import_module("adam_mp.kernels.compilation").load_kernels()
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
    from adam_mp.cli.main import main

    sys.exit(main())
