"""The parameter servers of a run: which places there are, and who may take the place of another. Without a clock.

A server that is started again without its snapshots has a new identity: nobody knows it. It may take the place of the
one that was at its address, once that one is silent, or else the place of one that has been taken for dead. Times are
seconds in which the coordinator listened.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from adam_mp.errors import several
from adam_mp.params.run.bucket_map import BucketMap, ServerPlace
from adam_mp.params.run.member import LIVING, MEMBER_DEADLINE, Member
from adam_mp.transport.refusal import RefusedError

_MOST_REMEMBERED = 1000  # servers that were replaced, and servers that wait for a place


@dataclasses.dataclass(frozen=True)
class Entry:
    """What becomes of a server that joins: it is `waiting` for something, or it is in, in the place of `replaced`."""

    waiting: str = ""
    replaced: Member | None = None
    moved_from: str = ""


@dataclasses.dataclass
class _Claim:
    """Somebody wants a place that another may still fill: since when, and when it last said so."""

    since: float
    said: float


class ServerPlaces:
    """`expected` places, and the `map` of buckets once it is made. `replaced` are identities that may not come back."""

    def __init__(
        self, expected: int, bucket_map: BucketMap | None = None, replaced: Mapping[int, str] | None = None
    ) -> None:
        self.expected, self.map = expected, bucket_map
        self.replaced = dict(replaced or {})  # identity -> the address of the server that has its place
        self._claims: dict[tuple[int, str], _Claim] = {}

    def enter(self, identity: int, address: str, holders: Sequence[Member], now: float) -> Entry:
        """Find a place for a server; `holders` are those that have one, whether they are heard or not.

        Raises RefusedError if there is no place for it.
        """
        if identity in self.replaced:
            raise RefusedError(
                f"while this server was silent, the one at {self.replaced[identity]} took its place; to add it to the "
                "run once a place is free, start it again without its --snapshots folder or with another"
            )
        own = next((holder for holder in holders if holder.identity == identity), None)
        if own is not None and own.address == address:
            return Entry()
        there = next((holder for holder in holders if holder.address == address), None)
        if own is None and there is None and self.map is None and len(holders) < self.expected:
            return Entry()
        holder = own or there or min(holders, key=lambda each: each.seen)
        silence = MEMBER_DEADLINE if own is None and there is None else LIVING
        if own is not None and own.gone:
            silence = 0.0  # nobody has this identity now
        if now - holder.seen < silence:
            self._claim(identity, address, holder, now)
            return Entry(waiting=_waiting(holder, identity, address, silence))
        self._claims.clear()  # what the others want may be another place now
        self._write(holder.identity, ServerPlace(identity, address))
        if own is not None:
            return Entry(moved_from=own.address)
        self.replaced[holder.identity] = address
        _forget_oldest(self.replaced)
        return Entry(replaced=holder)

    def make_map(self, servers: Sequence[Member], told: BucketMap | None) -> BucketMap:
        """Make the map of these servers.

        A coordinator that was restarted without its snapshot is `told` the map of before by a replica. Each server then
        keeps its place, and with it its shards; others take the places of those at their address, or what is left.
        """
        left = [ServerPlace(server.identity, server.address) for server in servers]
        places: list[ServerPlace | None] = [None] * len(left)
        if told is not None and len(told.servers) == len(left):
            for name in ("identity", "address"):
                for index, before in enumerate(told.servers):
                    same = (each for each in left if getattr(each, name) == getattr(before, name))
                    if places[index] is None and (found := next(same, None)) is not None:
                        places[index] = found
                        left.remove(found)
        servers_now = tuple(place or left.pop(0) for place in places)
        self.map = BucketMap(1 + (told.epoch if told is not None else 0), servers_now)
        return self.map

    def outgrow(self, told: BucketMap | None) -> bool:
        """Give the map an epoch above that of another map, which a replica was `told` before a restart; tell whether.

        Epochs so never go back for those who know that map.
        """
        if told is None or self.map is None or told.epoch < self.map.epoch or told == self.map:
            return False
        self.map = BucketMap(told.epoch + 1, self.map.servers)
        return True

    def snapshot(self) -> dict[str, Any]:
        """Return what must outlive the process, as plain values."""
        return {
            "expected": self.expected,
            "map": self.map.as_dict() if self.map else None,
            "replaced": {str(identity): address for identity, address in self.replaced.items()},
        }

    @classmethod
    def restored(cls, facts: Mapping[str, Any]) -> ServerPlaces:
        """Rebuild them; raises KeyError, TypeError, ValueError or AttributeError if the facts are malformed."""
        replaced = {int(identity): str(address) for identity, address in facts.get("replaced", {}).items()}
        return cls(int(facts["expected"]), BucketMap.from_dict(facts["map"]) if facts["map"] else None, replaced)

    def _write(self, identity: int, place: ServerPlace) -> None:
        """Put `place` where the server `identity` was in the map."""
        if self.map is not None:
            servers = tuple(place if server.identity == identity else server for server in self.map.servers)
            self.map = BucketMap(self.map.epoch + 1, servers)

    def _claim(self, identity: int, address: str, holder: Member, now: float) -> None:
        """Note who wants the place of `holder`. Raises RefusedError if that one was heard since, and lives.

        `holder` is the one that was not heard for longest of those whose place would do, so that all of them live.
        """
        claim = self._claims.pop((identity, address), None)
        if claim is None or now - claim.said > MEMBER_DEADLINE:  # that was another attempt
            claim = _Claim(now, now)
        if holder.seen > claim.since and now - holder.seen < LIVING:
            raise RefusedError(_refusal(holder, identity, address, self.expected))
        claim.said = now
        self._claims[identity, address] = claim
        _forget_oldest(self._claims)


def _waiting(holder: Member, identity: int, address: str, silence: float) -> str:
    """Say what a server waits for that cannot be told apart from `holder`, or wants its place."""
    lately = f"less than {silence:g} s ago"
    if holder.identity == identity:
        return f"the same server was heard at {holder.address} {lately}"
    if holder.address == address:
        return f"another server was heard at {address} {lately}"
    return f"the run has its parameter servers, and the one at {holder.address} was heard {lately}"


def _refusal(holder: Member, identity: int, address: str, count: int) -> str:
    """Say why a server gets no place: `holder` lives."""
    if holder.identity == identity:
        return (
            f"the server at {address} has the identity of the one at {holder.address}, which runs; "
            "give each a --snapshots folder of its own"
        )
    if holder.address == address:
        return f"another server runs at {address}; give each an address of its own"
    return f"the run has its {several(count, 'parameter server')} already"


def _forget_oldest(remembered: dict[Any, Any]) -> None:
    if len(remembered) > _MOST_REMEMBERED:
        del remembered[next(iter(remembered))]
