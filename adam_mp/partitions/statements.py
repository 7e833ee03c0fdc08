"""What supervisors of partitions say to each other in JSON: JOIN, WELCOME, REPORT and ORDERS.

Anyone may send anything, so a receiver checks all of a message before it uses any of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.run.run_facts import BUCKET_MAP
from adam_mp.transport.forms import (
    ADDRESS,
    Choice,
    Flag,
    Inner,
    ListOf,
    Made,
    MalformedError,
    Optional,
    Seen,
    Text,
    Whole,
    Wholes,
    brief,
    entry,
)

MOST_PARTS = 64
_LONGEST = 500  # characters of a text for people
_LARGEST = (1 << 63) - 1  # number in a 64-bit word
# The leader tells the state of the run: it goes on, is done, was stopped or failed, or begins again from a checkpoint.
GOES_ON, IS_DONE, FAILED, BEGINS_AGAIN = "goes on", "done", "failed", "again"


def _facts(told: Any, _: Seen) -> Mapping[str, Any]:
    if not isinstance(told, Mapping):
        raise MalformedError(f"is {brief(told)}; expected a JSON object")
    return told


@dataclasses.dataclass(frozen=True)
class PartJoining:
    """JOIN: a process asks to have partition `partition` of `partitions`, counted from 1.

    `version` is that of adam_mp, `name` says for people which process it is, `courier` is where its courier listens.
    """

    partition: int = entry(Whole(1, MOST_PARTS))
    partitions: int = entry(Whole(2, MOST_PARTS))
    version: str = entry(Text(50))
    name: str = entry(Text(100))
    courier: str = entry(ADDRESS)


@dataclasses.dataclass(frozen=True)
class PartWelcome:
    """WELCOME: the number of the run, and all that a partition needs to know of it (`training.group.task`)."""

    run: int = entry(Whole(1, _LARGEST))
    task: Mapping[str, Any] = entry(Made(_facts, dict))


@dataclasses.dataclass(frozen=True)
class Exchanged:
    """What a partition has exchanged with parameter servers: it has done `round` of the leader's rounds.

    The others are the counters of `memory.exchange`. `silences` are in milliseconds, by server.
    """

    round: int = entry(Whole(0, _LARGEST))
    rounds: int = entry(Whole(0, _LARGEST))
    sequence: int = entry(Whole(0, _LARGEST))
    pushed_bytes: int = entry(Whole(0, _LARGEST))
    pulled_bytes: int = entry(Whole(0, _LARGEST))
    resent: int = entry(Whole(0, _LARGEST))
    silences: tuple[int, ...] = entry(Wholes("silences", 0, _LARGEST))


@dataclasses.dataclass(frozen=True)
class PartReport:
    """REPORT: a partition says that it lives, whether its memory is `ready`, and why it cannot go on, if it cannot.

    `exchanged` is None until it exchanges weights.
    """

    ready: bool = entry(Flag(), False)
    fault: str = entry(Text(_LONGEST), "")
    exchanged: Exchanged | None = entry(Optional(Inner(Exchanged)), None)

    @property
    def awaited(self) -> tuple[bool, str, int]:
        """What the leader waits for; the rest may come with the next report."""
        return self.ready, self.fault, -1 if self.exchanged is None else self.exchanged.round


@dataclasses.dataclass(frozen=True)
class ToExchange:
    """How a group exchanges weights: the run and the servers of `map`, the group's `identity` as a replica of that run.

    `round` is the last round that has begun on the leader's machine.
    """

    run: int = entry(Whole(1, _LARGEST))
    identity: int = entry(Whole(1, _LARGEST))
    map: BucketMap = entry(BUCKET_MAP)
    round: int = entry(Whole(0, _LARGEST))


@dataclasses.dataclass(frozen=True)
class PartOrders:
    """ORDERS: the leader's answer. `places` are those of all couriers, once all partitions are ready; () before.

    `state` is what has become of the run, `why` says it for people. `exchange` comes once partitions have their weights
    and are to exchange them; None before, and in a run without parameter servers.
    """

    places: tuple[str, ...] = entry(ListOf(ADDRESS, "addresses"), ())
    state: str = entry(Choice((GOES_ON, IS_DONE, FAILED, BEGINS_AGAIN)), GOES_ON)
    why: str = entry(Text(_LONGEST), "")
    exchange: ToExchange | None = entry(Optional(Inner(ToExchange)), None)
