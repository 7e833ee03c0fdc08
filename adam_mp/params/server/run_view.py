"""What a parameter server knows of its run, and how it is a member: one interface, wherever the coordinator is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from adam_mp.errors import TransportError
from adam_mp.params.run.announcements import Announcements
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.membership import CoordinatorLink, new_life
from adam_mp.params.run.news import News
from adam_mp.params.run.silences import SilenceNotices
from adam_mp.params.run.statements import SERVER, Joining, Reporting
from adam_mp.transport.forms import read, write
from adam_mp.transport.messages import FrameError

_LOST = 60.0  # seconds without the coordinator after which a server gives up
MakeStatistics = Callable[[], Mapping[str, float]]


class RunView(Protocol):
    """A parameter server's membership of its run."""

    @property
    def run(self) -> int:
        """The run's identity, 0 before it is known."""

    @property
    def phase(self) -> str:
        """One of "waiting", "training", "done", as far as is known here."""

    @property
    def over(self) -> bool:
        """Whether the run is done, and no replica is in it or may come back to it."""

    @property
    def replicas(self) -> int:
        """For how many replicas the servers stay."""

    @property
    def coordinator(self) -> str:
        """Where the coordinator is, for who asks here."""

    def is_replica(self, identity: int) -> bool:
        """Tell whether a replica with this identity is a member."""

    def join(self, now: float, seconds: float, stop: Callable[[], bool]) -> News | None:
        """Join, and return the coordinator's news if there are any yet; it may take `seconds`.

        Raises TransportError, and StoppedError when `stop` says so.
        """

    def report(self, make: MakeStatistics, interval: float, now: float) -> News | None:
        """Tell the coordinator what `make` returns, where `interval` seconds have passed since the last time.

        Returns its news, None if there are none now. Never waits. Raises TransportError.
        """

    def leave(self) -> None:
        """Say goodbye."""


def _joining(address: str) -> dict[str, object]:
    """Return what a parameter server at `address` joins with, the first time and again."""
    return write(Joining(SERVER, f"params {address}", address))


class HostedRun:
    """The view of a server whose coordinator runs in the same process."""

    def __init__(self, coordinator: Coordinator, identity: int, address: str) -> None:
        self._coordinator, self._identity, self._address = coordinator, identity, address
        self._reported = float("-inf")

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
        self._coordinator.notices.clear()  # that it is a member itself goes without saying

    def report(self, make: MakeStatistics, interval: float, now: float) -> News | None:
        """See `RunView.report`."""
        if now - self._reported < interval:
            return None
        self._reported = now
        member = self._coordinator.roster.members.get(self._identity)
        if member is None:  # the process was stopped for so long that the coordinator took it for dead
            self._join(now)
            return None
        facts = write(Reporting(statistics=make()))
        return read(News, self._coordinator.report(self._identity, member.sequence + 1, facts, now), FrameError)

    def _join(self, now: float) -> None:
        """Join with a life that nobody else knows."""
        self._coordinator.join(self._identity, _joining(self._address), now, new_life())

    def leave(self) -> None:
        """See `RunView.leave`; the coordinator ends with this process."""


class RemoteRun:
    """The view of a server whose coordinator is at the other end of `link`."""

    def __init__(self, link: CoordinatorLink, address: str, announcements: Announcements) -> None:
        self._link, self._joining, self._announcements = link, _joining(address), announcements
        self._news = News()
        self._senders: frozenset[int] = frozenset()  # identities of the replicas
        self._reported = float("-inf")
        self._silences = SilenceNotices(_LOST, announcements.say)

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
        """See `RunView.is_replica`; true of those that the coordinator named last."""
        return identity in self._senders

    def join(self, now: float, seconds: float, stop: Callable[[], bool]) -> News:
        """See `RunView.join`."""
        self._announcements.say(f"joining the run of {self._link.address}")
        return self._take(self._link.join(self._joining, seconds, stop, self._announcements.say))

    def report(self, make: MakeStatistics, interval: float, now: float) -> News | None:
        """See `RunView.report`."""
        if not self._link.busy:
            if now - self._reported < interval:
                return None
            self._reported = now
        news = self._link.report(lambda: write(Reporting(statistics=make())), lambda: self._joining, interval)
        coordinator, silence = f"the coordinator at {self._link.address}", self._link.silence
        if silence > _LOST:
            raise TransportError(f"{coordinator} is silent for {_LOST:g} s: {self._link.trouble()}")
        self._silences.look({coordinator: silence})
        return None if news is None else self._take(news)

    def leave(self) -> None:
        """See `RunView.leave`."""
        self._link.leave()

    def _take(self, news: News) -> News:
        before, self._news = self.phase, news
        self._senders = frozenset(news.senders)
        if self.phase == "done" != before:
            self._announcements.say("the run is done")
        return news
