"""Copying a group of shards to other servers: decisions alone, no socket, no clock, no weights.

    primary (`Leader`)                       copies (`Follower`)
      shards changed, a sender waits ──▶ due
      COPY (epoch, shard, version, applied)s ──▶ an older epoch than known? refuse : take
      ◀──────────────────────── COPIED (epoch, shard, version)s
      in all in-sync copies: its updates are stable

Shards are copied when somebody waits for that, all that changed together: so a round of a sender costs one copy of each
shard, and a round of several senders costs no more if they wait at about the same time.

A primary that applies an update answers it at once. The update is *stable* once all in-sync copies have it: then it
outlives the primary. Senders keep an update until it is stable, and send it again to a new primary. A copy of a shard
holds, with the weights, which updates are in them (`applied`: sender -> sequence), so none is lost and none counts
twice.

Safe without clocks: the map epoch is in each COPY. A copy that has become primary knows a newer epoch and refuses the
COPYs of the old primary, which so can make nothing stable any more, however late it wakes up.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from adam_mp.params.run.copy_groups import CopyGroup

AGAIN = 1.0  # seconds after which a COPY without an answer is sent again
_LATEST = 0.5  # seconds after which a change is copied although nobody waits for it
_EXPECTED = 1.0  # seconds for which a sender that waited is expected to wait again


@dataclasses.dataclass(frozen=True)
class _Copy:
    """A copy of a shard: its version, the updates that are in it, and when it was sent."""

    version: int
    applied: Mapping[int, int]
    sent: float


@dataclasses.dataclass
class _There:
    """What is known of a follower: what it acknowledged, what is on its way to it, which shards changed since.

    `due` is when the changed shards are to be copied.
    """

    has: dict[int, _Copy] = dataclasses.field(default_factory=dict)
    flying: dict[int, _Copy] = dataclasses.field(default_factory=dict)
    dirty: dict[int, None] = dataclasses.field(default_factory=dict)  # shards that were copied longest ago come first
    due: float = -math.inf


class Leader:
    """The primary's side of one group, from the moment in which it learns of the group's map epoch.

    `shards` are the group's. A copy waits up to `gather` seconds for the updates of more senders. A server that becomes
    primary copies all shards once more, because it does not know what the other copies got from the primary before it.
    """

    def __init__(self, group: CopyGroup, shards: Sequence[int], gather: float) -> None:
        self.group, self._gather = group, gather
        self._shards = tuple(shards)
        self._there: dict[int, _There] = {}
        self._asked: dict[int, float] = {}  # sender -> when it last said that it waits
        self._asking: set[int] = set()  # those that have said so since the last copy
        self._wanted: int | None = None  # a joining copy that counts as if it were in sync
        self._bar: dict[int, dict[int, int]] = {}  # shard -> what was stable when that began
        self._follow()

    def regroup(self, group: CopyGroup) -> None:
        """Take a newer map epoch under which this server still is the primary."""
        self.group, self._wanted = group, None
        self._follow()

    def _follow(self) -> None:
        """Copy everything to all joining copies: one may have lost its memory and come back between two maps.

        A COPY on its way may be refused, because it is of an older map epoch: it is sent again.
        """
        known = {each: there for each, there in self._there.items() if each in self.group.in_sync}
        for there in known.values():
            there.dirty.update(dict.fromkeys(there.flying))
            there.flying.clear()
            there.due = -math.inf
        followers = (*self.group.in_sync, *self.group.joining)
        self._there = {each: known.get(each) or _There(dirty=dict.fromkeys(self._shards)) for each in followers}

    def changed(self, shard: int, now: float) -> None:
        """Note that an update was applied to a shard."""
        for there in self._there.values():
            if not there.dirty:
                there.due = now + _LATEST
            there.dirty[shard] = None

    def hurry(self, now: float, within: float) -> None:
        """Have what changed copied in `within` seconds at the latest."""
        for there in self._there.values():
            there.due = min(there.due, now + within)

    def ask(self, sender: int, now: float) -> None:
        """Note that a sender has sent all updates of a round and waits until they are stable.

        Once all senders wait that waited lately, there is nothing to gather any more.
        """
        self._asked[sender] = now
        self._asking.add(sender)
        expected = {each for each, asked in self._asked.items() if now - asked < _EXPECTED}
        self._asked = {each: self._asked[each] for each in expected}
        self.hurry(now, 0.0 if expected <= self._asking else self._gather)

    def due(self, now: float) -> dict[int, list[int]]:
        """Return the shards to copy now to each follower; the caller calls `sent` for each that it could send."""
        found: dict[int, list[int]] = {}
        for follower, there in self._there.items():
            flying = there.flying
            shards: list[int] = []
            if flying and now - next(iter(flying.values())).sent >= AGAIN:  # those that were sent first come first
                shards = [shard for shard, copy in flying.items() if now - copy.sent >= AGAIN]
            if there.dirty and now >= there.due:
                shards += [shard for shard in there.dirty if shard not in flying]
            if shards:
                found[follower] = shards
        return found

    def next_due(self, now: float) -> float:
        """Return the seconds until more copies are due, infinity if only a message makes any due."""
        return min(
            (there.due - now for there in self._there.values() if there.dirty and there.due > now), default=math.inf
        )

    def sent(self, follower: int, shard: int, version: int, applied: Mapping[int, int], now: float) -> None:
        """Note a COPY on its way: the shard's version and the updates in it, as they are now."""
        there = self._there[follower]
        there.flying.pop(shard, None)
        there.flying[shard] = _Copy(version, dict(applied), now)
        there.dirty.pop(shard, None)
        self._asking.clear()

    def copied(self, follower: int, epoch: int, shard: int, version: int) -> bool:
        """Take a COPIED; return whether it tells of a COPY that was on its way."""
        there = self._there.get(follower)
        copy = there.flying.get(shard) if there is not None else None
        if there is None or copy is None or epoch != self.group.epoch or copy.version != version:
            return False
        there.has[shard] = there.flying.pop(shard)
        return True

    def refused(self, follower: int, shard: int, version: int, now: float) -> None:
        """Take the refusal of a COPY: one side does not know the newest map epoch yet, so it is sent again soon."""
        there = self._there.get(follower)
        if there is not None and shard in there.flying and there.flying[shard].version == version:
            del there.flying[shard]
            there.dirty.setdefault(shard)
            there.due = now + self._gather

    def stable(self, shard: int, sender: int, applied: int) -> int:
        """Return the newest update of a sender that is stable in a shard; `applied` is the newest in the primary's."""
        found = applied
        for follower in self._counted():
            copy = self._there[follower].has.get(shard)
            found = min(found, 0 if copy is None else copy.applied.get(sender, 0))
        return found

    def has(self, shard: int, version: int) -> bool:
        """Tell whether a version of a shard, or a later one of the same primary, is stable."""
        copies = (self._there[follower].has.get(shard) for follower in self._counted())
        return all(copy is not None and copy.version >= version for copy in copies)

    def behind(self) -> dict[int, int]:
        """Return, for each copy, how many shards it does not have in their newest state."""
        return {follower: len(there.dirty.keys() | there.flying.keys()) for follower, there in self._there.items()}

    def _counted(self) -> Iterable[int]:
        """The copies that must have an update before it is stable."""
        return self.group.in_sync if self._wanted is None else (*self.group.in_sync, self._wanted)

    def ready(self, applied: Callable[[int], Mapping[int, int]]) -> int | None:
        """Return a joining copy that may be called in sync now; None if there is none. `applied` is the primary's.

        Once such a copy has each shard, updates are stable only when it has them too. It is ready when it also has all
        that was stable before that. So nothing that is stable when the controller calls it in sync is missing there.
        """
        if self._wanted is None:
            for follower in self.group.joining:
                if len(self._there[follower].has) == len(self._shards):
                    self._bar = {shard: self._stable_now(shard, applied(shard)) for shard in self._shards}
                    self._wanted = follower
                    break
        return self._wanted if self._wanted is not None and self._caught_up(self._wanted) else None

    def _stable_now(self, shard: int, applied: Mapping[int, int]) -> dict[int, int]:
        return {sender: self.stable(shard, sender, sequence) for sender, sequence in applied.items()}

    def _caught_up(self, follower: int) -> bool:
        has = self._there[follower].has
        return all(
            has[shard].applied.get(sender, 0) >= sequence
            for shard in self._shards
            for sender, sequence in self._bar[shard].items()
        )


class Follower:
    """A copy's side of one group: the newest map epoch that it knows, and which state of each shard it has."""

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch
        self._has: dict[int, tuple[int, int]] = {}  # shard -> map epoch and version

    def learn(self, epoch: int) -> None:
        """Note a map epoch that this server heard of: no COPY of an older one is taken any more."""
        self.epoch = max(self.epoch, epoch)

    def takes(self, epoch: int, shard: int, version: int) -> bool | None:
        """Tell what to do with a COPY: take it (True), only acknowledge it (False), or refuse it (None)."""
        if epoch < self.epoch:
            return None
        self.learn(epoch)
        if self._has.get(shard, (0, 0)) >= (epoch, version):
            return False
        self._has[shard] = (epoch, version)
        return True
