"""The places for parameter servers in a run, and when a server may take the place of another. A pure state machine.

A server that is started again without its snapshots has a new identity, which the coordinator does not know. It may
take the place of the server that was at the same address, once that server has been silent for `LIVING` seconds; or
else the place of a server that has been silent for `MEMBER_DEADLINE` seconds. Times are seconds in which the
coordinator listened.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from adam_mp.errors import several
from adam_mp.params.run.bucket_map import COMMIT_COPIED, BucketMap, ServerPlace
from adam_mp.params.run.copy_roles import with_copies
from adam_mp.params.run.member import LIVING, MEMBER_DEADLINE, Member
from adam_mp.transport.refusal import RefusedError

_MOST_REMEMBERED = 1000  # servers that were replaced, and servers that wait for a place


@dataclasses.dataclass(frozen=True)
class Entry:
    """The answer to a joining server. If `waiting` says for what, it has to wait; else it has a place.

    `replaced` is the server whose place it took, `moved_from` the address that it had before; None and "" if none.
    """

    waiting: str = ""
    replaced: Member | None = None
    moved_from: str = ""


@dataclasses.dataclass
class _Claim:
    """A joining server waits for a place whose holder may still live: `since` its first JOIN, `said` its last one."""

    since: float
    said: float


class ServerPlaces:
    """`expected` places, and the bucket `map`, None until it is made. Servers in `replaced` may not come back.

    `copies` is on how many servers each bucket is, its primary included; `commit` goes into the map.
    """

    def __init__(
        self, expected: int, bucket_map: BucketMap | None = None, replaced: Mapping[int, str] | None = None,
        copies: int = 1, commit: str = COMMIT_COPIED,
    ) -> None:  # fmt: skip
        self.expected, self.copies, self.commit, self.map = expected, min(copies, expected), commit, bucket_map
        self.replaced = dict(replaced or {})  # identity -> the address of the server that has its place
        self._claims: dict[tuple[int, str], _Claim] = {}

    def enter(self, identity: int, address: str, holders: Sequence[Member], now: float, copies: str = "") -> Entry:
        """Find a place for a joining server; `holders` are the servers that have one, silent ones included.

        `copies` is the server's address for copies.

        Raises RefusedError if there is no place for it.
        """
        if identity in self.replaced:
            raise RefusedError(
                f"while this server was silent, the one at {self.replaced[identity]} took its place; to add it to the "
                "run once a place is free, start it again without its --snapshots folder or with another"
            )
        own = next((holder for holder in holders if holder.identity == identity), None)
        if own is not None and own.address == address:
            self._write(identity, ServerPlace(identity, address, copies))
            return Entry()
        there = next((holder for holder in holders if holder.address == address), None)
        if own is None and there is None and self.map is None and len(holders) < self.expected:
            return Entry()
        holder = own or there or min(holders, key=lambda each: each.seen)
        silence = MEMBER_DEADLINE if own is None and there is None else LIVING
        if own is not None and own.gone:
            silence = 0.0  # the holder was removed, so the newcomer is the only one with this identity
        if now - holder.seen < silence:
            self._claim(identity, address, holder, now)
            return Entry(waiting=_waiting(holder, identity, address, silence))
        self._claims.clear()  # the map has changed: the claims of other servers may be for another place now
        self._write(holder.identity, ServerPlace(identity, address, copies))
        if own is not None:
            return Entry(moved_from=own.address)
        self.replaced[holder.identity] = address
        _forget_oldest(self.replaced)
        return Entry(replaced=holder)

    def make_map(self, servers: Sequence[Member], told: BucketMap | None) -> BucketMap:
        """Make and return the map of these servers.

        A coordinator that was restarted without its snapshot is `told` the former map by a replica. Then each server of
        that map keeps its place, and with it its shards. Any other server takes the place of the one that was at its
        address, or a place that is left.
        """
        left = [ServerPlace(server.identity, server.address, server.copies) for server in servers]
        places: list[ServerPlace | None] = [None] * len(left)
        if told is not None and len(told.servers) == len(left):
            for name in ("identity", "address"):
                for index, before in enumerate(told.servers):
                    same = (each for each in left if getattr(each, name) == getattr(before, name))
                    if places[index] is None and (found := next(same, None)) is not None:
                        places[index] = found
                        left.remove(found)
        servers_now = tuple(place or left.pop(0) for place in places)
        epoch = 1 + (told.epoch if told is not None else 0)
        if told is not None and told.copied and len(told.servers) == len(servers_now):
            self.map = BucketMap(epoch, servers_now, told.copied, told.commit)
        else:
            self.map = with_copies(BucketMap(epoch, servers_now, commit=self.commit), self.copies)
        return self.map

    def outgrow(self, told: BucketMap | None) -> bool:
        """Raise the map epoch above that of `told`, a map that a replica got before the coordinator was restarted.

        So no member that knows that map sees the map epoch go back. Return whether the map epoch was raised.
        """
        if told is None or self.map is None or told.epoch < self.map.epoch or told == self.map:
            return False
        self.map = dataclasses.replace(self.map, epoch=told.epoch + 1)
        return True

    def snapshot(self) -> dict[str, Any]:
        """Return what must outlive the process, as plain values."""
        return {
            "expected": self.expected,
            "copies": self.copies,
            "commit": self.commit,
            "map": self.map.as_dict() if self.map else None,
            "replaced": {str(identity): address for identity, address in self.replaced.items()},
        }

    @classmethod
    def restored(cls, facts: Mapping[str, Any]) -> ServerPlaces:
        """Rebuild the places; raises KeyError, TypeError, ValueError or AttributeError if the snapshot is malformed."""
        replaced = {int(identity): str(address) for identity, address in facts.get("replaced", {}).items()}
        bucket_map = BucketMap.from_dict(facts["map"]) if facts["map"] else None
        copies, commit = int(facts.get("copies", 1)), str(facts.get("commit", COMMIT_COPIED))
        return cls(int(facts["expected"]), bucket_map, replaced, copies, commit)

    def _write(self, identity: int, place: ServerPlace) -> None:
        """Put `place` into the map where the server `identity` is, and raise the map epoch if that changes the map."""
        if self.map is not None:
            servers = tuple(place if server.identity == identity else server for server in self.map.servers)
            if servers != self.map.servers:
                self.map = dataclasses.replace(self.map, epoch=self.map.epoch + 1, servers=servers)

    def _claim(self, identity: int, address: str, holder: Member, now: float) -> None:
        """Note that a joining server wants the place of `holder`.

        Raises RefusedError if the holder has sent a message since the newcomer's first JOIN, and so lives. The holder
        is the one that has been silent longest of all that could be replaced: if it lives, all of them do.
        """
        claim = self._claims.pop((identity, address), None)
        if claim is None or now - claim.said > MEMBER_DEADLINE:  # the old claim is of an earlier attempt to join
            claim = _Claim(now, now)
        if holder.seen > claim.since and now - holder.seen < LIVING:
            raise RefusedError(_refusal(holder, identity, address, self.expected))
        claim.said = now
        self._claims[identity, address] = claim
        _forget_oldest(self._claims)


def _waiting(holder: Member, identity: int, address: str, silence: float) -> str:
    """Say what a joining server waits for: it has the identity or the address of `holder`, or wants its place."""
    lately = f"less than {silence:g} s ago"
    if holder.identity == identity:
        return f"the same server was heard at {holder.address} {lately}"
    if holder.address == address:
        return f"another server was heard at {address} {lately}"
    return f"the run has its parameter servers, and the one at {holder.address} was heard {lately}"


def _refusal(holder: Member, identity: int, address: str, count: int) -> str:
    """Say why a joining server gets no place: `holder` lives."""
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
