"""A run of many machines on this one: parameter servers and further replicas as child processes.

The process that the user started is the first replica, and looks after the others: a server that dies is started again
at its address, from its snapshot; a replica that dies is said to the coordinator, so that what it had leased is free at
once, and another takes its place.

Loopback is open to every user of the machine. So the servers listen on socket files in a folder of this user alone, and
the parts need no keys among themselves. The folder ends with the run; what a killed run left of its own, the next
removes.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adam_mp.errors import ProcessError, refusal, several
from adam_mp.params.run.membership import CoordinatorLink
from adam_mp.params.server.serving import ServerSpec, serve_for_supervisor
from adam_mp.process.child import Child, start_child
from adam_mp.process.early_deaths import EarlyDeaths
from adam_mp.training.replica.joining import say_dead
from adam_mp.training.replica.launched import ADDRESS_FILE, server_folder
from adam_mp.transport.socket_files import SocketFile, SocketFolder

_STARTING = 120.0  # seconds; the first server may have to compile kernels
_ENDING = 20.0
_ORPHANED = 3.0
_LOOK = 0.01


@dataclasses.dataclass
class _Part:
    """A server or a replica: how it is started, and its present process."""

    name: str
    function: Callable[[Any], None]
    argument: Any
    deaths: EarlyDeaths
    child: Child | None = None


@dataclasses.dataclass(frozen=True)
class ReplicaTask:
    """What a further replica is told: its settings, and which of how many on this machine it is."""

    settings: Mapping[str, Any]
    share: tuple[int, int]


class Launch:
    """The other parts of a run that `servers` and `replicas` of the settings ask for.

    Use as a context manager: leaving it ends all of them. `address` is the coordinator's; `link` is to be set once this
    process has joined the run. `replica` is the function that trains as one more replica, given a ReplicaTask; it ends
    with exit code 0 only if its part of the run is done. `stopping` tells whether this process is asked to stop, and so
    starts no replica any more: what stops it may have been sent to all. `notice` takes lines for the user.
    """

    def __init__(
        self, folder: Path, servers: int, replicas: int, settings: Mapping[str, Any], restarts: int,
        replica: Callable[[Any], None], stopping: Callable[[], bool], notice: Callable[[str, str], None],
    ) -> None:  # fmt: skip
        self._folder, self._settings = folder, settings
        self._restarts, self._notice, self._replica, self._stopping = restarts, notice, replica, stopping
        self._servers, self._replicas = servers, replicas
        self._parts: list[_Part] = []
        self.address = ""
        self.link: CoordinatorLink | None = None  # of this process, once it is a member
        self.ending = False

    def __enter__(self) -> Launch:
        for old in (*self._folder.glob("server-*"), *self._folder.glob("replica-*")):
            shutil.rmtree(old, ignore_errors=True)
        self._sockets = SocketFolder()
        try:
            self._start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        deadline = time.monotonic() + (_ENDING if self.ending else 0)
        for part in reversed(self._parts):  # replicas before servers
            if part.child is not None:
                if not self._ends(part.child, deadline):
                    part.child.kill()
                part.child.close()
                part.child = None
        self._sockets.close()

    def _ends(self, child: Child, deadline: float) -> bool:
        """Wait for a child's end; a replica whose servers are gone, which came too late to join, has little time."""
        while not child.wait(min(deadline, time.monotonic() + _LOOK)):
            if time.monotonic() >= deadline:
                return False
            servers = (part.child for part in self._parts if part.function is serve_for_supervisor)
            if all(server is None or server.exit_code is not None for server in servers):
                deadline = min(deadline, time.monotonic() + _ORPHANED)
                return child.wait(deadline)
        return True

    def _start_all(self) -> None:
        for number in range(self._servers):
            folder = server_folder(self._folder, number)
            folder.mkdir(parents=True)
            address = str(SocketFile(self._sockets.path / folder.name))
            spec = ServerSpec(
                address, join=self.address or None, servers=self._servers, snapshots=folder,
                address_file=folder / ADDRESS_FILE,
            )  # fmt: skip
            part = _Part(f"parameter server {number}", serve_for_supervisor, spec, EarlyDeaths(self._restarts))
            self._parts.append(part)
            self._start(part)
            self._wait_for(part, folder / ADDRESS_FILE)
            self.address = self.address or address
        for number in range(1, self._replicas):
            settings = {**self._settings, "join": self.address, "run_dir": str(self._folder / f"replica-{number}")}
            task = ReplicaTask(settings, (number, self._replicas))
            part = _Part(f"replica {number}", self._replica, task, EarlyDeaths(self._restarts))
            self._parts.append(part)
            self._start(part)

    def _wait_for(self, part: _Part, path: Path) -> None:
        """Wait until a server listens, and has written `path`; start it again if it dies. Raises ProcessError."""
        deadline = time.monotonic() + _STARTING
        while not path.exists():
            if time.monotonic() > deadline:
                raise ProcessError(f"{part.name} was not ready {_STARTING:g} s after its start")
            self.watch()
            time.sleep(_LOOK)

    def _say_dead(self, process: int) -> None:
        """Say that a replica died; before this process is a member, the coordinator finds out by itself."""
        if self.link is not None:
            say_dead(self.link, process)

    def _start(self, part: _Part) -> None:
        try:
            part.child = start_child(part.name, part.function, part.argument, [], None)
        except OSError as error:
            raise ProcessError(f"cannot start {part.name}: {refusal(error)}") from None

    def children(self) -> dict[str, Child]:
        """Return name -> process of the living."""
        return {part.name: part.child for part in self._parts if part.child is not None}

    def watch(self) -> None:
        """Start again what died; raises ProcessError once a server, or the last replica's place, is given up."""
        for part in self._parts:
            if part.child is None or part.child.exit_code is None:
                continue
            code, how, words = part.child.exit_code, part.child.describe_end(), part.child.last_words()
            part.deaths.note(time.monotonic() - part.child.started)
            process = part.child.pid
            part.child.close()
            part.child = None
            if code == 0:
                continue  # its part of the run is done
            if part.function is not serve_for_supervisor:
                self._say_dead(process)
                if self._stopping():
                    continue
            if part.deaths.too_many:
                if part.function is serve_for_supervisor:
                    raise ProcessError(f"the run cannot go on: {part.name} {how}")
                self._notice(f"{part.name} {how}; given up after {several(part.deaths.in_a_row, 'early death')}", words)
                continue
            self._notice(f"{part.name} {how}; started again", words)
            if part.function is not serve_for_supervisor:
                shutil.rmtree(part.argument.settings["run_dir"], ignore_errors=True)
            self._start(part)
