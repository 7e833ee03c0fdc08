"""The loop of a parameter server's process: receives messages, and hands each to the server or to the coordinator.

Each process has one parameter server. The first process of a run also has the coordinator, at the same address. Neither
sees the other's messages. Only this module reads the clock.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

from adam_mp.errors import StoppedError
from adam_mp.params.run.announcements import Announcements
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.coordinator_service import CONTROL, CoordinatorService
from adam_mp.params.run.membership import CoordinatorLink
from adam_mp.params.run.replies import Arrived, Replies
from adam_mp.params.server.copy_path import CopyPath
from adam_mp.params.server.copying import CopySettings
from adam_mp.params.server.elected_run import Controller, ElectedRun
from adam_mp.params.server.persistence import SnapshotFolder
from adam_mp.params.server.run_view import HostedRun, OwnJoining, RemoteRun, RunView
from adam_mp.params.server.server import ParameterServer
from adam_mp.params.server.server_memory import TURN, TURN_BYTES
from adam_mp.transport.endpoint import Endpoint
from adam_mp.transport.places import Place

_IDLE = 0.02  # seconds that a turn waits for a first message
_OWING = 0.002  # the same while answers are owed or news awaited: they may wait for a buffer or the coordinator
DONE, STOPPED, ALONE = "done", "stopped", "alone"  # how a server's work ends


@dataclasses.dataclass(frozen=True)
class CopyPlace:
    """Where a server takes copies: its address for them, its path to other servers', how to `wait` for a message.

    `wait` returns whether there may be a message at the server's endpoint.
    """

    address: str
    path: CopyPath
    settings: CopySettings
    wait: Callable[[float], bool] | None = None


@dataclasses.dataclass(frozen=True)
class Elections:
    """How this server takes part in the election of the coordinator, and makes a `link` to the one elected."""

    controller: Controller
    link: Callable[[Place], CoordinatorLink]


class ServerLoop:
    """Takes messages that arrive at `endpoint`, for `server` and, if this process has the coordinator, for `service`.

    Both answer through `replies`. `clock` returns seconds; tests give a simulated one. `wait` waits for so many seconds
    at most until there is a message at `endpoint` or a copy, and returns whether there may be one at `endpoint`; None
    if there are no copies. A turn is one iteration.
    """

    def __init__(
        self, endpoint: Endpoint, server: ParameterServer, service: CoordinatorService | None, replies: Replies,
        clock: Callable[[], float] = time.monotonic, wait: Callable[[float], bool] | None = None,
    ) -> None:  # fmt: skip
        self._endpoint, self.server, self.service = endpoint, server, service
        self._elected = server.view if isinstance(server.view, ElectedRun) else None
        self._replies, self._clock, self._wait = replies, clock, wait

    def run(self, stop: Callable[[], bool], seconds_to_join: float = 30.0, wait: float = math.inf) -> str:
        """Serve until the run ends; return how it ended. Raises AdamError.

        DONE: the run is done and its replicas have left. STOPPED: `stop` returned True. ALONE: the run had no replica
        for `wait` seconds, which only the process with the coordinator can tell.
        """
        view = self.server.view
        try:
            news = view.join(self._clock(), seconds_to_join, stop)
        except StoppedError:
            return STOPPED
        if news is not None:
            self.server.learn(news)
        outcome = ""
        while not outcome:
            self.step(_IDLE)
            if view.over and (self.service is None or self.service.ended):
                outcome = DONE
            elif stop():
                outcome = STOPPED
            elif self.service is not None and self.service.coordinator.alone > wait:
                outcome = ALONE
        view.leave()
        return outcome

    def step(self, seconds: float) -> int:
        """Wait up to `seconds` for a first message, take all that have arrived, do regular work; return how many."""
        if self.server.copying is not None:
            seconds = min(seconds, self.server.copying.next_due(self._clock()))
        hurries = self.server.owes or self.server.awaits_news
        arrived, behind = self._receive(min(seconds, _OWING) if hurries else seconds)
        now = self._clock()
        if self._elected is not None:
            self._elected.step(now, self.server.hears_servers())
            self.service = self._elected.service
        if arrived:
            self.server.hear(now)
        for each in arrived:
            if each.message.kind not in CONTROL:
                self.server.take(each, now)
            elif self.service is not None:
                self.service.take(each, now)
            else:
                self._point_to_coordinator(each)
        self.server.apply_deltas(now)
        if self.service is not None:
            self.service.step(now, behind)
        self.server.step(now, len(arrived))
        return len(arrived)

    def _point_to_coordinator(self, each: Arrived) -> None:
        """Say where the coordinator is. While none is elected, say nothing: the sender asks again."""
        there = self.server.view.coordinator
        if there:
            reason = f"the coordinator of this run is at {there}"
            elected = there if self._elected is not None else ""
            self._replies.refuse(each, self.server.header, reason, coordinator=elected)

    def _receive(self, seconds: float) -> tuple[list[Arrived], bool]:
        """Return the messages that have arrived, up to a bound, and whether more may be waiting."""
        if self._wait is not None and seconds:
            if not self._wait(seconds):
                return [], False
            seconds = 0
        arrived: list[Arrived] = []
        size = 0
        while len(arrived) < TURN and size < TURN_BYTES:
            received = self._endpoint.receive(0 if arrived else seconds)
            if received is None:
                return arrived, False
            arrived.append(Arrived(*received))
            size += received[1].length
        return arrived, True

    def close(self) -> None:
        """Write all that is not on disk yet, and free the memory."""
        hosted = self.service is not None and self._elected is None
        self.server.close(self.service.unwritten() if hosted and self.service is not None else None)


def make_loop(
    endpoint: Endpoint, address: str, identity: int, coordinator: Coordinator | CoordinatorLink | Elections,
    snapshots: SnapshotFolder | None, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic,
    copies: CopyPlace | None = None, note: Callable[[str], None] | None = None,
) -> ServerLoop:  # fmt: skip
    """Return the loop of a server process that other members find at `address`.

    `coordinator` is the coordinator itself in the first server's process, else a link to it, or how one is elected.
    `snapshots` is None if the server keeps none. `tell` and `note` get the lines for the user (`Announcements`).
    `copies` is None in a run without copies.
    """
    announcements, replies, service = Announcements(tell, note), Replies(endpoint), None
    joining = OwnJoining(address, copies.address if copies is not None else "")
    if isinstance(coordinator, Coordinator):
        view: RunView = HostedRun(coordinator, identity, address, joining)
        service = CoordinatorService(coordinator, identity, replies, announcements, snapshots)
    elif isinstance(coordinator, CoordinatorLink):
        view = RemoteRun(coordinator, joining, announcements)
    else:
        view = ElectedRun(coordinator.controller, coordinator.link, joining, replies, announcements)
    if copies is None:
        server = ParameterServer(endpoint, identity, view, replies, snapshots, announcements)
        return ServerLoop(endpoint, server, service, replies, clock)
    server = ParameterServer(
        endpoint, identity, view, replies, snapshots, announcements, copies.path, copies.settings
    )  # fmt: skip
    return ServerLoop(endpoint, server, service, replies, clock, copies.wait)
