"""The shared memory of a group: the processes that have one model in parts, and train each batch together.

The leader, partition 0, announces *works*: batches to train or to evaluate. All members do them in this order, each its
part. A work has a *lane*: arrays for what the members send each other for it, and a word for each message. There are
several lanes, so that members can begin a work while they wait for messages of an earlier one.

    announced ▶ work 7 │ work 8 │ work 9 │          a member's `done` is how many works it has ended
    lane        1        2        0                 a lane is free again when all members have ended its work

If a member dies, the supervisor begins a new *generation*. Every member drops what it does and acknowledges. Once all
have, its successor included, the leader resumes: works that were announced before are void, and it announces their
batches again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from adam_mp.kernels.atomic import fetch_add, observe, publish
from adam_mp.memory.segment import Segment, SegmentHandle
from adam_mp.network.part_layers import Message

TRAIN, SCORE, TAKE_MOMENTS, SETTLE_MOMENTS = range(4)  # kinds of works
_LINE = 8  # int64 words in a cache line
_ANNOUNCED, _GENERATION, _RESUMED, _MEMBERS = 0, _LINE, 2 * _LINE, 3 * _LINE
_QUEUE = 16  # works that are announced and not ended by all, at most


class Work(NamedTuple):
    """What a group does together. A batch to train lies in a slot of a ring, one to evaluate in the group's memory.

    `step` is how many updates the run had made when the work was announced, those of earlier works included; `update`
    is the number of its own among those of this machine, from 1.
    """

    kind: int
    images: int
    epoch: int = 0
    batch: int = 0
    ring: int = 0
    slot: int = 0
    step: int = 0
    update: int = 0


@dataclasses.dataclass(frozen=True)
class GroupShape:
    """The sizes of a group's memory.

    `lanes` are those for training; one more is for evaluation. `messages` are all that the members send each other for
    a batch to train, `scored` those for one to evaluate. Batches have up to `batch` images of shape `image`.
    """

    parts: int
    lanes: int
    batch: int
    image: tuple[int, ...]
    messages: tuple[Message, ...]
    scored: tuple[Message, ...]

    def lane_messages(self, lane: int) -> tuple[Message, ...]:
        """Return the messages of a lane; the last lane is that for evaluation."""
        return self.messages if lane < self.lanes else self.scored

    def lane_bytes(self, lane: int) -> int:
        """Return the bytes of a lane."""
        messages = self.lane_messages(lane)
        return 8 * _LINE * len(messages) + sum(_line_up(each.bytes(self.batch)) for each in messages)

    @property
    def words(self) -> int:
        """How many words come first: those of the group, of each member, of the works."""
        return _MEMBERS + 2 * _LINE * self.parts + _LINE * _QUEUE

    @property
    def pictures_bytes(self) -> int:
        """Bytes of the pictures to evaluate."""
        return _line_up(4 * self.batch * math.prod(self.image))

    @property
    def bytes(self) -> int:
        """Bytes of the group's memory."""
        lanes = sum(self.lane_bytes(lane) for lane in range(self.lanes + 1))
        return 8 * self.words + self.pictures_bytes + lanes


@dataclasses.dataclass(frozen=True)
class GroupHandle:
    """What a member needs to attach to the memory of its group, number `group` of those in the segment."""

    segment: SegmentHandle
    shape: GroupShape
    group: int


class LaneMail:
    """The messages of one lane for one member: a `compute.mail.Mail` whose two sides have one array."""

    def __init__(self, segment: Segment, offset: int, messages: Sequence[Message], batch: int) -> None:
        self._words = segment.array(np.int64, (max(1, _LINE * len(messages)),), offset)
        self._index = {message: _LINE * number for number, message in enumerate(messages)}
        offset += 8 * _LINE * len(messages)
        self._arrays = {}
        for message in messages:
            kind = np.float64 if message.is_sum else np.float32
            self._arrays[message] = segment.array(kind, message.shape(batch), offset)
            offset += _line_up(message.bytes(batch))
        self._work = 0

    def begin(self, work: int) -> None:
        """Send and receive the messages of work number `work` from now on."""
        self._work = work + 1

    def array(self, message: Message) -> np.ndarray:
        """Return the message's array, which sender and receiver share."""
        return self._arrays[message]

    def send(self, message: Message) -> None:
        """Let the receiver read the message."""
        publish(self._words, self._index[message], self._work)

    def arrived(self, message: Message) -> bool:
        """Return whether the message of the present work was sent."""
        return bool(observe(self._words, self._index[message]) >= self._work)


class Group:
    """A member's view of its group's memory; `part` is its number. The supervisor's view has part -1."""

    def __init__(self, segment: Segment, shape: GroupShape, group: int, part: int = -1) -> None:
        self.shape, self.part = shape, part
        self._segment = segment
        offset = group * _line_up(shape.bytes)
        words = shape.words
        self._words = segment.array(np.int64, (words,), offset)
        self._queue = self._words[words - _LINE * _QUEUE :].reshape(_QUEUE, _LINE)
        offset += 8 * words
        self.pictures = segment.array(np.float32, (shape.batch, *shape.image), offset)
        offset += shape.pictures_bytes
        self.mails = []
        for lane in range(shape.lanes + 1):
            self.mails.append(LaneMail(segment, offset, shape.lane_messages(lane), shape.batch))
            offset += shape.lane_bytes(lane)

    @classmethod
    def attach(cls, handle: GroupHandle, part: int) -> Group:
        """Map the memory that the supervisor made."""
        return cls(Segment.attach(handle.segment), handle.shape, handle.group, part)

    # Works.

    @property
    def announced(self) -> int:
        """How many works were announced since the start."""
        return int(observe(self._words, _ANNOUNCED))

    def announce(self, work: Work) -> int:
        """Announce a work; return its number. Leader only, and only if `has_room`."""
        number = self.announced
        self._queue[number % _QUEUE, : len(work)] = work
        publish(self._words, _ANNOUNCED, number + 1)
        return number

    def work(self, number: int) -> Work:
        """Return a work that is announced and not ended by all."""
        return Work._make(self._queue[number % _QUEUE, : len(Work._fields)].tolist())

    def ended(self) -> int:
        """Return how many works all members have ended."""
        return min(int(observe(self._words, self._place(part))) for part in range(self.shape.parts))

    def end(self, number: int) -> None:
        """Note that this member has ended all works up to, and including, `number`."""
        publish(self._words, self._place(self.part), number + 1)

    # Generations.

    @property
    def generation(self) -> int:
        """The number of the generation: it grows when a member dies."""
        return int(observe(self._words, _GENERATION))

    def renew(self) -> None:
        """Begin a new generation. Supervisor only."""
        fetch_add(self._words, _GENERATION, 1)

    def acknowledge(self, generation: int) -> None:
        """Note that this member has dropped all works of earlier generations."""
        publish(self._words, self._place(self.part) + _LINE, generation + 1)

    def all_acknowledged(self, generation: int) -> bool:
        """Return whether all members have dropped all earlier works."""
        places = (self._place(part) + _LINE for part in range(self.shape.parts))
        return all(observe(self._words, place) == generation + 1 for place in places)

    def resume(self, generation: int) -> None:
        """Let the members go on with the works that are announced from now on. Leader only."""
        self._words[_RESUMED + 1] = self.announced
        publish(self._words, _RESUMED, generation + 1)

    def resumed_at(self, generation: int) -> int | None:
        """Return the number of the work with which the members go on; None while they may not."""
        return int(self._words[_RESUMED + 1]) if observe(self._words, _RESUMED) == generation + 1 else None

    def _place(self, part: int) -> int:
        return _MEMBERS + 2 * _LINE * part


class GroupMemory:
    """The memory of all groups of a run, owned by the supervisor."""

    def __init__(self, segment: Segment, shape: GroupShape, groups: int) -> None:
        self._segment, self.shape = segment, shape
        self.groups = [Group(segment, shape, number) for number in range(groups)]

    @staticmethod
    def bytes_needed(shape: GroupShape, groups: int) -> int:
        """Return the bytes of the memory."""
        return groups * _line_up(shape.bytes)

    @classmethod
    def create(cls, shape: GroupShape, groups: int, folder: Path | None = None) -> GroupMemory:
        """Make the memory; the calling process owns it. Raises SpaceError if there is no room."""
        return cls(Segment.create("partitions", cls.bytes_needed(shape, groups), folder), shape, groups)

    @property
    def descriptor(self) -> int:
        """The open file that every member inherits."""
        return self._segment.handle.descriptor

    def handle(self, group: int) -> GroupHandle:
        """Return what a member of a group needs to attach."""
        return GroupHandle(self._segment.handle, self.shape, group)

    def close(self) -> None:
        """Give up this process's mapping."""
        self.groups.clear()
        self._segment.close()


def _line_up(size: int) -> int:
    return -(-size // 64) * 64
