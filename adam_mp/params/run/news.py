"""What members are told: the coordinator's WELCOME and ORDERS hold `News`, a parameter server's MOVED a bucket map."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from adam_mp.params.run.bucket_map import BucketMap, LayoutFacts
from adam_mp.params.run.run_facts import (
    ANY_BUCKET_MAP,
    BUCKET_MAP,
    LARGEST,
    LARGEST_COUNT,
    LAYOUT,
    MOST_BATCHES,
    MOST_EPOCHS,
)
from adam_mp.transport.forms import (
    Choice,
    Flag,
    Form,
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

PHASES = ("waiting", "training", "done")
_LONGEST_WAITING = 500


def _images(seen: Seen) -> int:
    return seen["facts"].images if seen.get("facts") is not None else LARGEST_COUNT


def _last_epoch(seen: Seen) -> int:
    return seen["facts"].epochs - 1 if seen.get("facts") is not None else MOST_EPOCHS


@dataclasses.dataclass(frozen=True)
class EndedEpoch:
    """An epoch that is over: how many images were in trained batches, and how many in `skipped` ones.

    `failed` counts the images of trained batches that could not be read; they count as trained too. `twice` counts
    batches that two replicas trained. If the reader of the message knows the run's facts, they limit the numbers.
    """

    epoch: int = entry(Whole(0, _last_epoch))
    trained: int = entry(Whole(0, _images), 0)
    skipped: int = entry(Whole(0, _images), 0)
    failed: int = entry(Whole(0, _images), 0)
    twice: int = entry(Whole(0, LARGEST_COUNT), 0)


def _pairs(value: Any, seen: Seen) -> dict[int, int]:
    """Return a list of pairs as a dict: batch -> how many of its images could not be read.

    The limits are those of the run's facts if `seen` has them.
    """
    run = seen.get("facts")
    if not isinstance(value, list) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value):
        raise MalformedError("is malformed; expected a list of pairs, a batch and how many images of it")
    batches = Whole(0, run.batches - 1 if run is not None else MOST_BATCHES)
    told: dict[int, int] = {}
    for each, images in value:
        batch = batches.read(each, seen)
        told[batch] = Whole(1, run.images_in(batch) if run is not None else LARGEST_COUNT).read(images, seen)
    return told


def _plain_pairs(failed: Mapping[int, int]) -> list[list[int]]:
    return [[batch, images] for batch, images in sorted(failed.items())]


FAILED: Form = Made(_pairs, _plain_pairs)
ENDED: Form = ListOf(Inner(EndedEpoch), "epochs that are over")


def _bits(value: Any, _: Seen) -> bytes:
    try:
        return bytes.fromhex(value)
    except (TypeError, ValueError):
        raise MalformedError(f"is {brief(value)}; expected bits in hexadecimal") from None


@dataclasses.dataclass(frozen=True)
class News:
    """What WELCOME and ORDERS hold.

    All members: a WELCOME with `waiting` does not make its receiver a member yet, and says what the run waits for.
    `trained` and `failed` count images of `epoch`; `finished` are the epochs that have ended since the member's own.
    `replicas` is how many replicas the servers wait for before they end; `updates` counts those of all other replicas.
    If the coordinator is `elected`, another server of the map may become it.

    Servers alone: the `layout`, and `senders`, the identities of the replicas.

    Replicas alone: the batches `granted`; if the REPORT asked for `states`, also which batches are `done` (one bit a
    batch), and `failed_in`, which maps a batch to how many of its images could not be read.
    """

    run: int = entry(Whole(0, LARGEST), 0)
    waiting: str | None = entry(Optional(Text(_LONGEST_WAITING)), None)
    epoch: int = entry(Whole(0, MOST_EPOCHS), 0)
    phase: str = entry(Choice(PHASES), PHASES[0])
    trained: int = entry(Whole(0, LARGEST_COUNT), 0)
    failed: int = entry(Whole(0, LARGEST_COUNT), 0)
    finished: tuple[EndedEpoch, ...] = entry(ENDED, ())
    leader: bool = entry(Flag(), False)
    replicas: int = entry(Whole(0, LARGEST_COUNT), 0)
    updates: int = entry(Whole(0, LARGEST), 0)
    map: BucketMap | None = entry(Optional(BUCKET_MAP), None)
    elected: bool = entry(Flag(), False)
    layout: LayoutFacts | None = entry(Optional(LAYOUT), None)
    senders: tuple[int, ...] = entry(Wholes("members", 0, LARGEST), ())
    granted: tuple[int, ...] = entry(Wholes("batches", 0, MOST_BATCHES), ())
    done: bytes | None = entry(Optional(Made(_bits, bytes.hex)), None)
    failed_in: Mapping[int, int] = entry(FAILED, {})


@dataclasses.dataclass(frozen=True)
class Moved:
    """What MOVED holds: the bucket map of the parameter server that answers; one of map epoch 0 means: ask again."""

    map: BucketMap = entry(ANY_BUCKET_MAP)
