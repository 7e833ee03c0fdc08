"""What members say to the coordinator, checked: all that a message has is looked at before any of it is used.

Anyone may send anything. Whatever is not as it should be raises RefusedError, whose text says what came and what is
expected.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from adam_mp.errors import AdamError, SettingsError
from adam_mp.memory.segment import megabytes
from adam_mp.params.run.bucket_map import BucketMap, LayoutFacts
from adam_mp.transport.messages import LONGEST, shown

REPLICA, SERVER = "replica", "params"
ROLES = (REPLICA, SERVER)
# The numbers of a member that `status` shows.
STATISTICS = (
    "updates", "workers", "trained_here", "rounds", "staleness", "round_ms", "resent", "bytes_in", "bytes_out", "queue",
    "shards", "bytes", "applied", "updates_per_second", "bytes_per_second", "dropped", "refused", "unsent", "owed",
    "deltas", "products", "repeated", "folded", "snapshot_window", "snapshots", "connections_failed",
    "connections_lost",
)  # fmt: skip
_MOST_IMAGES, _MOST_BATCHES, _MOST_EPOCHS = 1 << 40, 1 << 24, 1 << 31
_MOST_NUMBERS, _MOST_TENSORS, _MOST_SIDES = 1 << 36, 10_000, 8  # of a layout
_MOST_AGREED, _LONGEST_VALUE = 100, 10_000
_LONGEST_NAME, _LONGEST_TEXT = 100, 300
_LONGEST_ADDRESS = 4200  # a path may have 4095 bytes
_LATEST_MAP = 1 << 31  # a message's header has 32 bits for the epoch of the map
_LARGEST_STATISTIC = 1 << 48  # ten thousand of them still fit the 63 bits of a replica's counter
LARGEST = (1 << 64) - 1  # of a message's header
_WIDEST = LONGEST // 4  # numbers in a row of a matrix: a shard has whole rows, and goes in one message


class RefusedError(AdamError):
    """A message was not taken. `rejoin` asks its sender to join again."""

    def __init__(self, reason: str, rejoin: bool = False) -> None:
        super().__init__(reason)
        self.rejoin = rejoin


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

    def images_in(self, batch: int) -> int:
        """Images that one batch holds."""
        return min(self.batch_size, self.images - batch * self.batch_size)

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

    def check_room(self, servers: int, room: int) -> None:
        """Raise RefusedError if one of `servers` cannot hold its part of the weights in `room` bytes."""
        part = 4 * self.layout.numbers // servers
        if part > room:
            raise RefusedError(
                f"the network's weights are {megabytes(part)} for each of {servers} parameter servers, and the first "
                f"has {megabytes(room)} free; use a smaller network or more servers"
            )

    def difference(self, other: RunFacts) -> str | None:
        """Name the first thing in which two replicas differ, with both values; None if they agree."""
        if self.layout != other.layout:
            return f"another network: {self.layout.difference(other.layout)}"
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
    updates: int = 0  # of the whole run, as its checkpoint says
    trained: Sequence[int] = ()
    failed: Mapping[int, int] = dataclasses.field(default_factory=dict)  # batch -> images that could not be had
    leased: Sequence[int] = ()
    finished: Sequence[dict[str, int]] = ()
    map: BucketMap | None = None  # which the coordinator made before it was restarted

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Joining:
        """Take what was sent; raises RefusedError if it is malformed."""
        role = facts.get("role")
        if role not in ROLES:
            raise RefusedError(f"unknown role {_shown(role)}; expected one of {', '.join(ROLES)}")
        name = _text(facts, "name", role)[:_LONGEST_NAME]
        address = _address(facts["address"]) if facts.get("address") else ""
        if role == SERVER and not address:
            raise RefusedError("a parameter server joins without an address; expected where others find it")
        if role != REPLICA:
            return cls(role, name, address)
        given = facts.get("facts")
        run = RunFacts.from_dict(given if isinstance(given, Mapping) else {})
        return cls(
            role, name, address, run, _whole(facts, "run", 0, LARGEST), _whole(facts, "epoch", 0, run.epochs),
            _whole(facts, "updates", 0, _LARGEST_STATISTIC), _batches(facts, "trained", run),
            _failed(facts, run), _batches(facts, "leased", run), _entries(facts, run),
            _bucket_map(facts.get("map")),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Reporting:
    """What a REPORT says, checked. Of what trains, only a replica has anything to say."""

    statistics: Mapping[str, float]
    epoch: int = 0
    wanted: int = 0
    trained: Sequence[int] = ()
    failed: Mapping[int, int] = dataclasses.field(default_factory=dict)  # batch -> images that could not be had
    states: bool = False  # whether it asks which batches are trained

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any], run: RunFacts | None) -> Reporting:
        """Take what a replica of `run`, or for None another member, sent; raises RefusedError if it is malformed."""
        statistics = _statistics(facts)
        if run is None:
            return cls(statistics)
        epoch, wanted = _whole(facts, "epoch", 0, run.epochs), _whole(facts, "wanted", 0, _MOST_IMAGES)
        trained, failed = _batches(facts, "trained", run), _failed(facts, run)
        return cls(statistics, epoch, wanted, trained, failed, facts.get("states") is True)


def member_named(sender: int, facts: Mapping[str, Any] | None) -> int:
    """Return who goes, as a LEAVE says: the sender, or whom `facts` name; raises RefusedError."""
    return _whole({"member": sender, **(facts or {})}, "member", 0, LARGEST)


def name_in(facts: Mapping[str, Any]) -> str:
    """Return the name in a JOIN, whatever else is in it, for a line about it."""
    try:
        return _text(facts, "name", _text(facts, "role", "somebody"))[:_LONGEST_NAME]
    except RefusedError:
        return "somebody"


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
    return shown(text, _LONGEST_TEXT)


def _address(told: Any) -> str:
    """Return an address as others are to dial it, letter for letter; raises RefusedError if it is none."""
    if not isinstance(told, str) or not told.isprintable() or len(told) > _LONGEST_ADDRESS:
        raise RefusedError(f"address is {_shown(told)}; expected a printable text, {_LONGEST_ADDRESS} letters at most")
    return told


def _batches(facts: Mapping[str, Any], name: str, run: RunFacts) -> list[int]:
    """Return the batch numbers under `name`."""
    batches, count = facts.get(name, []), run.batches
    if not isinstance(batches, list) or any(
        isinstance(b, bool) or not isinstance(b, int) or not 0 <= b < count for b in batches
    ):
        raise RefusedError(f"{name} are no batches of this run; expected a list of numbers from 0 to {count - 1}")
    return batches


def _failed(facts: Mapping[str, Any], run: RunFacts) -> dict[int, int]:
    """Return batch -> images of it that could not be had, as pairs under "failed" say."""
    pairs = facts.get("failed", [])
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise RefusedError("failed is malformed; expected a list of pairs, a batch and how many images of it")
    told = [{"batch": batch, "images": images} for batch, images in pairs]
    return {
        (batch := _whole(pair, "batch", 0, run.batches - 1)): _whole(pair, "images", 1, run.images_in(batch))
        for pair in told
    }


def _entries(facts: Mapping[str, Any], run: RunFacts) -> list[dict[str, int]]:
    """Return what a replica knows of epochs that are over, each once, in order."""
    told = facts.get("finished", [])
    if not isinstance(told, list) or not all(isinstance(entry, Mapping) for entry in told):
        raise RefusedError("finished is no list of epochs")
    images = dict.fromkeys(("trained", "skipped", "failed"), run.images)
    most = {"epoch": run.epochs - 1, **images, "twice": _LARGEST_STATISTIC}
    entries = ({name: _whole(entry, name, 0, most[name]) for name in most} for entry in told)
    return sorted({entry["epoch"]: entry for entry in entries}.values(), key=lambda entry: entry["epoch"])


def _bucket_map(told: Any) -> BucketMap | None:
    if told is None:
        return None
    try:
        bucket_map = BucketMap.from_dict(told)
        for server in bucket_map.servers:
            _address(server.address)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise RefusedError("the map is malformed: expected an epoch, and servers with identity and address") from None
    if not 0 < bucket_map.epoch <= _LATEST_MAP:
        raise RefusedError(f"the map is of epoch {_shown(bucket_map.epoch)}; expected 1 to {_LATEST_MAP}")
    return bucket_map


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
    if sides or layout.numbers > _MOST_NUMBERS:
        raise RefusedError(f"the layout is malformed: expected at most {_MOST_NUMBERS} numbers")
    if any(len(shape) == 2 and shape[1] > _WIDEST for _, shape in layout.shapes):
        raise RefusedError(f"the layout has a matrix with longer rows than a message holds, {_WIDEST} numbers")
    return layout


def _agreed(told: Any) -> dict[str, Any]:
    if not isinstance(told, Mapping) or len(told) > _MOST_AGREED:
        raise RefusedError(f"what replicas agree on is malformed: expected at most {_MOST_AGREED} names with values")
    for name, value in told.items():
        if not (isinstance(value, str | bool | None) or _is_number(value)) or len(f"{name}{value}") > _LONGEST_VALUE:
            raise RefusedError(f"{_shown(name)} is malformed: {_shown(value)}; expected a number or a short text")
    return dict(told)
