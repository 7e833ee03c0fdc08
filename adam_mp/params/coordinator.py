"""The coordinator: who is a member, who has which bucket, who trains which batch. A pure state machine.

Messages in, answers out; the clock is an argument, there are no sockets, so it is tested without a network and under
every order of events. The first parameter server runs it beside its other duties. Members say JOIN and then REPORT at
intervals; who is silent for `MEMBER_DEADLINE` seconds is taken for dead, and what it had leased is free again. Each
answer to REPORT carries what a replica needs to know: batches granted, the epoch, whether the map has changed.

A restarted coordinator takes up its snapshot; members that it does not know are asked to join again, and tell what they
have trained and leased.

Anyone may send anything: all that a message says is checked before any of it changes the state, so that a message is
taken whole or refused.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adam_mp.errors import AdamError, SettingsError
from adam_mp.params.bucket_map import BucketMap, LayoutFacts, ServerPlace

MEMBER_DEADLINE = 15.0  # seconds
FREE, LEASED, TRAINED = range(3)
REPLICA, SERVER, DATA = "replica", "params", "data"
ROLES = (REPLICA, SERVER, DATA)
# The numbers of a member that `status` shows.
STATISTICS = (
    "updates", "workers", "trained_here", "rounds", "staleness", "round_ms", "resent", "bytes_in", "bytes_out", "queue",
    "shards", "bytes", "applied", "updates_per_second", "bytes_per_second", "dropped", "refused", "unsent", "deltas",
    "products", "repeated", "folded", "snapshot_window", "snapshots",
)  # fmt: skip
_MOST_GRANTED = 4096  # batches in one answer
_MOST_MEMBERS = 10_000
_MOST_IMAGES, _MOST_BATCHES, _MOST_EPOCHS = 1 << 40, 1 << 24, 1 << 31
_MOST_NUMBERS, _MOST_TENSORS, _MOST_SIDES = 1 << 36, 10_000, 8  # of a layout
_MOST_AGREED, _LONGEST_VALUE = 100, 10_000
_LONGEST_NAME, _LONGEST_ADDRESS = 100, 300
_LARGEST_STATISTIC = 1 << 48  # ten thousand of them still fit the 63 bits of a replica's counter
_LARGEST = (1 << 64) - 1  # of a message's header
_LIFE = 32  # bits of a sequence that count messages; those above are another life of the sender


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
        images, epochs = _whole(facts, "images", 1, _MOST_IMAGES), _whole(facts, "epochs", 1, _MOST_EPOCHS)
        batch_size = _whole(facts, "batch_size", 1, _MOST_IMAGES)
        if images / batch_size > _MOST_BATCHES:
            raise RefusedError(f"{images} images in batches of {batch_size}; expected at most {_MOST_BATCHES} batches")
        quorum: Any = facts.get("quorum")
        if not _is_number(quorum) or not 0 < quorum <= 1:
            raise RefusedError(f"quorum is {_shown(quorum)}; expected a number above 0, at most 1")
        layout, agreed = _layout(facts.get("layout")), _agreed(facts.get("agreed"))
        return cls(layout, images, batch_size, epochs, float(quorum), agreed)

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


@dataclasses.dataclass(frozen=True)
class Joining:
    """What a JOIN says, checked. A replica has `facts`, and tells what it did before, in the epoch it is in."""

    role: str
    name: str
    address: str
    facts: RunFacts | None = None
    run: int = 0
    epoch: int = 0
    trained: Sequence[int] = ()
    leased: Sequence[int] = ()
    finished: Sequence[dict[str, int]] = ()

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Joining:
        """Take what was sent; raises RefusedError if it is malformed."""
        role = facts.get("role")
        if role not in ROLES:
            raise RefusedError(f"unknown role {_shown(role)}; expected one of {', '.join(ROLES)}")
        name, address = _text(facts, "name", role)[:_LONGEST_NAME], _text(facts, "address", "")[:_LONGEST_ADDRESS]
        if role == SERVER and not address:
            raise RefusedError("a parameter server joins without an address; expected where others find it")
        if role != REPLICA:
            return cls(role, name, address)
        given = facts.get("facts")
        run = RunFacts.from_dict(given if isinstance(given, Mapping) else {})
        return cls(
            role, name, address, run, _whole(facts, "run", 0, _LARGEST), _whole(facts, "epoch", 0, run.epochs),
            _batches(facts, "trained", run), _batches(facts, "leased", run), _entries(facts, run),
        )  # fmt: skip


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

    def join(self, identity: int, facts: Mapping[str, Any], now: float, sequence: int = 0) -> dict[str, Any]:
        """Answer JOIN; raises RefusedError. What comes again under a `sequence` (0 for none) has no effect."""
        asked, member = Joining.from_dict(facts), self.members.get(identity)
        self._check_place(identity, member, asked)
        if member is not None and 0 < sequence <= member.sequence and _same_life(member, sequence):
            return self._welcome(member)
        if asked.role == SERVER:
            self._place_server(identity, asked.address)
        begins = self.facts is None
        if asked.facts is not None and (waiting := self._agree(asked, asked.facts)):
            return {"waiting": waiting}
        if member is None:
            self._joined += 1
            member = Member(identity, self._joined, asked.role, asked.name, asked.address, now, now)
            self.members[identity] = member
        member.seen, member.sequence, member.answer = now, sequence, {}
        if asked.role == REPLICA:
            self.departed.pop(identity, None)  # it was not dead: it will report them itself
            member.epoch = asked.epoch
            self._choose_leader()
            self._take_up(member, asked, begins)
        return self._welcome(member)

    def report(self, identity: int, sequence: int, facts: Mapping[str, Any], now: float) -> dict[str, Any]:
        """Answer REPORT: note what is trained, lease more. The same sequence gets the same answer, with no effect."""
        member = self.members.get(identity)
        if member is None or not _same_life(member, sequence):
            raise RefusedError("this member is not known here", rejoin=True)
        if sequence <= member.sequence:
            member.seen = now
            return member.answer
        statistics = _statistics(facts)
        epoch, wanted, trained = member.epoch, 0, []
        if member.role == REPLICA and self.facts is not None:
            epoch, wanted = _whole(facts, "epoch", 0, self.facts.epochs), _whole(facts, "wanted", 0, _MOST_IMAGES)
            trained = _batches(facts, "trained", self.facts)
        member.seen, member.sequence, member.report, member.epoch = now, sequence, statistics, epoch
        granted: list[int] = []
        if epoch == self.epoch:
            self._note_trained(member, trained)
            self._end_epoch_at_quorum()
        if epoch == self.epoch:
            granted = self._grant(member, wanted)
        member.answer = {**self._news(member), "granted": granted}
        if facts.get("states") is True and member.role == REPLICA and self.facts is not None and epoch == self.epoch:
            member.answer["done"] = self._done()
        return member.answer

    def leave(self, identity: int, facts: Mapping[str, Any] | None = None) -> None:
        """A member goes, or the one that `facts` name is dead: what it leased is free, its updates stay counted.

        Raises RefusedError.
        """
        identity = _whole({"member": identity, **(facts or {})}, "member", 0, _LARGEST)
        self._free(identity)
        member = self.members.pop(identity, None)
        if member is None:
            return
        if member.role == REPLICA:
            self.departed[identity] = int(member.report.get("updates", 0))
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
                    **member.report,
                    "name": member.name, "role": member.role, "address": member.address, "identity": member.identity,
                    "number": member.number, "silent_seconds": round(now - member.seen, 3),
                    "seconds": round(now - member.joined, 3), "leader": member is self._leader(),
                    "images": member.trained,
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
            "trained": self._done(),
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
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
            raise RefusedError(f"the coordinator's snapshot is malformed: {error!r}") from None

    # What the messages come to.

    def _check_place(self, identity: int, member: Member | None, asked: Joining) -> None:
        """Raise RefusedError if there is no place for this member."""
        if not 0 < identity <= _LARGEST:
            raise RefusedError(f"the sender is {identity}; expected a number of its own, above 0")
        if member is None and len(self.members) >= _MOST_MEMBERS:
            raise RefusedError(f"the run has {_MOST_MEMBERS} members already")
        if member is not None and member.role != asked.role:
            raise RefusedError(f"{member.name} has the role {member.role}, and joins as {asked.role}; start it again")

    def _place_server(self, identity: int, address: str) -> None:
        known = None if self.map is None else next((s for s in self.map.servers if s.identity == identity), None)
        if self.map is not None and known is None:
            raise RefusedError(f"the run has its {len(self.map.servers)} parameter servers already")
        if self.map is not None and known is not None and known.address != address:
            servers = tuple(ServerPlace(identity, address) if s is known else s for s in self.map.servers)
            self.map, self.changed = BucketMap(self.map.epoch + 1, servers), True
        if identity in self.members:
            self.members[identity].address = address

    def _agree(self, asked: Joining, offered: RunFacts) -> str | None:
        """Agree with a replica on the run, and make the map; return what is waited for, if anything."""
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
            self.run = asked.run or self.run
            self._open(min(asked.epoch, offered.epochs - 1))
        return None

    def _take_up(self, member: Member, asked: Joining, begins: bool) -> None:
        """Note what a replica brings: what it did before the coordinator was restarted.

        One that `begins` the run may bring a checkpoint, with what is trained in it. What others bring that never were
        in this run is not in its weights.
        """
        assert self.facts is not None
        if asked.run == self.run and self.epoch < asked.epoch < self.facts.epochs:
            # The snapshot was older than the end of the epoch before.
            self.finished += [entry for entry in asked.finished if self.epoch <= entry["epoch"] < asked.epoch]
            self._open(asked.epoch)
        self._free(member.identity)  # what it was granted and does not name, it never heard of
        if asked.epoch != self.epoch or not (begins or asked.run == self.run):
            return
        self._note_trained(member, asked.trained)
        leased = [batch for batch in asked.leased if self.states[batch] == FREE]
        self.states[leased], self.holders[leased] = LEASED, member.identity
        self._end_epoch_at_quorum()

    def _welcome(self, member: Member) -> dict[str, Any]:
        return {"run": self.run, **self._news(member)}

    def _news(self, member: Member) -> dict[str, Any]:
        updates = sum(self.departed.values())
        updates += sum(int(m.report.get("updates", 0)) for m in self.members.values() if m is not member)
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

    def _done(self) -> str:
        """Which batches of the epoch are trained, a bit each."""
        return np.packbits(self.states == TRAINED).tobytes().hex()

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
        """Count batches as trained, whoever holds them by now; one that another trained too is noted as trained twice.

        Who trained what a snapshot has as trained is not known; the first that names it is taken for the one.
        """
        if not batches:
            return
        before, numbers = self.images_in(TRAINED), np.unique(np.array(batches, np.int64))
        others = ~np.isin(self.holders[numbers], (0, member.identity))
        self._twice += int(np.count_nonzero((self.states[numbers] == TRAINED) & others))
        self.states[numbers], self.holders[numbers] = TRAINED, member.identity
        self.changed = True
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


# What a message says, checked. All raise RefusedError.


def _same_life(member: Member, sequence: int) -> bool:
    """Tell whether a sequence is of the life in which the member joined."""
    return sequence >> _LIFE == member.sequence >> _LIFE


def _is_number(value: Any) -> bool:
    """Tell whether it is a finite number; JSON has true, 1e999 and NaN too."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """Return a value as a message may show it, whatever it is."""
    return (
        repr(value)[:60] if isinstance(value, str | float | bool | None) or _is_number(value) else type(value).__name__
    )


def _whole(facts: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = facts.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RefusedError(f"{name} is malformed: {_shown(value)}; expected a whole number from {least} to {most}")
    return value


def _text(facts: Mapping[str, Any], name: str, otherwise: str) -> str:
    """Return a text that any terminal can show."""
    text = facts.get(name, otherwise)
    if not isinstance(text, str):
        raise RefusedError(f"{name} is {_shown(text)}; expected a text")
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text[:_LONGEST_ADDRESS])


def _batches(facts: Mapping[str, Any], name: str, run: RunFacts) -> list[int]:
    """Return the batch numbers under `name`."""
    batches, count = facts.get(name, []), run.batches
    if not isinstance(batches, list) or any(
        isinstance(b, bool) or not isinstance(b, int) or not 0 <= b < count for b in batches
    ):
        raise RefusedError(f"{name} are no batches of this run; expected a list of numbers from 0 to {count - 1}")
    return batches


def _entries(facts: Mapping[str, Any], run: RunFacts) -> list[dict[str, int]]:
    """Return what a replica knows of epochs that are over, each once, in order."""
    told = facts.get("finished", [])
    if not isinstance(told, list) or not all(isinstance(entry, Mapping) for entry in told):
        raise RefusedError("finished is no list of epochs")
    most = {"epoch": run.epochs - 1, "trained": run.images, "skipped": run.images, "twice": _LARGEST_STATISTIC}
    entries = ({name: _whole(entry, name, 0, most[name]) for name in most} for entry in told)
    return sorted({entry["epoch"]: entry for entry in entries}.values(), key=lambda entry: entry["epoch"])


def _statistics(facts: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers that `status` shows; what is none of them is left out."""
    told = facts.get("statistics")
    return {
        name: value
        for name, value in (told.items() if isinstance(told, Mapping) else ())
        if name in STATISTICS and _is_number(value) and 0 <= value <= _LARGEST_STATISTIC
    }


def _layout(told: Any) -> LayoutFacts:
    try:
        layout = LayoutFacts.from_list(told)
    except (SettingsError, OverflowError, RecursionError) as error:
        raise RefusedError(str(error)) from None
    names = {name for name, _ in layout.shapes}
    sides = [shape for _, shape in layout.shapes if len(shape) > _MOST_SIDES or max(shape, default=1) > _MOST_NUMBERS]
    if not 0 < len(layout.shapes) == len(names) <= _MOST_TENSORS or not all(name.isprintable() for name in names):
        raise RefusedError(f"the layout is malformed: expected 1 to {_MOST_TENSORS} tensors of different names")
    if sides or sum(math.prod(shape) for _, shape in layout.shapes) > _MOST_NUMBERS:
        raise RefusedError(f"the layout is malformed: expected at most {_MOST_NUMBERS} numbers")
    return layout


def _agreed(told: Any) -> dict[str, Any]:
    if not isinstance(told, Mapping) or len(told) > _MOST_AGREED:
        raise RefusedError(f"what replicas agree on is malformed: expected at most {_MOST_AGREED} names with values")
    for name, value in told.items():
        if not (isinstance(value, str | bool | None) or _is_number(value)) or len(f"{name}{value}") > _LONGEST_VALUE:
            raise RefusedError(f"{_shown(name)} is malformed: {_shown(value)}; expected a number or a short text")
    return dict(told)
