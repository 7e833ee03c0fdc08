"""A launch (`train --servers`): the parameter servers and further replicas of a run as child processes here.

The process that the user started is the first replica, and looks after the others. A parameter server that dies is
started again at its address, from its snapshot. If a replica dies, this process tells the coordinator, so that its
leases are free at once, and starts another one in its place. What servers note for the user, such as a change of roles,
is shown here.

Every user of the machine can reach its loopback addresses. So the parameter servers listen on socket files in a folder
that only this user can enter, and need no keys. The run removes that folder at its end; the next run removes one that a
killed run has left.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adam_mp.errors import ProcessError, refusal, several
from adam_mp.params.run.bucket_map import COMMIT_COPIED
from adam_mp.params.run.membership import CoordinatorLink
from adam_mp.params.server.serving import NOTE, ServerSpec, serve_for_supervisor
from adam_mp.process.child import Child, start_child
from adam_mp.process.early_deaths import EarlyDeaths
from adam_mp.training.folder.run_folder import RUN_FILE
from adam_mp.training.replica.joining import say_dead
from adam_mp.training.replica.launched import ADDRESS_FILE, server_folder
from adam_mp.transport.socket_files import SocketFile, SocketFolder

if TYPE_CHECKING:
    from adam_mp.training.settings.settings import TrainSettings

_STARTING = 120.0  # seconds for a parameter server to listen: the first may have to compile kernels
_ENDING = 20.0  # seconds for the parts of a finished run to end by themselves
_ORPHANED = 3.0  # seconds for a replica to end once all parameter servers have ended
_LOOK = 0.01  # seconds between two looks


@dataclasses.dataclass
class _Part:
    """A parameter server or a replica: how to start it, its early deaths, its present process."""

    name: str
    function: Callable[[Any], None]
    argument: Any
    deaths: EarlyDeaths
    child: Child | None = None


@dataclasses.dataclass(frozen=True)
class ReplicaTask:
    """What a further replica is told: its settings, and its `share`, (index, count) among this machine's replicas."""

    settings: Mapping[str, Any]
    share: tuple[int, int]


def _sign_of_life(part: _Part) -> Path:
    """Return the file that a part's process writes once it has loaded what it needs.

    A replica has planned its run then, a parameter server listens.
    """
    if isinstance(part.argument, ReplicaTask):
        return Path(part.argument.settings["run_dir"]) / RUN_FILE
    return Path(part.argument.address_file)


@dataclasses.dataclass(frozen=True)
class LaunchShape:
    """How many parameter `servers` and `replicas` a run has, how many `copies` of all weights, and how it commits."""

    servers: int
    replicas: int
    copies: int = 1
    commit: str = COMMIT_COPIED

    @classmethod
    def of(cls, settings: TrainSettings) -> LaunchShape:
        """Return the shape that the settings ask for."""
        assert settings.servers is not None
        return cls(settings.servers, settings.replicas, min(settings.copies, settings.servers), settings.commit)


class Launch:
    """The parts of a run beside this process: the servers of `shape`, and its replicas less this one.

    Use as a context manager: leaving it ends all of them, at once unless `ending` was set because the run is done.
    `address` is the coordinator's. The caller sets `link` once this process has joined the run. `replica` is the
    function that trains as a further replica, given a ReplicaTask with `settings`; it ends with exit code 0 only if its
    part of the run is done. `stopping` returns whether this process was asked to stop. If so, no dead replica gets a
    successor: the signal may have been sent to all processes of the run. `notice` takes a line for the user and
    details.
    """

    def __init__(
        self, folder: Path, shape: LaunchShape, settings: Mapping[str, Any], restarts: int,
        replica: Callable[[Any], None], stopping: Callable[[], bool], notice: Callable[..., None],
    ) -> None:  # fmt: skip
        self._folder, self._settings = folder, settings
        self._restarts, self._notice, self._replica, self._stopping = restarts, notice, replica, stopping
        self._shape = shape
        self._parts: list[_Part] = []
        self.address = ""
        self.link: CoordinatorLink | None = None  # this process's line to the coordinator, once it has joined
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
        for part in reversed(self._parts):  # replicas before parameter servers
            if part.child is not None:
                if not self._ends(part.child, deadline):
                    part.child.kill()
                part.child.close()
                part.child = None
        self._sockets.close()

    def _ends(self, child: Child, deadline: float) -> bool:
        """Wait until `deadline` for a child's end; tell whether it has ended.

        Once all parameter servers have ended, the deadline is near: a replica that is left then came too late to join.
        """
        while not child.wait(min(deadline, time.monotonic() + _LOOK)):
            if time.monotonic() >= deadline:
                return False
            servers = (part.child for part in self._parts if part.function is serve_for_supervisor)
            if all(server is None or server.exit_code is not None for server in servers):
                deadline = min(deadline, time.monotonic() + _ORPHANED)
                return child.wait(deadline)
        return True

    def _start_all(self) -> None:
        for number in range(self._shape.servers):
            folder = server_folder(self._folder, number)
            folder.mkdir(parents=True)
            address = str(SocketFile(self._sockets.path / folder.name))
            spec = ServerSpec(
                address, join=self.address or None, servers=self._shape.servers, snapshots=folder,
                address_file=folder / ADDRESS_FILE, copies=self._shape.copies, commit=self._shape.commit,
                copies_listen=str(SocketFile(self._sockets.path / f"{folder.name}-copies")),
            )  # fmt: skip
            part = _Part(f"parameter server {number}", serve_for_supervisor, spec, EarlyDeaths(self._restarts))
            self._parts.append(part)
            self._start(part)
            self._wait_for(part, folder / ADDRESS_FILE)
            self.address = self.address or address
        for number in range(1, self._shape.replicas):
            settings = {**self._settings, "join": self.address, "run_dir": str(self._folder / f"replica-{number}")}
            task = ReplicaTask(settings, (number, self._shape.replicas))
            part = _Part(f"replica {number}", self._replica, task, EarlyDeaths(self._restarts))
            self._parts.append(part)
            self._start(part)

    def _wait_for(self, part: _Part, path: Path) -> None:
        """Wait until a parameter server listens and has written `path`; `step` meanwhile. Raises ProcessError."""
        deadline = time.monotonic() + _STARTING
        while not path.exists():
            if time.monotonic() > deadline:
                raise ProcessError(f"{part.name} was not ready {_STARTING:g} s after its start")
            self.step()
            time.sleep(_LOOK)

    def _say_dead(self, process: int) -> None:
        """Tell the coordinator that a replica died. Before this process has joined, it must find out by itself."""
        if self.link is not None:
            say_dead(self.link, process)

    def _start(self, part: _Part) -> None:
        _sign_of_life(part).unlink(missing_ok=True)  # that of a process which died is none of its successor
        try:
            part.child = start_child(part.name, part.function, part.argument, [], None)
        except OSError as error:
            raise ProcessError(f"cannot start {part.name}: {refusal(error)}") from None

    def _tell_notes(self, name: str, lines: list[str]) -> None:
        """Show the user what the parameter server `name` has noted among these lines; servers get their names here."""
        for line in lines:
            if not line.startswith(NOTE):
                continue
            note = line.removeprefix(NOTE)
            for part in reversed(self._parts):  # server 10 before server 1, whose address begins like that
                if isinstance(part.argument, ServerSpec):
                    note = note.replace(part.argument.listen, part.name)
            self._notice(note if note.startswith("parameter server") else f"{name}: {note}")

    def children(self) -> dict[str, Child]:
        """Return name -> child of the living parts."""
        return {part.name: part.child for part in self._parts if part.child is not None}

    def step(self) -> None:
        """Tell what servers note, and start parts that died again.

        Raises ProcessError once a parameter server has died too often.

        A further replica that has died too often is given up, and the run goes on without it.
        """
        for part in self._parts:
            if part.child is None:
                continue
            has_ended = part.child.exit_code is not None
            if part.function is serve_for_supervisor:
                self._tell_notes(part.name, part.child.new_lines())
            if not has_ended:
                continue
            code, how, words = part.child.exit_code, part.child.describe_end(), part.child.last_words()
            part.deaths.note(
                time.monotonic() - part.child.started,
                words="" if _sign_of_life(part).exists() else part.child.own_fault(),
            )
            lines = part.child.last_lines() if part.deaths.hopeless else ""
            shown = "; its last lines:" if lines else ""
            process = part.child.pid
            part.child.close()
            part.child = None
            if code == 0:
                continue  # it ended because the run is done
            if part.function is not serve_for_supervisor:
                self._say_dead(process)
                if self._stopping():
                    continue
            if part.deaths.too_many:
                if part.function is serve_for_supervisor:
                    raise ProcessError(f"the run cannot go on: {part.name} {how}{shown}{lines}")
                deaths = several(part.deaths.in_a_row, "early death")
                self._notice(f"{part.name} {how}; given up after {deaths}{shown}", words, lines.removeprefix("\n"))
                continue
            self._notice(f"{part.name} {how}; started again", words)
            if part.function is not serve_for_supervisor:
                shutil.rmtree(part.argument.settings["run_dir"], ignore_errors=True)
            self._start(part)
