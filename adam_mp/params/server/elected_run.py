"""A server's view of a run whose coordinator is elected: it is that of another server, or this server is elected.

    follows ──elected──▶ hosts the coordinator ──another is elected, or nobody is heard──▶ follows

The next server that hosts the coordinator finds in etcd what this one has decided, or hears it from members.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from adam_mp.params.controller.keeper import Keeper
from adam_mp.params.controller.record import Elected, Record
from adam_mp.params.controller.state import EtcdState, announced_in, make_coordinator
from adam_mp.params.run.announcements import Announcements
from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.coordinator_service import CoordinatorService
from adam_mp.params.run.member import Member
from adam_mp.params.run.membership import CoordinatorLink
from adam_mp.params.run.news import News
from adam_mp.params.run.replies import Replies
from adam_mp.params.run.statements import SERVER
from adam_mp.params.run.wishes import RoleWish
from adam_mp.params.server.run_view import HostedRun, MakeReport, OwnJoining, RemoteRun
from adam_mp.transport.places import Place, parse_place

_UNHEARD = 5.0  # seconds without a word of any other server, after which a coordinator may resign
_LOST = 3600.0  # seconds of silence of the coordinator after which a server gives up: etcd may be away too
_SILENT = 3.0  # seconds for which etcd may be silent before the user is told
_PAUSE = 0.02  # seconds between two pokes for the same reason


class Controller(Protocol):
    """The keeper, and the way to have it take a turn at once."""

    keeper: Keeper

    def poke(self) -> None:
        """Have the keeper take a turn."""

    def check(self) -> None:
        """Raise ProcessError if the keeper cannot take turns any more."""

    def close(self, forget: bool = False) -> None:
        """Resign and end; `forget` removes the keys of the run if this server is its coordinator."""


class ElectedRun:
    """See `RunView`; `service` is the coordinator's if this server hosts it. `link` makes a link to a coordinator."""

    def __init__(
        self, controller: Controller, link: Callable[[Place], CoordinatorLink], joining: OwnJoining, replies: Replies,
        announcements: Announcements,
    ) -> None:  # fmt: skip
        self._controller, self._keeper, self._link = controller, controller.keeper, link
        self._joining, self._replies, self._announcements = joining, replies, announcements
        self.service: CoordinatorService | None = None
        self._hosted: HostedRun | None = None
        self._remote: RemoteRun | None = None
        self._seen: Record | None = None  # the record that the coordinator here has taken
        self._followed: Elected | None = None  # the coordinator that the link was turned to last
        self._may_resign = True
        self._announced = 0  # the newest change of roles that the coordinator here has told of
        self._since = 0.0  # when the coordinator here began, in seconds in which it listened
        self._poked = float("-inf")
        self._mute_since: float | None = None  # since when etcd is silent
        self._is_told_mute = False

    # What the loop and the server ask.

    @property
    def run(self) -> int:
        """See `RunView.run`."""
        return self._view.run

    @property
    def phase(self) -> str:
        """See `RunView.phase`."""
        return self._view.phase

    @property
    def over(self) -> bool:
        """See `RunView.over`."""
        return self._view.over

    @property
    def replicas(self) -> int:
        """See `RunView.replicas`."""
        return self._view.replicas

    @property
    def coordinator(self) -> str:
        """See `RunView.coordinator`."""
        elected = self._keeper.elected
        return elected.address if elected is not None and elected != self._keeper.me else ""

    def is_replica(self, identity: int) -> bool:
        """See `RunView.is_replica`."""
        return self._view.is_replica(identity)

    def join(self, now: float, seconds: float, stop: Callable[[], bool]) -> None:
        """See `RunView.join`; never waits, because another may be elected meanwhile, and this server too."""
        if self._keeper.leads:
            self._host(now)
        else:
            self._remote = self._make_remote(News())  # it joins in place of its first report

    def report(self, make: MakeReport, interval: float, now: float) -> News | None:
        """See `RunView.report`."""
        return self._view.report(make, interval, now)

    def has(self, groups: Collection[int], bucket_map: BucketMap) -> None:
        """See `RunView.has`."""
        self._view.has(groups, bucket_map)

    def leave(self) -> None:
        """See `RunView.leave`."""
        self._view.leave()

    def step(self, now: float, hears_servers: bool) -> None:
        """Follow what the keeper has found out; the loop calls it at the begin of each turn.

        `hears_servers` says whether beats of some other server come.
        """
        keeper = self._keeper
        self._controller.check()
        if self._view.run:
            keeper.run = self._view.run
        if keeper.proposal is not None:
            self._poke(now)
        if self.service is None and keeper.leads:
            self._host(now)
        elif self.service is not None and not keeper.leads:
            self._follow()
        elif self.service is not None:
            self._learn(self.service.coordinator)
            self._resign_if_cut_off(self.service.coordinator, hears_servers, now)
        elif self._remote is not None and self.coordinator and keeper.elected != self._followed:
            self._followed = keeper.elected
            self._remote.turn_to(parse_place(self.coordinator, "the coordinator's address"))
        self._tell_trouble(now)

    def want(self, wishes: tuple[RoleWish, ...], outdated: bool, now: float) -> None:
        """Have the keeper swap roles; `outdated` says that another server knows a newer map."""
        self._keeper.wishes = wishes
        if outdated:
            self._keeper.outdated = True
        if wishes or outdated:
            self._poke(now)

    def stored(self) -> BucketMap | None:
        """Return the bucket map in etcd, as far as this server has seen it; None if there is none of its run."""
        record = self._keeper.record
        return record.map if record is not None and record.run == self.run else None

    # Changes.

    def _poke(self, now: float) -> None:
        """Have the keeper take a turn at once, unless it just did."""
        if now - self._poked >= _PAUSE:
            self._poked = now
            self._controller.poke()

    @property
    def _view(self) -> HostedRun | RemoteRun:
        view = self._hosted or self._remote
        assert view is not None, "a server joins before it serves"
        return view

    def _host(self, now: float) -> None:
        """Begin to host the coordinator."""
        keeper, record = self._keeper, self._keeper.record
        assert record is not None
        state = keeper.stored_state()
        coordinator = make_coordinator(record, state)
        coordinator.roles.elected, coordinator.roles.store = True, keeper.is_stored
        folder = EtcdState(keeper, lambda: self._announced)
        service = CoordinatorService(coordinator, keeper.me.identity, self._replies, self._announcements, folder)
        hosted = HostedRun(coordinator, keeper.me.identity, keeper.me.address, self._joining)
        hosted.join(now)
        if self._remote is not None:
            if self._remote.run:
                self._announcements.say("this server is the coordinator now")
            self._remote.close()
        self._keeper.proposal = None
        self._announced, self._since, self._seen = announced_in(state), coordinator.listened, None
        self._hosted, self._remote, self.service = hosted, None, service

    def _follow(self) -> None:
        """Leave the coordinator's part to another server."""
        assert self.service is not None
        coordinator = self.service.coordinator
        senders = tuple(member.identity for member in coordinator.roster.replicas())
        news = News(
            run=coordinator.run, phase=coordinator.phase, replicas=coordinator.awaited_replicas, senders=senders
        )
        there = self.coordinator
        self._announcements.say(
            f"the server at {there} is the coordinator now" if there else "this server is not the coordinator any more"
        )
        self._keeper.proposal = self._keeper.state = None
        self._remote, self._hosted, self.service = self._make_remote(news), None, None

    def _make_remote(self, news: News) -> RemoteRun:
        """Return the view by a link to the coordinator. If none is known, that link turns to it later."""
        self._followed = self._keeper.elected
        link = self._link(parse_place(self.coordinator or self._keeper.me.address, "the coordinator's address"))
        link.run = news.run
        return RemoteRun(link, self._joining, self._announcements, news, _LOST)

    def _learn(self, coordinator: Coordinator) -> None:
        """Have the coordinator take a map that servers have stored, and tell the user of their changes."""
        record = self._keeper.record
        if record is None or record is self._seen or record.run != coordinator.run:
            return
        self._seen = record
        if record.map is not None:
            coordinator.roles.stored(record.map, coordinator.listened)
            self._keeper.proposal = None  # if it is still wanted, it is made again
        for change in record.changes:
            if change.epoch > self._announced and not coordinator.over:
                coordinator.role_notices.append(change.line)
                coordinator.roles.note_silent(change.silent, coordinator.listened)
        self._announced = record.map.epoch if record.map is not None else 0

    def _resign_if_cut_off(self, coordinator: Coordinator, hears_servers: bool, now: float) -> None:
        """Resign if the other servers do not report, but live; or if nobody at all is heard.

        In the first case they may have turned to another coordinator, of whom a server without a way to etcd does not
        know. In the second it is this server that is cut off. But one that was elected again has no rival.
        """
        me, listened = self._keeper.me.identity, coordinator.listened
        others = [member for member in coordinator.roster.members.values() if member.identity != me]
        servers = [member for member in others if member.role == SERVER]
        if coordinator.phase != "training" or coordinator.map is None or len(coordinator.map.servers) < 2:
            return

        def unheard(members: Sequence[Member]) -> bool:
            return listened - max((self._since, *(member.seen for member in members))) > _UNHEARD

        if not unheard(servers):
            self._may_resign = True
        elif self._may_resign and (hears_servers or unheard(others)):
            self._may_resign = False
            self._keeper.resign()
            self._announcements.say("no other server reports here: this one leaves the coordinator's part to them")

    def _tell_trouble(self, now: float) -> None:
        trouble = self._keeper.trouble
        if not trouble:
            if self._is_told_mute:
                self._announcements.say("etcd answers again")
            self._mute_since, self._is_told_mute = None, False
            return
        self._mute_since = now if self._mute_since is None else self._mute_since
        if not self._is_told_mute and now - self._mute_since >= _SILENT:
            self._is_told_mute = True
            self._announcements.say(f"{trouble}; training goes on, but changes of roles wait")
