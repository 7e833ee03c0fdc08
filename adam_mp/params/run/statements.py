"""What members say to the coordinator: JOIN, REPORT and LEAVE.

Anyone may send anything. So all of a message is checked before any part of it is used. A malformed one raises
RefusedError, whose text says what came and what is expected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.run.news import ENDED, FAILED, EndedEpoch
from adam_mp.params.run.run_facts import (
    BUCKET_MAP,
    COPIES_ADDRESS,
    LARGEST,
    LARGEST_COUNT,
    MOST_IMAGES,
    RunFacts,
)
from adam_mp.params.run.wishes import MOST_GROUPS, Lag, RoleWish
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
    is_number,
    read,
)
from adam_mp.transport.refusal import RefusedError

REPLICA, SERVER = "replica", "params"
ROLES = (REPLICA, SERVER)
# The statistics in a member's REPORT that `status` shows.
STATISTICS = (
    "updates", "workers", "trained_here", "rounds", "staleness", "round_ms", "resent", "bytes_in", "bytes_out", "queue",
    "shards", "bytes", "applied", "updates_per_second", "bytes_per_second", "dropped", "refused", "unsent", "owed",
    "deltas", "products", "repeated", "folded", "snapshot_window", "snapshots", "connections_failed",
    "connections_lost", "waited_for_data", "waited_for_leases", "waited_for_exchange", "waited_for_others",
    "copied_bytes",
)  # fmt: skip
_LONGEST_NAME = 100  # letters
_WHO = ("role", "name", "address")
_OF_SERVERS = (*_WHO, "run", "map", "copies", "kept")


def _last_epoch(seen: Seen) -> int:
    epochs: int = seen["facts"].epochs
    return epochs


def _last_batch(seen: Seen) -> int:
    batches: int = seen["facts"].batches
    return batches - 1


def _statistics(told: Any, _: Seen) -> dict[str, float]:
    """Return the statistics that `status` shows; all other entries, and those without a proper number, are left out."""
    return {
        name: value
        for name, value in (told.items() if isinstance(told, Mapping) else ())
        if name in STATISTICS and is_number(value) and 0 <= value <= LARGEST_COUNT
    }


@dataclasses.dataclass(frozen=True)
class Joining:
    """What a JOIN says. A server has an `address`. A replica has the run's `facts`, and says what it did before.

    A server of a run with copies has a second address for `copies`. It says which groups of buckets it `kept`: it has
    had them in memory all the time since it last heard of the bucket `map` of this `run`.

    `epoch` is the epoch of training that the replica is in; `trained` and `leased` are its batches of that epoch, and
    `failed` maps a batch to how many of its images could not be read. `updates` of the whole run are those that its
    checkpoint counts. For a coordinator that was restarted, a replica repeats what it was told before: the `run`, the
    bucket `map`, and the `finished` epochs.
    """

    role: str = entry(Choice(ROLES))
    name: str = entry(Text(_LONGEST_NAME), "")
    address: str = entry(ADDRESS, "")
    facts: RunFacts | None = entry(Optional(Inner(RunFacts)), None)
    run: int = entry(Whole(0, LARGEST), 0)
    epoch: int = entry(Whole(0, _last_epoch), 0)
    updates: int = entry(Whole(0, LARGEST_COUNT), 0)
    trained: Sequence[int] = entry(Wholes("batches", 0, _last_batch), ())
    failed: Mapping[int, int] = entry(FAILED, {})
    leased: Sequence[int] = entry(Wholes("batches", 0, _last_batch), ())
    finished: Sequence[EndedEpoch] = entry(ENDED, ())
    map: BucketMap | None = entry(Optional(BUCKET_MAP), None)
    copies: str = entry(COPIES_ADDRESS, "")
    kept: Sequence[int] = entry(Wholes("groups", 0, MOST_GROUPS), ())


def read_joining(facts: Any) -> Joining:
    """Return what a JOIN says; raises RefusedError if it is malformed.

    For a server, only the fields of a server are read.
    """
    who = read(Joining, facts, RefusedError, _WHO)
    who = dataclasses.replace(who, name=who.name or who.role)
    if who.role == SERVER and not who.address:
        raise RefusedError("a parameter server joins without an address; expected where others find it")
    if who.role != REPLICA:
        return dataclasses.replace(read(Joining, facts, RefusedError, _OF_SERVERS), name=who.name)
    if not isinstance(facts.get("facts"), Mapping):  # the limits of the other fields depend on the run's facts
        raise RefusedError(f"facts is malformed: {brief(facts.get('facts'))}; expected a JSON object")
    told = read(Joining, facts, RefusedError)
    finished = {entry.epoch: entry for entry in told.finished}  # each epoch once; sorted below
    return dataclasses.replace(told, name=who.name, finished=tuple(finished[epoch] for epoch in sorted(finished)))


@dataclasses.dataclass(frozen=True)
class Reporting:
    """What a REPORT says. A server reports `statistics`, and in a run with copies `wishes` and `behind`.

    A server that is `full` has no memory for another copy.

    All other fields are a replica's: `wanted` is how many batches the replica wants; `states` asks which batches of the
    epoch are trained.
    """

    statistics: Mapping[str, float] = entry(Made(_statistics, dict), {})
    epoch: int = entry(Whole(0, _last_epoch), 0)
    wanted: int = entry(Whole(0, MOST_IMAGES), 0)
    trained: Sequence[int] = entry(Wholes("batches", 0, _last_batch), ())
    failed: Mapping[int, int] = entry(FAILED, {})
    states: bool = entry(Flag(), False)
    wishes: Sequence[RoleWish] = entry(ListOf(Inner(RoleWish), "wishes"), ())
    behind: Sequence[Lag] = entry(ListOf(Inner(Lag), "copies that are behind"), ())
    full: bool = entry(Flag(), False)


def read_reporting(facts: Any, run: RunFacts | None) -> Reporting:
    """Return what a REPORT says; raises RefusedError if it is malformed.

    `run` has the limits for a replica's report; None if the sender is a server.
    """
    if run is None:
        return read(Reporting, facts, RefusedError, ("statistics", "wishes", "behind", "full"))
    return read(Reporting, facts, RefusedError, seen={"facts": run})


@dataclasses.dataclass(frozen=True)
class Leaving:
    """What a LEAVE says: which member goes, None for the sender."""

    member: int | None = entry(Optional(Whole(0, LARGEST)), None)


def name_in(facts: Mapping[str, Any]) -> str:
    """Return the name in a JOIN that may be malformed, for a line to the user; "somebody" if it has none."""
    try:
        return Text(_LONGEST_NAME).read(facts.get("name", facts.get("role", "somebody")), {})
    except MalformedError:
        return "somebody"
