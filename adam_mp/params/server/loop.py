"""The loop of a parameter server's process: hands each message to whom it concerns, and sees that all get their turn.

A process has a parameter server, and the first of a run has the coordinator beside it, at the same address. Neither
knows of the other's messages. The only clock is read here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from adam_mp.params.run.announcements import Announcements
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.coordinator_service import CONTROL, CoordinatorService
from adam_mp.params.run.membership import CoordinatorLink, StoppedError
from adam_mp.params.run.replies import Arrived, Replies
from adam_mp.params.server.persistence import SnapshotFolder
from adam_mp.params.server.run_view import HostedRun, RemoteRun, RunView
from adam_mp.params.server.server import ParameterServer
from adam_mp.params.server.server_memory import TURN, TURN_BYTES
from adam_mp.transport.endpoint import Endpoint

_IDLE = 0.02  # seconds
_OWING = 0.002  # the same while answers are owed: a transport does not tell when it lets go of a buffer
DONE, STOPPED, ALONE = "done", "stopped", "alone"  # how a server's work ends


class ServerLoop:
    """Takes what arrives at `endpoint` for `server` and, where the coordinator is here, for `service`.

    `replies` is what both answer with. `clock` returns seconds, and may be a simulated one.
    """

    def __init__(
        self, endpoint: Endpoint, server: ParameterServer, service: CoordinatorService | None, replies: Replies,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._endpoint, self.server, self.service = endpoint, server, service
        self._replies, self._clock = replies, clock

    def run(self, stop: Callable[[], bool], seconds_to_join: float = 30.0, wait: float = math.inf) -> str:
        """Serve until the run is DONE and its replicas left, `stop` says STOPPED, or it was ALONE for `wait` seconds.

        Returns which of these it was. Only the coordinator knows whether replicas are there. Raises AdamError.
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
            self.turn(_IDLE)
            if view.over and (self.service is None or self.service.ended):
                outcome = DONE
            elif stop():
                outcome = STOPPED
            elif self.service is not None and self.service.coordinator.alone > wait:
                outcome = ALONE
        view.leave()
        return outcome

    def turn(self, seconds: float) -> int:
        """Take what has arrived, waiting `seconds` for a first message, and see to other duties; return how many."""
        arrived, behind = self._receive(min(seconds, _OWING) if self.server.owes else seconds)
        now = self._clock()
        for each in arrived:
            if each.message.kind not in CONTROL:
                self.server.take(each, now)
            elif self.service is not None:
                self.service.take(each, now)
            else:
                reason = f"the coordinator of this run is at {self.server.view.coordinator}"
                self._replies.refuse(each, self.server.header, reason)
        self.server.settle(now)
        if self.service is not None:
            self.service.tend(now, behind)
        self.server.tend(now, len(arrived))
        return len(arrived)

    def _receive(self, seconds: float) -> tuple[list[Arrived], bool]:
        """Return what has arrived, up to a bound, and whether more may be waiting."""
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
        """Write what is not on disk yet, and give the memory back."""
        self.server.close(self.service.unwritten() if self.service is not None else None)


def make_loop(
    endpoint: Endpoint, address: str, identity: int, coordinator: Coordinator | CoordinatorLink,
    snapshots: SnapshotFolder | None, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic,
) -> ServerLoop:  # fmt: skip
    """Return the loop of a process that others find at `address`, with the coordinator or a link to it.

    `snapshots` may be None. What the process says goes to `tell`.
    """
    announcements, replies, service = Announcements(tell), Replies(endpoint), None
    if isinstance(coordinator, Coordinator):
        view: RunView = HostedRun(coordinator, identity, address)
        service = CoordinatorService(coordinator, identity, replies, announcements, snapshots)
    else:
        view = RemoteRun(coordinator, address, announcements)
    server = ParameterServer(endpoint, identity, view, replies, snapshots, announcements)
    return ServerLoop(endpoint, server, service, replies, clock)
