"""How the coordinator changes the roles of servers in a run with copies, and which bucket map members are told.

    decided  ──stored: on the coordinator's disk, or in etcd──▶  told

Nobody is told a map before it is stored. Otherwise a coordinator that is started again, or its successor, could make a
server primary that lacks stable updates. With an elected coordinator servers swap roles at etcd themselves: then the
coordinator learns the map from there, and gives up what it had decided meanwhile.

Times are seconds in which the coordinator listened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.run.copy_roles import newest, with_balance, with_new_copies, without_joining, without_memory
from adam_mp.params.run.role_lines import role_lines
from adam_mp.params.run.roster import Roster
from adam_mp.params.run.server_places import ServerPlaces
from adam_mp.params.run.statements import SERVER
from adam_mp.params.run.wishes import RoleWish, grant_wishes

_LOOK = 0.1  # seconds between two searches for copies to make
_CALM = 1.0  # seconds without a change of roles after which a group may be handed over
_Store = Callable[[BucketMap | None, BucketMap], bool]


class RoleChanges:
    """The map that is decided, in `places`, and the one that is told.

    `store` has a map written in place of another, and returns whether it is. `elected` says that servers swap roles
    themselves, so that their wishes are not the coordinator's to grant. `notices` gets lines for the user about changes
    that no server wished for.
    """

    def __init__(self, places: ServerPlaces, roster: Roster, notices: deque[str]) -> None:
        self._places, self._roster, self._notices = places, roster, notices
        self.store: _Store = lambda before, after: True
        self.elected = False
        self._told = places.map
        self._needed: dict[int, int] = {}  # a member that joins -> the map epoch that must be told first
        self.anew: set[int] = set()  # members that wait, whose joining was given up: it takes effect again
        self._bereft: dict[int, tuple[int, Sequence[int]]] = {}  # a server -> its life, and what it had kept
        self._looked = self._changed = 0.0
        self._unchanging: tuple[Any, ...] = ()  # what was looked at last, when nothing was to be done

    @property
    def map(self) -> BucketMap | None:
        """The map that is decided."""
        return self._places.map

    def told(self) -> BucketMap | None:
        """Return the map that members may know: the one that is decided, if it is stored; else the one before."""
        decided = self.map
        if decided is not self._told and (
            decided is None or not decided.copied or decided == self._told or self.store(self._told, decided)
        ):
            self._told = decided
        return self._told

    # Decisions. Each returns whether it changed the map.

    def take(self, bucket_map: BucketMap, now: float, why: str = "") -> bool:
        """Decide for a map. `why` is the reason for the user, unless the user is told elsewhere."""
        if bucket_map is self.map:
            return False
        if why and self.map is not None:
            self._notices.extend(role_lines(self.map, bucket_map, why))
        self._places.map, self._changed = bucket_map, now
        return True

    def learn(self, told: BucketMap | None, now: float) -> bool:
        """Take a newer map that a member was told before this coordinator was started, if it is of this run."""
        assert self.map is not None
        ours = {server.identity for server in self.map.servers}
        if told is None or {server.identity for server in told.servers} != ours:
            return False
        return self.take(newest(self.map, told), now)

    def lose_memory(self, identity: int, life: int, kept: Sequence[int], now: float) -> bool:
        """Take the roles of a server that was started again; it has `kept` some groups. Each start counts once."""
        place = self.map.place_of(identity) if self.map is not None else None
        if self.map is None or place is None or self._bereft.get(identity) == (life, kept):
            return False
        self._bereft[identity] = (life, kept)
        return self.take(without_memory(self.map, place, kept), now, "which was started again without its memory")

    def grant(self, identity: int, wishes: Sequence[RoleWish], now: float) -> list[str]:
        """Change roles as a server wants, where that is safe; return lines for the user."""
        if self.elected or self.map is None or not wishes or (place := self.map.place_of(identity)) is None:
            return []
        bucket_map, lines, silent = grant_wishes(self.map, place, wishes)
        self.take(bucket_map, now)
        self.note_silent(silent, now)
        return lines

    def note_silent(self, identities: Collection[int], now: float) -> None:
        """Note that other servers found these silent: they get no new copies for a while."""
        for identity in identities:
            if (member := self._roster.members.get(identity)) is not None:
                member.lose(now)

    def make_copies(self, now: float) -> bool:
        """Have a new copy made where one is missing and a living server has none of that group.

        If there are enough, spread work equally again, step by step, as it is not after a failover.
        """
        before = self.map
        if before is None or self._places.copies == 1 or before is not self._told or now - self._looked < _LOOK:
            return False
        self._looked = now
        members = [self._roster.members.get(server.identity) for server in before.servers]
        full = [place for place, member in enumerate(members) if member is not None and member.full]
        living = [
            place
            for place, member in enumerate(members)
            if member is not None and member.may_take_copies(now) and not member.full
        ]
        calm = now - self._changed > _CALM
        if (before, full, living, calm) == self._unchanging:
            return False
        self._unchanging = (before, full, living, calm)
        after = with_new_copies(without_joining(before, full), self._places.copies, living)
        if not calm or after is not before:
            return self.take(after, now)
        return self.take(with_balance(after, self._places.copies, living), now, "so that all have equal work")

    # Members that wait until a map is stored, and maps that others have stored.

    def need(self, identity: int) -> None:
        """Have a member that joins wait until the present map may be told: its joining has changed it."""
        if self.map is not None:
            self._needed[identity] = self.map.epoch

    def has_to_wait(self, identity: int) -> bool:
        """Tell whether a member that joins still has to wait."""
        told = self.told()
        if self._needed.get(identity, 0) > (told.epoch if told is not None else 0):
            return True
        self._needed.pop(identity, None)
        return False

    def stored(self, bucket_map: BucketMap, now: float) -> bool:
        """Take a map that is stored; what was decided meanwhile is given up, and members that wait join anew."""
        if bucket_map == self._told or (self._told is not None and bucket_map.epoch < self._told.epoch):
            return False
        for server in bucket_map.servers:
            if self._roster.known(server.identity) is None:
                self._roster.expect(server.identity, SERVER, f"params {server.address}", server.address)
        if bucket_map != self.map:
            self._give_up(bucket_map)
            self.take(bucket_map, now)
        self._told = self.map
        return True

    def _give_up(self, stored: BucketMap) -> None:
        """Forget what was decided: servers of the stored map that had lost their places have them still."""
        self.anew.update(self._needed)
        for identity in self._needed:
            self._bereft.pop(identity, None)
        self._needed.clear()
        for server in stored.servers:
            self._places.replaced.pop(server.identity, None)
