"""What supervisors of partitions say to each other in JSON: JOIN, WELCOME, REPORT and ORDERS.

Anyone may send anything, so a receiver checks all of a message before it uses any of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from adam_mp.transport.forms import (
    ADDRESS,
    Choice,
    Flag,
    ListOf,
    Made,
    MalformedError,
    Seen,
    Text,
    Whole,
    brief,
    entry,
)

MOST_PARTS = 64
_LONGEST = 500  # characters of a text for people
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

    run: int = entry(Whole(1, (1 << 63) - 1))
    task: Mapping[str, Any] = entry(Made(_facts, dict))


@dataclasses.dataclass(frozen=True)
class PartReport:
    """REPORT: a partition says that it lives, whether its memory is `ready`, and why it cannot go on, if it cannot."""

    ready: bool = entry(Flag(), False)
    fault: str = entry(Text(_LONGEST), "")


@dataclasses.dataclass(frozen=True)
class PartOrders:
    """ORDERS: the leader's answer. `places` are those of all couriers, once all partitions are ready; () before.

    `state` is what has become of the run, `why` says it for people.
    """

    places: tuple[str, ...] = entry(ListOf(ADDRESS, "addresses"), ())
    state: str = entry(Choice((GOES_ON, IS_DONE, FAILED, BEGINS_AGAIN)), GOES_ON)
    why: str = entry(Text(_LONGEST), "")
