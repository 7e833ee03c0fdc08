"""A server's view of a run whose coordinator is elected: it is that of another server, or this server is elected.

    follows ──elected──▶ hosts the coordinator ──another is elected, or nobody is heard──▶ follows

What a server that hosts the coordinator decides for all is in etcd, or members tell it to the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Protocol

from adam_mp.errors import JoinError
from adam_mp.params.controller.keeper import LEASE, Keeper
from adam_mp.params.controller.record import Record
from adam_mp.params.controller.state import EtcdState, announced_in, make_coordinator, map_epoch
from adam_mp.params.run.announcements import Announcements
from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.coordinator_service import CoordinatorService
from adam_mp.params.run.membership import CoordinatorLink
from adam_mp.params.run.news import News
from adam_mp.params.run.replies import Replies
from adam_mp.params.run.wishes import RoleWish
from adam_mp.params.server.run_view import HostedRun, MakeReport, OwnJoining, RemoteRun
from adam_mp.transport.places import Place, parse_place

_UNHEARD = 5.0  # seconds in which a coordinator hears nobody, after which it resigns
_SILENT = 3.0  # seconds for which etcd may be silent before the user is told
_PAUSE = 0.02  # seconds between two pokes for the same reason


class Controller(Protocol):
    """The keeper, and the way to have it take a turn at once."""

    keeper: Keeper

    def poke(self) -> None:
        """Have the keeper take a turn."""

    def close(self, forget: bool = False) -> None:
        """Resign and end; `forget` removes the keys of the run if this server is its coordinator."""


class ElectedRun:
    """See `RunView`; `service` is the coordinator's if this server hosts it. `link` makes a link to a coordinator."""

    def __init__(
        self, controller: Controller, link: Callable[[Place], CoordinatorLink], joining: OwnJoining, replies: Replies,
        announcements: Announcements, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._controller, self._keeper, self._link = controller, controller.keeper, link
        self._joining, self._replies, self._announcements = joining, replies, announcements
        self._clock = clock
        self.service: CoordinatorService | None = None
        self._hosted: HostedRun | None = None
        self._remote: RemoteRun | None = None
        self._seen: Record | None = None  # the record that the coordinator here has taken
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

    def join(self, now: float, seconds: float, stop: Callable[[], bool]) -> News | None:
        """See `RunView.join`."""
        if self._keeper.leads:
            self._host(now)
            return None
        if not self.coordinator:
            raise JoinError("no server of the run is its coordinator")
        self._remote = self._make_remote(News())
        return self._remote.join(now, seconds, stop)

    def report(self, make: MakeReport, interval: float, now: float) -> News | None:
        """See `RunView.report`."""
        return self._view.report(make, interval, now)

    def has(self, groups: Collection[int], bucket_map: BucketMap) -> None:
        """See `RunView.has`."""
        self._view.has(groups, bucket_map)

    def leave(self) -> None:
        """See `RunView.leave`."""
        self._view.leave()

    def step(self, now: float) -> None:
        """Follow what the keeper has found out; the loop calls it at the begin of each turn."""
        keeper = self._keeper
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
            self._resign_if_alone(self.service.coordinator, now)
        elif self._remote is not None and self.coordinator:
            self._remote.turn_to(parse_place(self.coordinator, "the coordinator's address"))
        self._tell_trouble(now)

    def want(self, wishes: tuple[RoleWish, ...], outdated: bool, now: float) -> None:
        """Have the keeper swap roles; `outdated` says that another server knows a newer map."""
        self._keeper.wishes = wishes
        self._keeper.outdated |= outdated
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
            self._announcements.say("this server is the coordinator now")
            self._remote.close()
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
        self._announcements.say(f"another server is the coordinator now{self.coordinator and ': ' + self.coordinator}")
        self._remote, self._hosted, self.service = self._make_remote(news), None, None

    def _make_remote(self, news: News) -> RemoteRun:
        """Return the view by a link to the coordinator, or to another server, which will know it."""
        stored = self._keeper.record.map if self._keeper.record is not None else None
        others = [server.address for server in (stored.servers if stored is not None else ())]
        there = self.coordinator or next(each for each in others if each != self._keeper.me.address)
        link = self._link(parse_place(there, "the coordinator's address"))
        link.run = news.run
        return RemoteRun(link, self._joining, self._announcements, news)

    def _learn(self, coordinator: Coordinator) -> None:
        """Have the coordinator take a map that servers have stored, and tell the user of their changes."""
        record = self._keeper.record
        if record is None or record is self._seen or record.run != coordinator.run:
            return
        self._seen = record
        if record.map is not None:
            coordinator.roles.stored(record.map, coordinator.listened)
        for change in record.changes:
            if change.epoch > self._announced:
                coordinator.notices.append(change.line)
                coordinator.roles.note_silent(change.silent, coordinator.listened)
        self._announced = map_epoch(record.map)

    def _resign_if_alone(self, coordinator: Coordinator, now: float) -> None:
        """Resign if all other servers are silent, and replicas are too or etcd is: then it is this one that is cut off.

        If etcd cannot be reached, another may have been elected meanwhile, and the others have turned to it.
        """
        others = [
            member for member in coordinator.roster.members.values() if member.identity != self._keeper.me.identity
        ]
        servers = [member for member in others if not coordinator.is_replica(member.identity)]
        if coordinator.phase != "training" or coordinator.map is None or len(coordinator.map.servers) < 2:
            return
        listened = coordinator.listened

        def unheard(members: Collection[object]) -> bool:
            seen = max((getattr(member, "seen", 0.0) for member in members), default=0.0)
            return listened - max(seen, self._since) > _UNHEARD

        if unheard(servers) and (unheard(others) or now - self._keeper.confirmed > LEASE + _UNHEARD):
            self._keeper.resign()
            self._announcements.say_seldom("this server hears no other: it leaves the coordinator's part to them", now)

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
            self._announcements.say(f"{trouble}; training goes on, changes of roles wait for it")
