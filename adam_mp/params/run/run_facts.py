"""What all replicas of a run must agree on, and forms for fields of several messages: layout, bucket map, address."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from adam_mp.errors import AdamError, SettingsError, several
from adam_mp.memory.segment import megabytes
from adam_mp.params.run.bucket_map import BucketMap, LayoutFacts
from adam_mp.transport.forms import ADDRESS, Made, MalformedError, Number, Seen, Whole, brief, entry, is_number, write
from adam_mp.transport.messages import LONGEST
from adam_mp.transport.places import parse_place
from adam_mp.transport.refusal import RefusedError

MOST_IMAGES, MOST_BATCHES, MOST_EPOCHS = 1 << 40, 1 << 24, 1 << 31
LARGEST = (1 << 64) - 1  # the largest number in a 64-bit field of a message's header
LARGEST_COUNT = 1 << 48  # ten thousand of them still fit the 63 bits of a replica's counter
_MOST_NUMBERS, _MOST_TENSORS, _MOST_SIDES = 1 << 36, 10_000, 8  # limits of a layout; sides: of one tensor's shape
_MOST_AGREED, _LONGEST_VALUE = 100, 10_000
LATEST_MAP = 1 << 31  # the largest map epoch: a message's header has 32 bits for it
_WIDEST = LONGEST // 4  # most numbers in a row of a matrix: a shard has whole rows, and must fit one message


def _layout(told: Any, _: Seen) -> LayoutFacts:
    try:
        layout = LayoutFacts.from_list(told)
    except (SettingsError, OverflowError, RecursionError) as error:
        raise MalformedError(f"is malformed: {error}") from None
    names = {name for name, _ in layout.shapes}
    sides = [shape for _, shape in layout.shapes if len(shape) > _MOST_SIDES or max(shape, default=1) > _MOST_NUMBERS]
    if not 0 < len(layout.shapes) == len(names) <= _MOST_TENSORS or not all(name.isprintable() for name in names):
        raise MalformedError(f"is malformed; expected 1 to {_MOST_TENSORS} tensors of different names")
    if sides or layout.numbers > _MOST_NUMBERS:
        raise MalformedError(f"is malformed; expected at most {_MOST_NUMBERS} numbers")
    if any(len(shape) == 2 and shape[1] > _WIDEST for _, shape in layout.shapes):
        raise MalformedError(f"has a matrix with longer rows than a message holds, {_WIDEST} numbers")
    return layout


def _agreed(told: Any, _: Seen) -> dict[str, Any]:
    if not isinstance(told, Mapping) or len(told) > _MOST_AGREED:
        raise MalformedError(f"is malformed; expected at most {_MOST_AGREED} names with values")
    for name, value in told.items():
        if not (isinstance(value, str | bool | None) or is_number(value)) or len(f"{name}{value}") > _LONGEST_VALUE:
            raise MalformedError(f"has {brief(name)} {brief(value)}; expected a number or a short text")
    return dict(told)


def _copies_address(told: Any, seen: Seen) -> str:
    """Return an address for copies, "" for none: one that all servers can at least parse."""
    address = str(ADDRESS.read(told, seen))
    try:
        if address:
            parse_place(address, "the address for copies")
    except AdamError as error:
        raise MalformedError(f"is malformed: {error}") from None
    return address


def _bucket_map(told: Any, seen: Seen) -> BucketMap:
    bucket_map = _any_bucket_map(told, seen)
    if not bucket_map.epoch:
        raise MalformedError(f"is of epoch 0; expected 1 to {LATEST_MAP}")
    return bucket_map


def _any_bucket_map(told: Any, _: Seen) -> BucketMap:
    try:
        bucket_map = BucketMap.from_dict(told)
        for server in bucket_map.servers:
            ADDRESS.read(server.address, {})
            _copies_address(server.copies, {})
    except MalformedError as error:
        raise MalformedError(f"is malformed: address {error}") from None
    except (KeyError, TypeError, ValueError, OverflowError):
        raise MalformedError("is malformed; expected an epoch, and servers with identity and address") from None
    if not 0 <= bucket_map.epoch <= LATEST_MAP:
        raise MalformedError(f"is of epoch {brief(bucket_map.epoch)}; expected 0 to {LATEST_MAP}")
    return bucket_map


_CUT = ("partitions", "digest of the cut")  # how a replica cuts the model, if it does
COPIES_ADDRESS = Made(_copies_address, str)
LAYOUT = Made(_layout, LayoutFacts.as_list)
BUCKET_MAP = Made(_bucket_map, BucketMap.as_dict)
ANY_BUCKET_MAP = Made(_any_bucket_map, BucketMap.as_dict)  # map epoch 0, older than all others, is allowed too


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What all replicas of a run must agree on. `images` are those of one epoch; `agreed` has other settings by name.

    Each batch holds `batch_size` images; the last one of an epoch may hold fewer.
    """

    layout: LayoutFacts = entry(LAYOUT)
    images: int = entry(Whole(1, MOST_IMAGES))
    batch_size: int = entry(Whole(1, MOST_IMAGES))
    epochs: int = entry(Whole(1, MOST_EPOCHS))
    quorum: float = entry(Number(0, 1))
    agreed: Mapping[str, Any] = entry(Made(_agreed, dict))  # compared one by one: data digest, seed, optimizer, ...

    def __post_init__(self) -> None:
        if self.images / self.batch_size > MOST_BATCHES:
            raise MalformedError(
                f"{self.images} images in batches of {self.batch_size}; expected at most {MOST_BATCHES} batches"
            )

    @property
    def batches(self) -> int:
        """How many batches an epoch has."""
        return math.ceil(self.images / self.batch_size)

    def images_in(self, batch: int) -> int:
        """How many images this batch holds."""
        return min(self.batch_size, self.images - batch * self.batch_size)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return write(self)

    def check_room(self, servers: int, room: int) -> None:
        """Raise RefusedError if one of `servers` cannot hold its part of the weights in `room` bytes."""
        part = 4 * self.layout.numbers // servers
        if part > room:
            raise RefusedError(
                f"the network's weights are {megabytes(part)} for each of {several(servers, 'parameter server')}, and "
                "the first "
                f"has {megabytes(room)} free; use a smaller network or more servers"
            )

    def difference(self, other: RunFacts) -> str | None:
        """Name the first thing in which `other`, the facts of a replica, differ from these facts of the run.

        The text has both values; None if they agree.
        """
        for name in _CUT:  # before the layout, which differs by them
            if self.agreed.get(name) != other.agreed.get(name):
                return f"{name} {other.agreed.get(name)!r}, the run has {self.agreed.get(name)!r}"
        if self.layout != other.layout:
            return f"another network: {self.layout.difference(other.layout)}"
        for name in ("images", "batch_size", "epochs", "quorum"):
            if getattr(self, name) != getattr(other, name):
                return f"{name} {getattr(other, name)!r}, the run has {getattr(self, name)!r}"
        for name in sorted(self.agreed.keys() | other.agreed.keys()):
            if self.agreed.get(name) != other.agreed.get(name):
                return f"{name} {other.agreed.get(name)!r}, the run has {self.agreed.get(name)!r}"
        return None
