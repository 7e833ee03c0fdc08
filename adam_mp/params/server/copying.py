"""A parameter server's part in a run with copies: its roles by the bucket map, copies sent and taken, wishes.

`replicator` decides what is copied and what is stable, `takeover` which roles this server wants; this module carries
that out with shards of the `ShardTable`, through a `CopyPath`. The clock is an argument; one thread may use it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

from adam_mp.errors import SpaceError
from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.run.copy_groups import CopyGroup
from adam_mp.params.run.wishes import Lag, RoleWish
from adam_mp.params.server.blame import Blame
from adam_mp.params.server.copy_bundles import ShardCopy, pack_copies, pack_verdicts, read_verdicts, unpack_copies
from adam_mp.params.server.copy_path import CopyPath
from adam_mp.params.server.replicator import AGAIN, Follower, Leader
from adam_mp.params.server.shard_table import Entry, ShardTable
from adam_mp.params.server.takeover import find_wish
from adam_mp.params.server.waits import Wait
from adam_mp.transport.messages import FrameError, Kind, Message

_LOOK = 0.003  # seconds between two searches for wishes
_AT_ONCE = 0.005  # seconds that a copy waits for more updates, where answers to replicas wait for the copy
_SAVING = 3.0  # seconds between two snapshots of copies: they are used only if all servers of a group die
_WINDOW = 2  # bundles on their way to one server at once
_BUNDLE = 4 << 20  # bytes of a bundle, unless a single shard has more
_RENEW = 1  # `group` in the header of a COPY that asks its receiver to renew its connections
_WEDGED = 10.0  # seconds without an answer to a COPY, or with the same COPY again and again, for a new connection


@dataclasses.dataclass(frozen=True)
class CopySettings:
    """How soon a server copies, and when it misses another.

    A copy of the updates of one replica waits up to `gather` seconds for those of others. A server that is silent for
    `patience` seconds is missing.
    """

    gather: float = 0.05
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

    `outdated` says that there may be a newer bucket map: the caller should ask for news. `full` says that there
    is no memory for another copy; `trouble` is a line for the user about it, which the caller sets to "" once shown.
    """

    def __init__(self, path: CopyPath, table: ShardTable, identity: int, settings: CopySettings) -> None:
        self._path, self._table, self._identity, self._settings = path, table, identity, settings
        self._map = BucketMap(0, ())
        self._me: int | None = None
        self._run = 0
        self._held: dict[int, _Held] = {}
        self._wishes: tuple[RoleWish, ...] = ()
        self._bundles = 0  # that were sent
        self._flying: dict[int, dict[int, float]] = {}  # place of a server -> bundle on its way -> when it was sent
        self._unsaved: set[int] = set()  # shards that were taken from their primary since `_saved`
        self._saved = -math.inf
        self._more_stable = False  # whether anything may have become stable since the last step
        self._unanswered: dict[int, float] = {}  # place -> since when it has answered no COPY
        self._asking: set[int] = set()  # places that are asked to renew their connections: no answer of theirs comes
        self._renewed = -math.inf  # when this server did so because another asked
        self._repeated: dict[int, float] = {}  # sender -> since when it has sent no other COPY than before
        self._is_repeated = False  # whether the COPY that is being taken brings nothing new
        self._silent: frozenset[int] = frozenset()  # places of the servers that were silent at the last look
        self._blame = Blame(settings.patience)
        self._looked = float("-inf")
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
        self._flying.clear()
        self._more_stable = True
        self._unanswered.clear()
        self._asking.clear()
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
            held.leader = Leader(group, shards, self._settings.gather)
        else:
            assert held.leader is not None
            held.leader.regroup(group)

    def leads(self) -> dict[int, int]:
        """Return the groups of which this server is primary, each with its map epoch."""
        return {number: held.group.epoch for number, held in self._held.items() if held.leader is not None}

    # What the parameter server does to shards.

    def filled(self, entry: Entry, now: float) -> None:
        """Note that a shard got first weights here: no answer about it is sent before they are stable."""
        self._held[entry.group].filling[entry.number] = entry.version
        self.changed(entry, now)

    def changed(self, entry: Entry, now: float) -> None:
        """Note that updates were applied to a shard."""
        leader = self._held[entry.group].leader
        if leader is not None:
            leader.changed(entry.number, now)

    def fills(self, group: int) -> bool:
        """Tell whether a group has shards whose first weights may not be stable."""
        return bool(self._held[group].filling)

    def is_stable(self, wait: Wait) -> bool:
        """Tell whether what an answer waits for is stable; a sequence of 0 stands for the shard's first weights."""
        for shard, sequence in wait.needs:
            entry = self._table.entries.get(shard)
            held = self._held.get(entry.group) if entry is not None else None
            if entry is None or held is None or held.leader is None:
                return False
            if shard in held.filling:
                if not held.leader.has(shard, held.filling[shard]):
                    return False
                del held.filling[shard]
            applied = entry.applied.get(wait.sender, 0)
            if sequence and held.leader.stable(shard, wait.sender, applied) < sequence:
                return False
        return True

    def await_stable(self, wait: Wait, now: float, has_sent_all: bool) -> None:
        """Have copied what an answer waits for: soon if its sender has sent all updates of a round, else at once."""
        for group in wait.groups:
            leader = self._held[group].leader
            if leader is not None and has_sent_all:
                leader.ask(wait.sender, now)
            elif leader is not None:
                leader.hurry(now, _AT_ONCE)

    # Copies.

    def step(self, now: float) -> bool:
        """Take the messages that have come, and send copies that are due.

        Return whether more may be stable than at the last call.
        """
        while (message := self._path.take()) is not None:
            if message.run == self._run and (place := self._map.place_of(message.sender)) is not None:
                try:
                    self._take(message, place, now)
                except FrameError:
                    continue  # what is malformed changes nothing
        unheard = {place for place, since in self._unanswered.items() if now - since > _WEDGED}
        if unheard or any(now - since > _WEDGED for since in self._repeated.values()):
            self._unanswered.clear()
            self._repeated.clear()
            self._path.renew()  # a damaged frame may have swallowed all that came after it
            self._asking |= unheard  # or it swallows their answers, which they do not notice
        for place, some in self._due(now).items():
            self._send(place, some, now)
        if self._unsaved and now - self._saved >= _SAVING:
            self._saved = now
            self.save()
        more_stable, self._more_stable = self._more_stable, False
        return more_stable

    def save(self) -> None:
        """Have the shards that were taken from their primaries written to the snapshot."""
        self._table.changed |= self._unsaved & self._table.entries.keys()
        self._unsaved.clear()

    def next_due(self, now: float) -> float:
        """Return for how many seconds `step` has nothing to do if no message comes."""
        return min(
            (held.leader.next_due(now) for held in self._held.values() if held.leader is not None), default=math.inf
        )

    def _take(self, message: Message, place: int, now: float) -> None:
        if message.kind == Kind.COPY:
            if message.group == _RENEW and now - self._renewed > _WEDGED:
                self._renewed = now
                self._path.renew()
            copies = unpack_copies(message, self._table.layout)
            self._is_repeated = True
            verdicts = [(copy.epoch, copy.shard, copy.version, self._take_copy(copy)) for copy in copies]
            if self._is_repeated:
                self._repeated.setdefault(message.sender, now)
            else:
                self._repeated.pop(message.sender, None)
            answer = Message(
                Kind.COPIED, pack_verdicts(verdicts), run=self._run, sender=self._identity, sequence=message.sequence,
                version=message.version,
            )  # fmt: skip
            self._post(place, answer)
        elif message.kind == Kind.COPIED:
            self._take_verdicts(message, place, now)

    def _take_copy(self, copy: ShardCopy) -> int:
        """Take a copy of a shard; return its map epoch. If this server cannot take it now, return another map epoch."""
        entry = self._table.entries.get(copy.shard)
        held = self._held.get(entry.group) if entry is not None else None
        if held is None:
            self.outdated = True
            return 0
        self.outdated |= copy.epoch > held.group.epoch
        if held.leader is not None and copy.epoch >= held.group.epoch:
            return 0  # this server is to be replaced, and learns it with the next news
        taken = held.follower.takes(copy.epoch, copy.shard, copy.version)
        self._is_repeated &= taken is False
        if taken:
            self._table.take_copy(copy.shard, copy.version, copy.weights, copy.applied)
            if copy.version:
                self._unsaved.add(copy.shard)
        return copy.epoch if taken is not None else held.follower.epoch

    def _take_verdicts(self, message: Message, place: int, now: float) -> None:
        verdicts = read_verdicts(message)
        self._flying.get(place, {}).pop(message.version, None)
        self._unanswered.pop(place, None)
        self._asking.discard(place)
        for epoch, shard, version, known in verdicts:
            entry = self._table.entries.get(shard)
            held = self._held.get(entry.group) if entry is not None else None
            if held is None or held.leader is None:
                continue
            self.outdated |= known > held.group.epoch
            if known == epoch:
                self._more_stable |= held.leader.copied(place, epoch, shard, version)
            else:
                held.leader.refused(place, shard, version, now)

    def _due(self, now: float) -> dict[int, list[tuple[Leader, int]]]:
        """Return the shards to send now to each server, with their leaders; in-sync copies go before joining ones."""
        found: dict[int, list[tuple[Leader, int]]] = {}
        joining: dict[int, list[tuple[Leader, int]]] = {}
        for held in self._held.values():
            leader = held.leader
            if leader is not None:
                for place, shards in leader.due(now).items():
                    into = joining if place in held.group.joining else found
                    into.setdefault(place, []).extend((leader, shard) for shard in shards)
        for place, some in joining.items():
            found.setdefault(place, []).extend(some)
        return found

    def _send(self, place: int, some: Iterable[tuple[Leader, int]], now: float) -> None:
        """Send shards to a server, in as few bundles as fit, while not too many are on their way."""
        flying = self._flying.setdefault(place, {})
        for lost in [number for number, sent in flying.items() if now - sent >= AGAIN]:
            del flying[lost]
        bundles = self._bundle(some)
        while len(flying) < _WINDOW and (bundle := next(bundles, None)):
            copies = [copy for _, copy in bundle]
            self._bundles += 1
            message = Message(
                Kind.COPY, pack_copies(copies), run=self._run, sender=self._identity, sequence=len(copies),
                version=self._bundles, group=_RENEW if place in self._asking else 0,
            )  # fmt: skip
            if not self._post(place, message):
                return
            flying[self._bundles] = now
            self._unanswered.setdefault(place, now)
            for leader, copy in bundle:
                leader.sent(place, copy.shard, copy.version, copy.applied, now)

    def _bundle(self, some: Iterable[tuple[Leader, int]]) -> Iterator[list[tuple[Leader, ShardCopy]]]:
        bundle: list[tuple[Leader, ShardCopy]] = []
        size = 0
        for leader, shard in some:
            entry = self._table.entries[shard]
            weights = entry.weights if entry.version else entry.weights[:0]
            copy = ShardCopy(leader.group.epoch, shard, entry.version, entry.applied, weights)
            if bundle and size + copy.bytes > _BUNDLE:
                yield bundle
                bundle, size = [], 0
            bundle.append((leader, copy))
            size += copy.bytes
        if bundle:
            yield bundle

    def _post(self, place: int, message: Message) -> bool:
        return self._path.post(self._map.servers[place].copies, message)

    # What the coordinator is told.

    def hear(self, now: float) -> None:
        """Note that somebody spoke to this server, on another way than that of copies: it is not cut off."""
        self._blame.hear(now)

    def wishes(self, now: float) -> tuple[RoleWish, ...]:
        """Return the changes of roles that this server wants now."""
        if now - self._looked >= _LOOK:
            self._looked, self._wishes = now, tuple(self._find_wishes(now))
        return self._wishes

    @property
    def wants(self) -> bool:
        """Whether there were wishes at the last look."""
        return bool(self._wishes)

    def _find_wishes(self, now: float) -> Iterator[RoleWish]:
        if self._me is None:
            return
        silences = self._silences(now)
        silent = frozenset(place for place, seconds in silences.items() if seconds > self._settings.patience)
        self.outdated |= not silent <= self._silent  # roles may have changed shortly before it fell silent
        self._silent = silent
        joins = any(held.leader is not None and held.group.joining for held in self._held.values())
        if not joins and not silent:
            return  # which is so nearly always
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
        unheard = [self._path.unheard(address) for address in others.values()]
        if not self._blame.falls_on_others(unheard, now):
            return dict.fromkeys(range(len(self._map.servers)), 0.0)
        return {self._me or 0: 0.0, **{place: self._path.silence(address) for place, address in others.items()}}

    def hears_others(self) -> bool:
        """Tell whether some other server of the map is heard."""
        others = (server.copies for place, server in enumerate(self._map.servers) if place != self._me)
        return any(self._path.silence(address) < self._settings.patience for address in others)

    def behind(self) -> tuple[Lag, ...]:
        """Return how far behind the copies of this server's groups are."""
        return tuple(
            Lag(number, place, shards)
            for number, held in self._held.items()
            if held.leader is not None
            for place, shards in held.leader.behind().items()
        )
