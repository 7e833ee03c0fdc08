"""The messages between partitions on several machines: what their header's fields mean, and their payloads.

In all of them `run` is the run's number and `sender` one more than the sending partition.

Between couriers `map_epoch` is the generation; messages of another one are void. `sequence` is the number of a work,
`group` its lane. `shard` is, in PART, the index of the message in the lane's list, which all machines derive from the
same cut. PART has the message's array for the images of the batch; INPUT has rows of images, float32. Large ones come
in several messages: `version` is the first image in INPUT, and in PART twice the first byte, one more in the last.

Between supervisors, `shard` is the index of a flat space (`space_names`), `version` the first number asked for or sent,
`map_epoch` the end of what READ asks for. DO has a number of `Doing` in `shard`. What a partition sends to the leader
has a random number in `map_epoch`, by which the leader knows the process again when it has dialled anew.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from adam_mp.memory.group import Work
from adam_mp.transport.messages import FrameError, Message

STATISTICS = "statistics"  # the space of what norms know of the training images
WEIGHTS = "weights"
_WORK = np.dtype([("work", "<i8", len(Work._fields)), ("rate_share", "<f8"), ("mixed", "<f8")])


class Doing(enum.IntEnum):
    """What the leader asks a partition to do with its weights; `version` of the answer is what it found."""

    CHECK = 1  # are all its weights finite numbers?
    AVERAGE = 2  # move the average of the weights towards them, by the share in the payload, a float64
    RESUME = 3  # the run has made so many updates, an int64 in the payload


def space_names(states: Collection[str]) -> tuple[str, ...]:
    """Return the flat spaces of a partition: its weights, its optimizer states and average, what norms know."""
    return (WEIGHTS, *states, STATISTICS)


class MemberState(NamedTuple):
    """How far a member is: its generation, how many works it has ended, one more than what it has acknowledged."""

    generation: int
    ended: int
    acknowledged: int


class GroupState(NamedTuple):
    """How far a group is: its generation, and with which work it goes on in which generation (one more; 0 in none)."""

    generation: int
    resumed: int
    number: int


class AnnouncedWork(NamedTuple):
    """A work, the share of the learning rate that counts for it, and the labels of a batch to train, int32 [images]."""

    work: Work
    rate_share: float
    mixed: float
    labels: np.ndarray


def state_payload(state: MemberState | GroupState) -> bytes:
    """Return the payload of GROUP."""
    return np.array(state, "<i8").tobytes()


def read_state(message: Message) -> tuple[int, int, int]:
    """Return the numbers in GROUP; raises FrameError if there are not three."""
    if message.length != 24:
        raise FrameError(f"GROUP has {message.length} bytes; expected 24")
    first, second, third = np.frombuffer(message.payload, "<i8").tolist()
    return first, second, third


def work_payload(announced: AnnouncedWork) -> bytes:
    """Return the payload of WORK."""
    head = np.zeros((), _WORK)
    head["work"], head["rate_share"], head["mixed"] = announced.work, announced.rate_share, announced.mixed
    return head.tobytes() + announced.labels.astype("<i4").tobytes()


def read_work(message: Message) -> AnnouncedWork:
    """Return what a WORK announces; raises FrameError if it holds no work."""
    if message.length < _WORK.itemsize or (message.length - _WORK.itemsize) % 4:
        raise FrameError(f"WORK has {message.length} bytes, which is no work with labels")
    head = np.frombuffer(message.payload, _WORK, 1)[0]
    labels = np.frombuffer(message.payload, "<i4", offset=_WORK.itemsize)
    return AnnouncedWork(Work._make(head["work"].tolist()), float(head["rate_share"]), float(head["mixed"]), labels)
