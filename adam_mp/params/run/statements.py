"""What members say to the coordinator: JOIN, REPORT and LEAVE.

Anyone may send anything. Whatever is not as it should be raises RefusedError, whose text says what came and what is
expected; all of a message is looked at before any of it is used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.run.news import ENDED, FAILED, EndedEpoch
from adam_mp.params.run.run_facts import ADDRESS, BUCKET_MAP, LARGEST, LARGEST_COUNT, MOST_IMAGES, RunFacts
from adam_mp.transport.forms import (
    Choice,
    Flag,
    Inner,
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
# The numbers of a member that `status` shows.
STATISTICS = (
    "updates", "workers", "trained_here", "rounds", "staleness", "round_ms", "resent", "bytes_in", "bytes_out", "queue",
    "shards", "bytes", "applied", "updates_per_second", "bytes_per_second", "dropped", "refused", "unsent", "owed",
    "deltas", "products", "repeated", "folded", "snapshot_window", "snapshots", "connections_failed",
    "connections_lost",
)  # fmt: skip
_LONGEST_NAME = 100  # letters
_WHO = ("role", "name", "address")


def _last_epoch(seen: Seen) -> int:
    epochs: int = seen["facts"].epochs
    return epochs


def _last_batch(seen: Seen) -> int:
    batches: int = seen["facts"].batches
    return batches - 1


def _statistics(told: Any, _: Seen) -> dict[str, float]:
    """Return the numbers that `status` shows; what is none of them is left out."""
    return {
        name: value
        for name, value in (told.items() if isinstance(told, Mapping) else ())
        if name in STATISTICS and is_number(value) and 0 <= value <= LARGEST_COUNT
    }


@dataclasses.dataclass(frozen=True)
class Joining:
    """What a JOIN says. A replica has `facts`, and tells what it did before, in the epoch it is in.

    `run`, `map` and `finished` are what the coordinator said before it was restarted: its run, the map that it made,
    and the epochs that are over. `updates` of the whole run are those that a checkpoint counts. `failed` has, by batch,
    the images that could not be had.
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


def read_joining(facts: Any) -> Joining:
    """Return what a JOIN says; raises RefusedError if it is malformed. Of a replica alone, more than who it is."""
    who = read(Joining, facts, RefusedError, _WHO)
    who = dataclasses.replace(who, name=who.name or who.role)
    if who.role == SERVER and not who.address:
        raise RefusedError("a parameter server joins without an address; expected where others find it")
    if who.role != REPLICA:
        return who
    if not isinstance(facts.get("facts"), Mapping):  # all else has its limits from them
        raise RefusedError(f"facts is malformed: {brief(facts.get('facts'))}; expected a JSON object")
    told = read(Joining, facts, RefusedError)
    finished = {entry.epoch: entry for entry in told.finished}  # each once, in order
    return dataclasses.replace(told, name=who.name, finished=tuple(finished[epoch] for epoch in sorted(finished)))


@dataclasses.dataclass(frozen=True)
class Reporting:
    """What a REPORT says. Of what trains, only a replica has anything to say.

    `wanted` is how many batches it wants; `states` whether it asks which batches are trained.
    """

    statistics: Mapping[str, float] = entry(Made(_statistics, dict), {})
    epoch: int = entry(Whole(0, _last_epoch), 0)
    wanted: int = entry(Whole(0, MOST_IMAGES), 0)
    trained: Sequence[int] = entry(Wholes("batches", 0, _last_batch), ())
    failed: Mapping[int, int] = entry(FAILED, {})
    states: bool = entry(Flag(), False)


def read_reporting(facts: Any, run: RunFacts | None) -> Reporting:
    """Return what a replica of `run`, or for None another member, reports; raises RefusedError if it is malformed."""
    if run is None:
        return read(Reporting, facts, RefusedError, ("statistics",))
    return read(Reporting, facts, RefusedError, seen={"facts": run})


@dataclasses.dataclass(frozen=True)
class Leaving:
    """What a LEAVE says: which member goes, None for the sender."""

    member: int | None = entry(Optional(Whole(0, LARGEST)), None)


def name_in(facts: Mapping[str, Any]) -> str:
    """Return the name in a JOIN, whatever else is in it, for a line about it."""
    try:
        return Text(_LONGEST_NAME).read(facts.get("name", facts.get("role", "somebody")), {})
    except MalformedError:
        return "somebody"
