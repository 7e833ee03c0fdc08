"""The coordinator: who is a member, who has which bucket, who trains which batch. A pure state machine.

Messages in, answers out; the clock is an argument, there are no sockets, so it is tested without a network and under
every order of events. The first parameter server runs it beside its other duties. Members say JOIN and then REPORT at
intervals; who is silent for `MEMBER_DEADLINE` seconds is taken for dead, and what it had leased is free again. Each
answer to REPORT carries what a replica needs to know: batches granted, the epoch, whether the map has changed.

A restarted coordinator takes up its snapshot; members that it does not know are asked to join again, and tell what they
have trained and leased.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adam_mp.errors import AdamError
from adam_mp.params.bucket_map import BucketMap, LayoutFacts, ServerPlace

MEMBER_DEADLINE = 15.0  # seconds
FREE, LEASED, TRAINED = range(3)
REPLICA, SERVER, DATA = "replica", "params", "data"
ROLES = (REPLICA, SERVER, DATA)
_MOST_GRANTED = 4096  # batches in one answer
_MOST_MEMBERS = 10_000


class RefusedError(AdamError):
    """A message was not taken. `rejoin` asks its sender to join again."""

    def __init__(self, reason: str, rejoin: bool = False) -> None:
        super().__init__(reason)
        self.rejoin = rejoin


@dataclasses.dataclass
class Member:
    """A part of the run that lives: `number` counts members since the start, `seen` is when it was last heard."""

    identity: int
    number: int
    role: str
    name: str
    address: str
    seen: float
    joined: float
    sequence: int = 0
    answer: dict[str, Any] = dataclasses.field(default_factory=dict)
    report: dict[str, Any] = dataclasses.field(default_factory=dict)
    trained: int = 0  # images of this run
    epoch: int = 0  # in which it believes the run to be


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What all replicas of a run must agree on. `batches` of an epoch hold `batch_size` images, the last fewer."""

    layout: LayoutFacts
    images: int
    batch_size: int
    epochs: int
    quorum: float
    agreed: Mapping[str, Any]  # name -> value, compared one by one: data digest, seed, optimizer, ...

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return math.ceil(self.images / self.batch_size)

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> RunFacts:
        """Rebuild them from what a replica sent; raises RefusedError if they are malformed."""
        try:
            return cls(
                LayoutFacts.from_list(facts["layout"]), int(facts["images"]), int(facts["batch_size"]),
                int(facts["epochs"]), float(facts["quorum"]), dict(facts["agreed"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise RefusedError(f"the facts of the run are malformed: {error!r}") from None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "layout": self.layout.as_list(), "images": self.images, "batch_size": self.batch_size,
            "epochs": self.epochs, "quorum": self.quorum, "agreed": dict(self.agreed),
        }  # fmt: skip

    def difference(self, other: RunFacts) -> str | None:
        """Name the first thing in which two replicas differ, with both values; None if they agree."""
        if self.layout != other.layout:
            return "another network"
        for name in ("images", "batch_size", "epochs", "quorum"):
            if getattr(self, name) != getattr(other, name):
                return f"{name} {getattr(other, name)!r}, the run has {getattr(self, name)!r}"
        for name in self.agreed.keys() | other.agreed.keys():
            if self.agreed.get(name) != other.agreed.get(name):
                return f"{name} {other.agreed.get(name)!r}, the run has {self.agreed.get(name)!r}"
        return None


class Coordinator:
    """The state of one run. `expected` parameter servers are waited for before a replica may begin."""

    def __init__(self, run: int, expected: int) -> None:
        self.run, self.expected = run, expected
        self.facts: RunFacts | None = None
        self.map: BucketMap | None = None
        self.epoch = 0
        self.states: np.ndarray = np.zeros(0, np.uint8)
        self.holders: np.ndarray = np.zeros(0, np.uint64)
        self.members: dict[int, Member] = {}
        self.finished: list[dict[str, Any]] = []  # an entry for each epoch: images trained, trained twice
        self.departed: dict[int, int] = {}  # identity -> updates of a replica that left, or is taken for dead
        self.changed = False  # since the last snapshot
        self.leader = 0  # identity of the replica that validates and keeps the model; 0 for none
        self._awaited_until: float | None = None  # how long a leader from before the restart keeps its place
        self._joined = 0
        self._twice = 0

    # Messages.

    def join(self, identity: int, facts: Mapping[str, Any], now: float) -> dict[str, Any]:
        """Answer JOIN; raises RefusedError."""
        role = facts.get("role")
        if role not in ROLES:
            raise RefusedError(f"unknown role {role!r}; expected one of {', '.join(ROLES)}")
        if len(self.members) >= _MOST_MEMBERS and identity not in self.members:
            raise RefusedError(f"the run has {_MOST_MEMBERS} members already")
        if role == SERVER:
            self._join_server(identity, str(facts.get("address")))
        elif role == REPLICA:
            waiting = self._join_replica(facts)
            if waiting:
                return {"waiting": waiting}
        if identity not in self.members:
            self._joined += 1
            name, address = str(facts.get("name", role))[:100], str(facts.get("address", ""))[:300]
            self.members[identity] = Member(identity, self._joined, role, name, address, now, now)
        member = self.members[identity]
        member.seen, member.sequence = now, 0
        if role == REPLICA:
            self.departed.pop(identity, None)  # it was not dead: it will report them itself
            member.epoch = self._whole(facts, "epoch")
            self._choose_leader()
            self._take_up(member, facts)
        return {"run": self.run, **self._news(member)}

    def report(self, identity: int, sequence: int, facts: Mapping[str, Any], now: float) -> dict[str, Any]:
        """Answer REPORT: note what is trained, lease more. The same sequence gets the same answer, with no effect."""
        member = self.members.get(identity)
        if member is None:
            raise RefusedError("this member is not known here", rejoin=True)
        member.seen = now
        if sequence <= member.sequence:
            return member.answer
        member.sequence = sequence
        statistics = facts.get("statistics")
        member.report = dict(statistics) if isinstance(statistics, Mapping) else {}
        granted: list[int] = []
        if member.role == REPLICA and self.facts is not None:
            epoch = member.epoch = self._whole(facts, "epoch")
            if epoch == self.epoch:
                self._note_trained(member, self._batches(facts, "trained"))
                self._end_epoch_at_quorum()
            if epoch == self.epoch:
                granted = self._grant(member, self._whole(facts, "wanted"))
        member.answer = {**self._news(member), "granted": granted}
        return member.answer

    def leave(self, identity: int) -> None:
        """A member goes, or is known to be dead: what it leased is free, its share of updates stays counted."""
        member = self.members.pop(identity, None)
        if member is None:
            return
        if member.role == REPLICA:
            self.departed[identity] = int(member.report.get("updates", 0) or 0)
        self._free(identity)
        self._choose_leader()

    def tick(self, now: float) -> list[Member]:
        """Take leave of members that are silent; return them. Servers keep their buckets: they come back."""
        if self._awaited_until == math.inf:  # the first look after a restart
            self._awaited_until = now + MEMBER_DEADLINE
        if self._awaited_until is not None and now > self._awaited_until:
            self._awaited_until = None
            self._choose_leader()
        silent = [member for member in self.members.values() if now - member.seen > MEMBER_DEADLINE]
        for member in silent:
            self.leave(member.identity)
        return silent

    def state(self, now: float) -> dict[str, Any]:
        """Return what `status` shows."""
        done = self.images_in(TRAINED)
        return {
            "run": f"{self.run:016x}",
            "phase": self.phase,
            "epoch": self.epoch,
            "epochs": self.facts.epochs if self.facts else None,
            "images": self.facts.images if self.facts else None,
            "trained": done,
            "leased": self.images_in(LEASED),
            "finished": self.finished,
            "map": self.map.as_dict() if self.map else None,
            "members": [
                {
                    "name": member.name, "role": member.role, "address": member.address, "identity": member.identity,
                    "number": member.number, "silent_seconds": round(now - member.seen, 3),
                    "seconds": round(now - member.joined, 3), "leader": member is self._leader(),
                    "images": member.trained, **member.report,
                }
                for member in sorted(self.members.values(), key=lambda member: member.number)
            ],
        }  # fmt: skip

    @property
    def phase(self) -> str:
        """One of "waiting" (for servers or a first replica), "training", "done"."""
        if self.facts is None:
            return "waiting"
        return "done" if self.epoch >= self.facts.epochs else "training"

    def images_in(self, state: int) -> int:
        """Return how many images the batches in `state` hold."""
        if self.facts is None or not self.states.size:
            return 0
        count = int(np.count_nonzero(self.states == state)) * self.facts.batch_size
        if self.states[-1] == state:
            count -= self.facts.batches * self.facts.batch_size - self.facts.images
        return count

    # A snapshot of it.

    def snapshot(self) -> dict[str, Any]:
        """Return all that must outlive the process, as plain values."""
        self.changed = False
        return {
            "run": self.run, "expected": self.expected, "epoch": self.epoch, "finished": self.finished,
            "departed": {str(identity): updates for identity, updates in self.departed.items()},
            "leader": self.leader, "facts": self.facts.as_dict() if self.facts else None,
            "map": self.map.as_dict() if self.map else None,
            "trained": np.packbits(self.states == TRAINED).tobytes().hex(),
        }  # fmt: skip

    @classmethod
    def restored(cls, facts: Mapping[str, Any]) -> Coordinator:
        """Rebuild a coordinator from its snapshot, without members; raises RefusedError if it is malformed."""
        try:
            self = cls(int(facts["run"]), int(facts["expected"]))
            self.finished = list(facts["finished"])
            self.departed = {int(identity): int(updates) for identity, updates in facts["departed"].items()}
            self.map = BucketMap.from_dict(facts["map"]) if facts["map"] else None
            self.leader = int(facts.get("leader", 0))
            self._awaited_until = math.inf if self.leader else None
            if facts["facts"]:
                self.facts = RunFacts.from_dict(facts["facts"])
                self._open(int(facts["epoch"]))
                bits = np.unpackbits(np.frombuffer(bytes.fromhex(facts["trained"]), np.uint8))[: self.facts.batches]
                self.states[bits == 1] = TRAINED
            return self
        except (KeyError, TypeError, ValueError) as error:
            raise RefusedError(f"the coordinator's snapshot is malformed: {error!r}") from None

    # What the messages come to.

    def _join_server(self, identity: int, address: str) -> None:
        known = None if self.map is None else next((s for s in self.map.servers if s.identity == identity), None)
        if self.map is not None and known is None:
            raise RefusedError(f"the run has its {len(self.map.servers)} parameter servers already")
        if self.map is not None and known is not None and known.address != address:
            servers = tuple(ServerPlace(identity, address) if s is known else s for s in self.map.servers)
            self.map, self.changed = BucketMap(self.map.epoch + 1, servers), True
        if identity in self.members:
            self.members[identity].address = address

    def _join_replica(self, facts: Mapping[str, Any]) -> str | None:
        """Agree on the run, and make the map; return what is waited for, if anything."""
        given = facts.get("facts")
        offered = RunFacts.from_dict(given if isinstance(given, Mapping) else {})
        if offered.images < 1 or offered.batch_size < 1 or offered.epochs < 1 or not offered.layout.shapes:
            raise RefusedError("the run has no images, no batches, no epochs or no weights")
        if self.facts is not None and (difference := self.facts.difference(offered)):
            raise RefusedError(f"this replica has {difference}; start it with the settings of the run")
        if self.phase == "done":
            raise RefusedError("the run is done; start new parameter servers for another")
        if self.map is None:
            servers = [member for member in self.members.values() if member.role == SERVER]
            if len(servers) < self.expected:
                return f"{len(servers)} of {self.expected} parameter servers are there"
            servers.sort(key=lambda member: member.number)
            self.map = BucketMap(1, tuple(ServerPlace(m.identity, m.address) for m in servers))
            self.changed = True
        if self.facts is None:
            self.facts, self.changed = offered, True
            known = self._whole(facts, "run")
            self.run = known or self.run
            self._open(min(self._whole(facts, "epoch"), offered.epochs - 1))
        return None

    def _take_up(self, member: Member, facts: Mapping[str, Any]) -> None:
        """Note what a replica brings: a checkpoint's epoch, or what it did before the coordinator was restarted."""
        assert self.facts is not None
        epoch = self._whole(facts, "epoch")
        if self._whole(facts, "run") == self.run and self.epoch < epoch < self.facts.epochs:
            self.finished += self._entries(facts, epoch)  # the snapshot was older than the end of the epoch before
            self._open(epoch)
        if epoch != self.epoch:
            return
        self._note_trained(member, self._batches(facts, "trained"))
        leased = [batch for batch in self._batches(facts, "leased") if self.states[batch] == FREE]
        self.states[leased], self.holders[leased] = LEASED, member.identity
        self._end_epoch_at_quorum()

    def _news(self, member: Member) -> dict[str, Any]:
        updates = sum(self.departed.values())
        updates += sum(int(m.report.get("updates", 0) or 0) for m in self.members.values() if m is not member)
        return {
            "epoch": self.epoch,
            "phase": self.phase,
            "trained": self.images_in(TRAINED),
            "finished": [entry for entry in self.finished if entry["epoch"] >= member.epoch],
            "leader": member is self._leader(),
            "replicas": sum(m.role == REPLICA for m in self.members.values()),
            "updates": updates,
            "map": self.map.as_dict() if self.map else None,
            "layout": self.facts.layout.as_list() if self.facts and member.role == SERVER else None,
        }

    def _leader(self) -> Member | None:
        """The replica that validates and keeps the model."""
        return self.members.get(self.leader)

    def _choose_leader(self) -> None:
        """Let the replica that has been a member for longest lead, unless another does or is to come back to it."""
        if self.leader in self.members:
            self._awaited_until = None
        elif self._awaited_until is None:
            replicas = (member for member in self.members.values() if member.role == REPLICA)
            oldest = min(replicas, key=lambda member: member.number, default=None)
            self.leader = oldest.identity if oldest is not None else 0
            self.changed = True

    def _open(self, epoch: int) -> None:
        assert self.facts is not None
        self.epoch = epoch
        self.states = np.zeros(self.facts.batches, np.uint8)
        self.holders = np.zeros(self.facts.batches, np.uint64)
        self._twice = 0

    def _note_trained(self, member: Member, batches: Sequence[int]) -> None:
        """Count batches as trained, whoever holds them by now; one trained before is noted as trained twice."""
        assert self.facts is not None
        before = self.images_in(TRAINED)
        for batch in batches:
            self._twice += int(self.states[batch] == TRAINED)
            self.states[batch] = TRAINED
        self.changed |= bool(batches)
        member.trained += self.images_in(TRAINED) - before

    def _end_epoch_at_quorum(self) -> None:
        if self.facts is None or self.phase == "done":
            return
        trained = self.images_in(TRAINED)
        if trained < math.ceil(self.facts.quorum * self.facts.images):
            return
        entry = {"epoch": self.epoch, "trained": trained, "skipped": self.facts.images - trained}
        self.finished.append({**entry, "twice": self._twice})
        self._open(self.epoch + 1)
        self.changed = True

    def _grant(self, member: Member, wanted: int) -> list[int]:
        """Lease free batches: as many as are wanted, but never more than a fair part of those left."""
        if self.phase != "training":
            return []
        free = np.flatnonzero(self.states == FREE)
        replicas = max(1, sum(m.role == REPLICA for m in self.members.values()))
        fair = -(-len(free) // replicas)
        granted = free[: min(max(0, wanted), fair, _MOST_GRANTED)]
        self.states[granted], self.holders[granted] = LEASED, member.identity
        return [int(batch) for batch in granted]

    def _free(self, identity: int) -> None:
        mine = (self.states == LEASED) & (self.holders == np.uint64(identity))
        self.states[mine] = FREE

    def _batches(self, facts: Mapping[str, Any], name: str) -> list[int]:
        """Return the batch numbers under `name`; raises RefusedError if they are none of this epoch's."""
        batches = facts.get(name, [])
        if not isinstance(batches, list) or any(
            isinstance(b, bool) or not isinstance(b, int) or not 0 <= b < len(self.states) for b in batches
        ):
            raise RefusedError(f"{name} are no batches of this run")
        return batches

    def _entries(self, facts: Mapping[str, Any], end: int) -> list[dict[str, Any]]:
        """Return what a replica knows of the epochs from the present one to `end` that are over."""
        told = facts.get("finished", [])
        entries = []
        for entry in told if isinstance(told, list) else []:
            if not isinstance(entry, Mapping):
                raise RefusedError("finished is no list of epochs")
            values = {name: self._whole(entry, name) for name in ("epoch", "trained", "skipped", "twice")}
            if self.epoch <= values["epoch"] < end:
                entries.append(values)
        return entries

    def _whole(self, facts: Mapping[str, Any], name: str) -> int:
        value = facts.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**64:
            raise RefusedError(f"{name} is {value!r}; expected a whole number")
        return value
