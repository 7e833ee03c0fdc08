"""What a parameter server knows of its run, and how it joins, reports and leaves.

One interface, whether the coordinator runs in the same process (`HostedRun`) or in another (`RemoteRun`); which of the
two it is changes if the coordinator is elected (`elected_run`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Protocol

from adam_mp.errors import TransportError
from adam_mp.params.run.announcements import Announcements
from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.membership import CoordinatorLink, new_life
from adam_mp.params.run.news import News
from adam_mp.params.run.silences import SilenceNotices
from adam_mp.params.run.statements import SERVER, Joining, Reporting
from adam_mp.transport.forms import read, write
from adam_mp.transport.messages import FrameError
from adam_mp.transport.places import Place

_LOST = 60.0  # seconds of silence of the coordinator after which a server gives up
MakeReport = Callable[[], Reporting]


class RunView(Protocol):
    """A parameter server's membership of its run."""

    @property
    def run(self) -> int:
        """The run's number, 0 before it is known."""

    @property
    def phase(self) -> str:
        """One of "waiting", "training", "done", by the coordinator's last news."""

    @property
    def over(self) -> bool:
        """Whether the run is done, and no replica is in it or may come back to it."""

    @property
    def replicas(self) -> int:
        """How many replicas the servers wait for before they end."""

    @property
    def coordinator(self) -> str:
        """The coordinator's address, for the refusal of a message that should have gone there; "" if not known now."""

    def is_replica(self, identity: int) -> bool:
        """Tell whether a replica with this identity is a member."""

    def join(self, now: float, seconds: float, stop: Callable[[], bool]) -> News | None:
        """Join within `seconds`; return the coordinator's news, None if they come with the first report.

        Raises TransportError, and StoppedError when `stop` returns True.
        """

    def report(self, make: MakeReport, interval: float, now: float) -> News | None:
        """Report what `make` returns, if `interval` seconds have passed since the last report.

        Return the coordinator's news, None if there are none now. Never waits. Raises TransportError.
        """

    def has(self, groups: Collection[int], bucket_map: BucketMap) -> None:
        """Note which groups of buckets this server has in memory: it says so when it joins again."""

    def leave(self) -> None:
        """Tell the coordinator that this server goes."""


class OwnJoining:
    """The JOIN of a server at `address`, and at `copies` for copies if the run has them."""

    def __init__(self, address: str, copies: str = "") -> None:
        self._joining = Joining(SERVER, f"params {address}", address, copies=copies)

    def has(self, groups: Collection[int], bucket_map: BucketMap, run: int) -> None:
        """See `RunView.has`."""
        self._joining = dataclasses.replace(self._joining, kept=sorted(groups), map=bucket_map, run=run)

    def write(self) -> dict[str, object]:
        """Return the message's facts as of now."""
        return write(self._joining)


class HostedRun:
    """The view of a server whose coordinator runs in the same process."""

    def __init__(
        self, coordinator: Coordinator, identity: int, address: str, joining: OwnJoining | None = None
    ) -> None:  # fmt: skip
        self._coordinator, self._identity, self._address = coordinator, identity, address
        self._joining = joining or OwnJoining(address)
        self._reported = float("-inf")
        self._decided: BucketMap | None = None  # the coordinator's map at the last report

    @property
    def run(self) -> int:
        """See `RunView.run`."""
        return self._coordinator.run

    @property
    def phase(self) -> str:
        """See `RunView.phase`."""
        return self._coordinator.phase

    @property
    def over(self) -> bool:
        """See `RunView.over`."""
        return self._coordinator.over

    @property
    def replicas(self) -> int:
        """See `RunView.replicas`."""
        return self._coordinator.awaited_replicas

    @property
    def coordinator(self) -> str:
        """See `RunView.coordinator`."""
        return self._address

    def is_replica(self, identity: int) -> bool:
        """See `RunView.is_replica`."""
        return self._coordinator.is_replica(identity)

    def join(self, now: float, seconds: float = 0.0, stop: Callable[[], bool] = lambda: False) -> None:
        """See `RunView.join`; the news come with the first report."""
        self._join(now)
        self._coordinator.notices.clear()  # the user need not read that the first server has joined itself

    def report(self, make: MakeReport, interval: float, now: float) -> News | None:
        """See `RunView.report`."""
        decided = self._coordinator.roles.map
        if now - self._reported < interval and decided is self._decided:
            return None
        self._reported, self._decided = now, decided
        member = self._coordinator.roster.members.get(self._identity)
        if member is None:  # this process was stopped for so long that the coordinator has presumed it dead
            self._join(now)
            return None
        told = self._coordinator.report(self._identity, member.sequence + 1, write(make()), now)
        if self._coordinator.roles.has_to_wait(self._identity):
            return None  # the map that is told is older than what this server's joining has changed
        return read(News, told, FrameError)

    def _join(self, now: float) -> None:
        """Join with a new life, whose random bits nobody else can guess."""
        self._coordinator.join(self._identity, self._joining.write(), now, new_life())

    def has(self, groups: Collection[int], bucket_map: BucketMap) -> None:
        """See `RunView.has`."""
        self._joining.has(groups, bucket_map, self.run)

    def leave(self) -> None:
        """See `RunView.leave`; does nothing, as the coordinator ends with this process."""


class RemoteRun:
    """The view of a server whose coordinator runs in another process, reached by `link`."""

    def __init__(
        self, link: CoordinatorLink, joining: OwnJoining, announcements: Announcements, news: News | None = None,
        patience: float = _LOST,
    ) -> None:  # fmt: skip
        self._link, self._joining, self._announcements = link, joining, announcements
        self._news = news or News()
        self._senders = frozenset(self._news.senders)  # identities of the replicas
        self._reported = float("-inf")
        self._patience, self._waiting = patience, ""
        self._silences = SilenceNotices(patience, announcements.say)

    @property
    def run(self) -> int:
        """See `RunView.run`."""
        return self._link.run

    @property
    def phase(self) -> str:
        """See `RunView.phase`."""
        return self._news.phase

    @property
    def over(self) -> bool:
        """See `RunView.over`."""
        return self.phase == "done" and not self.replicas

    @property
    def replicas(self) -> int:
        """See `RunView.replicas`."""
        return self._news.replicas

    @property
    def coordinator(self) -> str:
        """See `RunView.coordinator`."""
        return str(self._link.address)

    def is_replica(self, identity: int) -> bool:
        """See `RunView.is_replica`; the members are those of the coordinator's last news."""
        return identity in self._senders

    def join(self, now: float, seconds: float, stop: Callable[[], bool]) -> News:
        """See `RunView.join`."""
        self._announcements.say(f"joining the run of {self._link.address}")
        return self._take(self._link.join(self._joining.write(), seconds, stop, self._announcements.say))

    def report(self, make: MakeReport, interval: float, now: float) -> News | None:
        """See `RunView.report`."""
        if not self._link.busy:
            if now - self._reported < interval:
                return None
            self._reported = now
        news = self._link.report(lambda: write(make()), self._joining.write, interval)
        coordinator, silence = self._link.who, self._link.silence
        if silence > self._patience:
            raise TransportError(f"{coordinator} is silent for {self._patience:g} s: {self._link.trouble()}")
        if self._link.waiting and self._link.waiting != self._waiting:
            self._announcements.say(f"waiting to join {self._link.address}: {self._link.waiting}")
        self._waiting = self._link.waiting
        self._silences.step({coordinator: silence})
        return None if news is None else self._take(news)

    def has(self, groups: Collection[int], bucket_map: BucketMap) -> None:
        """See `RunView.has`."""
        self._joining.has(groups, bucket_map, self.run)

    def leave(self) -> None:
        """See `RunView.leave`."""
        self._link.leave()

    def turn_to(self, coordinator: Place) -> None:
        """Ask the coordinator at another address from now on."""
        self._link.turn_to(coordinator)

    def close(self) -> None:
        """Hang up on the coordinator."""
        self._link.close()

    def _take(self, news: News) -> News:
        before, self._news = self.phase, news
        self._senders = frozenset(news.senders)
        if self.phase == "done" != before:
            self._announcements.say("the run is done")
        return news
