"""A parameter server's part in a run with copies: its roles by the bucket map, copies sent and taken, wishes.

`replicator` decides what is copied and what is stable, `takeover` which roles this server wants; this module carries
that out with shards of the `ShardTable`, through a `CopyPath`. The clock is an argument; one thread may use it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from adam_mp.errors import SpaceError
from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.run.copy_groups import CopyGroup
from adam_mp.params.run.wishes import Lag, RoleWish
from adam_mp.params.server.copy_path import CopyPath
from adam_mp.params.server.replicator import Follower, Leader
from adam_mp.params.server.shard_table import Entry, ShardTable
from adam_mp.params.server.takeover import find_wish
from adam_mp.params.server.waits import Wait
from adam_mp.transport.messages import Kind, Message

_LOOK = 0.01  # seconds between two searches for wishes
_PAIR = 16  # bytes of a sender and its sequence in a COPY
_WEDGED = 10.0  # seconds without an answer to a COPY, or with the same COPY again and again, for a new connection
_ALONE = 3.0  # seconds for which a server blames nobody when it heard no other: after a cut, all dial again in 2.5 s
_GAP = 1.0  # seconds without a message after which a server may have been cut off


@dataclasses.dataclass(frozen=True)
class CopySettings:
    """A shard is copied at most every `interval` seconds; a server that is silent for `patience` seconds is missing."""

    interval: float = 0.05
    patience: float = 0.6


@dataclasses.dataclass
class _Held:
    """A group that this server has. `leader` is None unless it is primary.

    `filling` are shards whose first weights may not be stable: shard -> the version that must be.
    """

    group: CopyGroup
    follower: Follower
    leader: Leader | None = None
    filling: dict[int, int] = dataclasses.field(default_factory=dict)


class Copying:
    """The groups of one server, whose number as a member is `identity`, in the shards of `table`.

    `outdated` says that another server knows a newer bucket map: the caller should ask for news. `full` says that there
    is no memory for another copy; `trouble` is a line for the user about it, which the caller sets to "" once shown.
    """

    def __init__(self, path: CopyPath, table: ShardTable, identity: int, settings: CopySettings) -> None:
        self._path, self._table, self._identity, self._settings = path, table, identity, settings
        self._map = BucketMap(0, ())
        self._me: int | None = None
        self._run = 0
        self._held: dict[int, _Held] = {}
        self._wishes: tuple[RoleWish, ...] = ()
        self._unanswered: dict[int, float] = {}  # place -> since when it has answered no COPY
        self._repeated: dict[int, float] = {}  # sender -> since when it has sent no other COPY than before
        self._looked = self._heard = self._hears_since = self._was_lonely = float("-inf")
        self.outdated = self.full = False
        self.trouble = ""

    # Roles.

    def learn(self, bucket_map: BucketMap, run: int, shards: Sequence[Sequence[int]]) -> frozenset[int]:
        """Take the roles that a map gives this server; return the groups of which it is not primary any more.

        `shards` has the shards of each group. Raises SpaceError if there is no room for a group that this server is to
        have at once; it does not begin a copy for which there is no room.
        """
        self._map, self._run, self._me = bucket_map, run, bucket_map.place_of(self._identity)
        self.outdated, self._wishes, self._looked = False, (), float("-inf")
        self._unanswered.clear()
        led = self.leads().keys()
        for number, group in enumerate(bucket_map.copied):
            held = self._held.get(number)
            if self._me not in group.holders:
                if held is not None:
                    del self._held[number]
                    self._table.drop(number)
                    self._path.renew()  # perhaps the others do not hear this server
            elif held is None:
                if self._has_room(group, number, shards[number]):
                    held = self._held[number] = _Held(group, Follower())
                    self._take_role(held, number, shards[number], is_new=True)
            elif group.epoch > held.group.epoch:
                self._take_role(held, number, shards[number], is_new=False)
        others = {server.identity: server.copies for server in bucket_map.servers if server.identity != self._identity}
        self._path.connect(others, {"run": run, "sender": self._identity})
        return frozenset(led - self.leads().keys())

    def _has_room(self, group: CopyGroup, number: int, shards: Sequence[int]) -> bool:
        """Make the shards of a group; return False if there is no memory for a copy."""
        try:
            self._table.add(number, shards)
        except SpaceError as error:
            if self._me not in group.joining:
                raise
            self.full, self.trouble = True, f"no room for a copy of bucket group {number}: {error}"
            return False
        return True

    def _take_role(self, held: _Held, number: int, shards: Sequence[int], is_new: bool) -> None:
        group = self._map.copied[number]
        has_led = held.leader is not None and held.group.since == group.since
        held.group = group
        held.follower.learn(group.epoch)
        if group.primary != self._me:
            held.leader = None
            held.filling.clear()
        elif not has_led:
            held.filling.clear()
            if not is_new:
                self._table.renew(number)
            held.leader = Leader(group, shards, self._settings.interval)
        else:
            assert held.leader is not None
            held.leader.regroup(group)

    def leads(self) -> dict[int, int]:
        """Return the groups of which this server is primary, each with its map epoch."""
        return {number: held.group.epoch for number, held in self._held.items() if held.leader is not None}

    # What the parameter server does to shards.

    def filled(self, entry: Entry) -> None:
        """Note that a shard got first weights here: no answer about it is sent before they are stable."""
        self._held[entry.group].filling[entry.number] = entry.version
        self.changed(entry)

    def changed(self, entry: Entry) -> None:
        """Note that updates were applied to a shard."""
        leader = self._held[entry.group].leader
        if leader is not None:
            leader.changed(entry.number)

    def is_stable(self, wait: Wait) -> bool:
        """Tell whether what an answer waits for is stable; a sequence of 0 stands for the shard's first weights."""
        held = self._held.get(wait.group)
        if held is None or held.leader is None:
            return False
        for shard, sequence in wait.needs:
            if shard in held.filling:
                if not held.leader.has(shard, held.filling[shard]):
                    return False
                del held.filling[shard]
            applied = self._table.entries[shard].applied.get(wait.sender, 0)
            if sequence and held.leader.stable(shard, wait.sender, applied) < sequence:
                return False
        return True

    # Copies.

    def step(self, now: float) -> None:
        """Take the messages that have come, and send copies that are due."""
        while (message := self._path.take()) is not None:
            if message.run == self._run and self._map.place_of(message.sender) is not None:
                self._take(message, now)
        if any(now - since > _WEDGED for since in (*self._unanswered.values(), *self._repeated.values())):
            self._unanswered.clear()
            self._repeated.clear()
            self._path.renew()  # a damaged frame may have swallowed all that came after it
        for held in self._held.values():
            if held.leader is not None:
                for follower, shard in held.leader.due(now):
                    self._send(held.leader, follower, self._table.entries[shard], now)

    def _take(self, message: Message, now: float) -> None:
        place = self._map.place_of(message.sender)
        if place is not None and message.kind != Kind.COPY:
            self._unanswered.pop(place, None)
        entry = self._table.entries.get(message.shard)
        held = self._held.get(entry.group) if entry is not None else None
        if entry is None or held is None:
            self.outdated = True
            if message.kind == Kind.COPY:
                self._answer(message, Kind.MOVED, 0)
            return
        self.outdated |= message.map_epoch > held.group.epoch
        if message.kind == Kind.COPY:
            self._take_copy(held, entry, message, now)
        elif held.leader is not None and place is not None:
            if message.kind == Kind.COPIED:
                held.leader.copied(place, message.map_epoch, message.shard, message.version)
            elif message.kind == Kind.MOVED:
                held.leader.refused(place, message.shard, message.version)

    def _take_copy(self, held: _Held, entry: Entry, message: Message, now: float) -> None:
        """Take a copy and acknowledge it. MOVED, with this server's map epoch, answers one that it cannot take now."""
        if held.leader is not None and message.map_epoch >= held.group.epoch:
            self._answer(
                message, Kind.MOVED, held.group.epoch
            )  # it is to be replaced, and learns it with the next news
            return
        content = _read_copy(message, entry)
        if content is None:
            return
        taken = held.follower.takes(message.map_epoch, message.shard, message.version)
        if taken is False:
            self._repeated.setdefault(message.sender, now)
        else:
            self._repeated.pop(message.sender, None)
        if taken:
            self._table.take_copy(message.shard, message.version, *content)
        if taken is None:
            self._answer(message, Kind.MOVED, held.follower.epoch)
        else:
            self._answer(message, Kind.COPIED, message.map_epoch)

    def _answer(self, copy: Message, kind: Kind, epoch: int) -> None:
        answer = Message(
            kind, run=self._run, sender=self._identity, map_epoch=epoch, shard=copy.shard, version=copy.version,
            group=copy.group,
        )  # fmt: skip
        self._post(copy.sender, answer)

    def _send(self, leader: Leader, follower: int, entry: Entry, now: float) -> None:
        weights = entry.weights if entry.version else entry.weights[:0]
        payload = np.empty(_PAIR * len(entry.applied) + weights.nbytes, np.uint8)
        pairs = payload[: _PAIR * len(entry.applied)].view(np.uint64).reshape(-1, 2)
        pairs[...] = np.array(list(entry.applied.items()), np.uint64).reshape(-1, 2)
        payload[pairs.nbytes :].view(np.float32)[...] = weights
        copy = Message(
            Kind.COPY, payload, run=self._run, sender=self._identity, map_epoch=leader.group.epoch, shard=entry.number,
            sequence=len(entry.applied), version=entry.version, group=entry.group,
        )  # fmt: skip
        if self._post(self._map.servers[follower].identity, copy):
            leader.sent(follower, entry.number, entry.version, entry.applied, now)
            self._unanswered.setdefault(follower, now)

    def _post(self, identity: int, message: Message) -> bool:
        place = self._map.place_of(identity)
        return place is not None and self._path.post(self._map.servers[place].copies, message)

    # What the coordinator is told.

    def hear(self, now: float) -> None:
        """Note that somebody spoke to this server, on another way than that of copies: it is not cut off."""
        if now - self._heard > _GAP:
            self._hears_since = now
        self._heard = now

    def wishes(self, now: float) -> tuple[RoleWish, ...]:
        """Return the changes of roles that this server wants now."""
        if now - self._looked >= _LOOK:
            self._looked, self._wishes = now, tuple(self._find_wishes(now))
        return self._wishes

    def _find_wishes(self, now: float) -> Iterator[RoleWish]:
        if self._me is None:
            return
        silences = self._silences(now)
        for number, held in self._held.items():
            ready = self._ready(held)
            wish = find_wish(held.group, self._me, silences.__getitem__, self._settings.patience, ready)
            if wish is not None:
                to = wish.wanted
                unheard = self._path.unheard(self._map.servers[wish.about].copies) if wish.silent else 0.0
                yield RoleWish(number, to.epoch, to.primary, to.in_sync, to.joining, wish.about, wish.silent, unheard)

    def _ready(self, held: _Held) -> int | None:
        if held.leader is None or not held.group.joining:
            return None
        return held.leader.ready(lambda shard: self._table.entries[shard].applied)

    def _silences(self, now: float) -> dict[int, float]:
        """Return for how many seconds each server has been silent, as far as that is its own fault."""
        others = {place: server.copies for place, server in enumerate(self._map.servers) if place != self._me}
        silences = {place: self._path.silence(address) for place, address in others.items()}
        unheard = {place: self._path.unheard(address) for place, address in others.items()}
        lonely = min(unheard.values(), default=0.0) - self._settings.patience
        if lonely > 0:
            self._was_lonely = now
        if self._may_blame(lonely, len(others), now) if lonely > 0 else now - self._was_lonely > _ALONE:
            return {self._me or 0: 0.0, **silences}
        return dict.fromkeys(range(len(self._map.servers)), 0.0)

    def _may_blame(self, lonely: float, others: int, now: float) -> bool:
        """Tell whether the others are to blame, all of which this server has not heard for `lonely` seconds too long.

        It may be the one that is cut off, or was until just now. If replicas speak to it all the time, it is not. Then
        the others may all be dead; if they live, they replace this server before it blames them.
        """
        if others == 1:
            return now - self._heard < lonely + self._settings.patience / 2
        return lonely > _ALONE and now - self._heard <= _GAP and now - self._hears_since > _ALONE

    def behind(self) -> tuple[Lag, ...]:
        """Return how far behind the copies of this server's groups are."""
        return tuple(
            Lag(number, place, shards)
            for number, held in self._held.items()
            if held.leader is not None
            for place, shards in held.leader.behind().items()
        )


def _read_copy(message: Message, entry: Entry) -> tuple[np.ndarray, Mapping[int, int]] | None:
    """Return weights and applied updates in a COPY; None if it does not fit the shard."""
    size = _PAIR * message.sequence
    weights = 4 * entry.shard.size if message.version else 0
    if message.length != size + weights:
        return None
    pairs = np.frombuffer(message.payload, "<u8", 2 * message.sequence).reshape(-1, 2)
    return np.frombuffer(message.payload, "<f4", offset=size), {int(a): int(b) for a, b in pairs}
