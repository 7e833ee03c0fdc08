"""The driver of the coordinator: takes JOIN, REPORT, LEAVE and STATUS, and calls the coordinator in every loop.

The `Coordinator` makes all decisions. This driver reads messages for it, sends its answers, shows the user its notices,
and has its state written. It knows nothing of the parameter server that runs in the same process.
"""

from __future__ import annotations

from typing import Any, Protocol

from adam_mp.errors import AdamError
from adam_mp.params.run.announcements import Announcements
from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.replies import Arrived, Replies
from adam_mp.params.run.statements import name_in
from adam_mp.transport.messages import Kind, Message
from adam_mp.transport.refusal import RefusedError

CONTROL = frozenset((Kind.JOIN, Kind.REPORT, Kind.LEAVE, Kind.STATUS))
_KEEPING = 0.5  # seconds between two writings of the state
_PARTING = 3.0  # seconds for which the coordinator stays to tell the other servers that the run is done


class StateFolder(Protocol):
    """Where the state is written; `outdated` says that the last writing failed."""

    outdated: bool

    def note(self, facts: dict[str, Any]) -> bool:
        """Have this state written in the background; False if the writer has no room for it now."""

    def write_now(self, facts: dict[str, Any]) -> bool:
        """Write this state at once; False if the disk refuses, which the writer then tells the user."""


class CoordinatorService:
    """Serves one coordinator. Used by one thread; the clock is an argument.

    `identity` is the identity of this server process: its answers carry it as their sender, and it is written into
    `folder` beside the coordinator's state, so that a restarted process has the same. `folder` may be None: then a
    restarted coordinator learns the state from the replicas.
    """

    def __init__(
        self, coordinator: Coordinator, identity: int, replies: Replies, announcements: Announcements,
        folder: StateFolder | None,
    ) -> None:  # fmt: skip
        self.coordinator, self._identity = coordinator, identity
        self._replies, self._announcements, self._folder = replies, announcements, folder
        self._kept_at = 0.0
        if folder is not None and not coordinator.roles.elected:
            coordinator.roles.store = self._write_map
        self._over_since: float | None = None  # in seconds of listening

    def take(self, each: Arrived, now: float) -> None:
        """Answer a message; one that cannot be used gets a refusal."""
        message = each.message
        try:
            answer = self._answer(message, now)
            if answer is not None:
                self._replies.answer(each, answer[0], self._header, answer[1])
        except RefusedError as error:
            if message.kind in (Kind.JOIN, Kind.REPORT) and not error.rejoin:
                self._announcements.say_seldom(f"refused {self._name_of(message)}: {error}", now)
            self._replies.refuse(each, self._header, str(error), error.rejoin)
        except (AdamError, ValueError, TypeError, OverflowError, MemoryError, RecursionError) as error:
            self._replies.refuse(each, self._header, f"{message.kind.name} cannot be answered: {error}")

    def _answer(self, message: Message, now: float) -> tuple[Kind, dict[str, Any]] | None:
        """Return what the coordinator answers, None for nothing; raises RefusedError."""
        coordinator = self.coordinator
        if message.kind not in (Kind.JOIN, Kind.STATUS) and message.run != coordinator.run:
            reason = f"the message is of run {message.run:x}, this server of run {coordinator.run:x}"
            raise RefusedError(reason, rejoin=message.kind == Kind.REPORT)
        facts = message.facts()
        if message.sender == self._identity and message.kind != Kind.STATUS:
            raise RefusedError(f"{message.kind.name} comes in the name of this server itself")
        if message.kind == Kind.JOIN:
            return Kind.WELCOME, coordinator.join(message.sender, facts, now, message.sequence)
        if message.kind == Kind.REPORT:
            return Kind.ORDERS, coordinator.report(message.sender, message.sequence, facts, now)
        if message.kind == Kind.STATUS:
            return Kind.STATE, coordinator.state(now)
        coordinator.leave(message.sender, facts, message.sequence)
        return None

    def step(self, now: float, behind: bool) -> None:
        """Remove silent members, show the coordinator's notices, and have the state written if it is time to.

        The loop calls it each time it has read messages; `behind` says that it left some unread.
        """
        coordinator = self.coordinator
        coordinator.step(now, behind)
        while coordinator.notices:
            self._announcements.say(coordinator.notices.popleft())
        while coordinator.role_notices:
            self._announcements.note(coordinator.role_notices.popleft())
        self._announcements.say_awaited(coordinator.awaited)
        if not coordinator.over:
            self._over_since = None
        elif self._over_since is None:
            self._over_since = coordinator.listened
        if self._folder is not None and now - self._kept_at >= _KEEPING:
            self._kept_at = now
            facts = self.unwritten()
            if facts is not None and not self._folder.note(facts):
                coordinator.changed = True  # the writer has no room: try again after the next interval

    def _write_map(self, _: BucketMap | None, __: BucketMap) -> bool:
        """Write the state, and with it the map that is decided; return False if the disk refuses."""
        assert self._folder is not None
        if self._folder.write_now({"identity": self._identity, "coordinator": self.coordinator.snapshot()}):
            return True
        self.coordinator.changed = True
        return False

    def unwritten(self) -> dict[str, Any] | None:
        """Return the state, None if it has not changed since the last call; from now on it counts as written."""
        if not self.coordinator.changed and (self._folder is None or not self._folder.outdated):
            return None
        return {"identity": self._identity, "coordinator": self.coordinator.snapshot()}

    @property
    def ended(self) -> bool:
        """Whether the run is over, and each other server has left or had `_PARTING` seconds to learn that it is."""
        if self._over_since is None:
            return False
        others = len(self.coordinator.roster.members) > 1
        return not others or self.coordinator.listened - self._over_since > _PARTING

    @property
    def _header(self) -> dict[str, int]:
        bucket_map = self.coordinator.roles.told()
        return {
            "run": self.coordinator.run, "sender": self._identity, "map_epoch": bucket_map.epoch if bucket_map else 0,
        }  # fmt: skip

    def _name_of(self, message: Message) -> str:
        """Return the sender's name: the one it joined with, or for JOIN and strangers the one in the message."""
        member = self.coordinator.roster.members.get(message.sender)
        return name_in(message.facts()) if member is None or message.kind == Kind.JOIN else member.name
