"""The shared memory of a group: the processes that have one model in parts, and train each batch together.

The leader, partition 0, announces *works*: batches to train or to evaluate. All members do them in this order, each its
part. A work has a *lane*: arrays for what the members send each other for it, and a word for each message. There are
several lanes, so that members can begin a work while they wait for messages of an earlier one.

    announced ▶ work 7 │ work 8 │ work 9 │          a member's `done` is how many works it has ended
    lane        1        2        0                 a lane is free again when all members have ended its work

If a member dies, the supervisor begins a new *generation*. Every member drops what it does and acknowledges. Once all
have, its successor included, the leader resumes: works that were announced before are void, and it announces their
batches again.

A group may have each partition on a machine of its own. Then each machine has a memory like this, with one member. A
courier (`partitions.courier`) brings what members send, announce and note from one memory to the others, and members
ring its doorbell. Batches to train then come by courier, into a slot of the work's lane.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from adam_mp.kernels.atomic import observe, observe_all, publish
from adam_mp.memory.doorbell import Doorbell
from adam_mp.memory.ring import RingShape, Slot, slot_at
from adam_mp.memory.segment import Segment, SegmentHandle
from adam_mp.network.part_layers import Message

TRAIN, SCORE, TAKE_MOMENTS, SETTLE_MOMENTS = range(4)  # kinds of works
_LINE = 8  # int64 words in a cache line
_ANNOUNCED, _RENEWED, _HEARD, _RESUMED, _CLEAR, _MEMBERS = (_LINE * number for number in range(6))
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
    a batch to train, `scored` those for one to evaluate. Batches have up to `batch` images of shape `image`. `here` is
    the one partition that is on this machine, None if all are.
    """

    parts: int
    lanes: int
    batch: int
    image: tuple[int, ...]
    messages: tuple[Message, ...]
    scored: tuple[Message, ...]
    here: int | None = None

    @property
    def parts_here(self) -> int:
        """How many partitions are on this machine."""
        return self.parts if self.here is None else 1

    def lane_messages(self, lane: int) -> tuple[Message, ...]:
        """Return the messages of a lane; the last lane is that for evaluation."""
        return self.messages if lane < self.lanes else self.scored

    def lane_bytes(self, lane: int) -> int:
        """Return the bytes of a lane."""
        messages = self.lane_messages(lane)
        return 8 * _LINE * len(messages) + sum(_line_up(each.bytes(self.batch)) for each in self.homes(messages))

    def homes(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages by which this machine has arrays, for itself and perhaps an answer (`Message.home`)."""
        return list(dict.fromkeys(each.home for each in messages if self.has(each)))

    def has(self, message: Message) -> bool:
        """Return whether this machine sends or receives the message, and so has an array for it."""
        return self.here in (None, message.sender, message.receiver)

    @property
    def arrivals(self) -> RingShape:
        """The slots, one a lane, for batches that come by courier; none where batches are made."""
        return RingShape(0 if self.here in (None, 0) else self.lanes, self.batch, self.image)

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
        arrivals = self.arrivals
        return 8 * self.words + self.pictures_bytes + lanes + arrivals.slots * arrivals.slot_bytes


@dataclasses.dataclass(frozen=True)
class GroupHandle:
    """What a member needs to attach to the memory of its group, number `group` of those in the segment.

    `bell` is the descriptor of the courier's doorbell; None where there is no courier.
    """

    segment: SegmentHandle
    shape: GroupShape
    group: int
    bell: int | None = None


class LaneMail:
    """The messages of one lane for one member: a `compute.mail.Mail`. Its two sides have one array, or a courier."""

    def __init__(
        self, segment: Segment, offset: int, shape: GroupShape, messages: Sequence[Message], bell: Doorbell | None
    ) -> None:  # fmt: skip
        self.messages, self._bell, batch = messages, bell, shape.batch
        self._words = segment.array(np.int64, (max(1, _LINE * len(messages)),), offset)
        self._index = {message: _LINE * number for number, message in enumerate(messages)}
        offset += 8 * _LINE * len(messages)
        arrays = {}
        for home in shape.homes(messages):
            kind = np.float64 if home.is_sum else np.float32
            arrays[home] = segment.array(kind, home.shape(batch), offset)
            offset += _line_up(home.bytes(batch))
        self._arrays = {message: arrays[message.home] for message in messages if shape.has(message)}
        self._work = 0

    def begin(self, work: int) -> None:
        """Send and receive the messages of work number `work` from now on."""
        self._work = work + 1

    def array(self, message: Message) -> np.ndarray:
        """Return the message's array, which sender and receiver share."""
        return self._arrays[message]

    def send(self, message: Message) -> None:
        """Let the receiver read the message, or the courier take it there."""
        publish(self._words, self._index[message], self._work)
        if self._bell is not None:
            self._bell.ring()

    def arrived(self, message: Message) -> bool:
        """Return whether the message of the present work was sent."""
        return bool(observe(self._words, self._index[message]) >= self._work)

    # For the courier.

    def sent(self) -> np.ndarray:
        """Return one more than the number of the work for which each of `messages` was sent last, int64 [messages]."""
        seen = np.empty(len(self._words), np.int64)
        observe_all(self._words, seen)
        return seen[::_LINE][: len(self.messages)]

    def bring(self, message: Message, work: int) -> None:
        """Let this machine's member read a message of work number `work` that is in its array now."""
        publish(self._words, self._index[message], work + 1)


class Group:
    """A member's view of its group's memory; `part` is its number. The supervisor's view has part -1.

    `bell` is the courier's doorbell, None where there is no courier.
    """

    def __init__(
        self, segment: Segment, shape: GroupShape, group: int, part: int = -1, bell: Doorbell | None = None
    ) -> None:  # fmt: skip
        self.shape, self.part = shape, part
        self._segment, self.bell = segment, bell
        offset = group * _line_up(shape.bytes)
        words = shape.words
        self._words = segment.array(np.int64, (words,), offset)
        self._queue = self._words[words - _LINE * _QUEUE :].reshape(_QUEUE, _LINE)
        offset += 8 * words
        self.pictures = segment.array(np.float32, (shape.batch, *shape.image), offset)
        offset += shape.pictures_bytes
        self.mails = []
        for lane in range(shape.lanes + 1):
            self.mails.append(LaneMail(segment, offset, shape, shape.lane_messages(lane), bell))
            offset += shape.lane_bytes(lane)
        arrivals = shape.arrivals
        self.arrivals: list[Slot] = [
            slot_at(segment, offset + number * arrivals.slot_bytes, arrivals) for number in range(arrivals.slots)
        ]

    @classmethod
    def attach(cls, handle: GroupHandle, part: int) -> Group:
        """Map the memory that the supervisor made."""
        bell = None if handle.bell is None else Doorbell(handle.bell)
        return cls(Segment.attach(handle.segment), handle.shape, handle.group, part, bell)

    # Works.

    @property
    def announced(self) -> int:
        """How many works were announced since the start."""
        return int(observe(self._words, _ANNOUNCED))

    def announce(self, work: Work) -> int:
        """Announce a work; return its number. Leader only, and only if `has_room`."""
        number = self.announced
        self.put(number, work)
        self._ring()
        return number

    def put(self, number: int, work: Work) -> None:
        """Announce a work that has this number. Leader only, or the courier that brings it."""
        self._queue[number % _QUEUE, : len(work)] = work
        publish(self._words, _ANNOUNCED, number + 1)

    def work(self, number: int) -> Work:
        """Return a work that is announced and not ended by all."""
        return Work._make(self._queue[number % _QUEUE, : len(Work._fields)].tolist())

    def ended(self) -> int:
        """Return how many works all members have ended."""
        return min(self.ended_by(part) for part in range(self.shape.parts))

    def ended_by(self, part: int) -> int:
        """Return how many works a member has ended."""
        return int(observe(self._words, self._place(part)))

    def end(self, number: int) -> None:
        """Note that this member has ended all works up to, and including, `number`."""
        self.note_ended(self.part, number + 1)
        self._ring()

    def note_ended(self, part: int, works: int) -> None:
        """Note that a member has ended so many works. That member only, or the courier that brings it."""
        publish(self._words, self._place(part), works)

    # Generations.

    @property
    def generation(self) -> int:
        """The number of the generation: it grows when a member dies, or when what couriers bring may have been lost."""
        return max(int(observe(self._words, _RENEWED)), int(observe(self._words, _HEARD)))

    def renew(self) -> None:
        """Begin a new generation. Supervisor only."""
        publish(self._words, _RENEWED, self.generation + 1)
        self._ring()

    def hear_of(self, generation: int) -> None:
        """Begin a generation that another machine has begun, unless it has begun here. Courier only."""
        if generation > self.generation:
            publish(self._words, _HEARD, generation)

    def acknowledge(self, generation: int) -> None:
        """Note that this member has dropped all works of earlier generations."""
        self.note_acknowledged(self.part, generation + 1)
        self._ring()

    def acknowledged_by(self, part: int) -> int:
        """Return one more than the generation that a member acknowledged last."""
        return int(observe(self._words, self._place(part) + _LINE))

    def note_acknowledged(self, part: int, word: int) -> None:
        """Note what `acknowledged_by` returns. That member only, or the courier that brings it."""
        publish(self._words, self._place(part) + _LINE, word)

    def all_acknowledged(self, generation: int) -> bool:
        """Return whether all members have dropped all earlier works, and the courier has nothing of them any more."""
        if self.bell is not None and observe(self._words, _CLEAR) != generation + 1:
            return False
        return all(self.acknowledged_by(part) == generation + 1 for part in range(self.shape.parts))

    def note_clear(self, generation: int) -> None:
        """Note that no payload of an earlier generation is still being sent from this memory. Courier only."""
        publish(self._words, _CLEAR, generation + 1)

    def resume(self, generation: int) -> None:
        """Let the members go on with the works that are announced from now on. Leader only."""
        self.note_resumed(generation, self.announced)
        self._ring()

    def note_resumed(self, generation: int, number: int) -> None:
        """Note that the members go on with work `number`. Leader only, or the courier that brings it."""
        self._words[_RESUMED + 1] = number
        publish(self._words, _RESUMED, generation + 1)

    def resumed_at(self, generation: int) -> int | None:
        """Return the number of the work with which the members go on; None while they may not."""
        return int(self._words[_RESUMED + 1]) if observe(self._words, _RESUMED) == generation + 1 else None

    def _ring(self) -> None:
        if self.bell is not None:
            self.bell.ring()

    def _place(self, part: int) -> int:
        return _MEMBERS + 2 * _LINE * part


class GroupMemory:
    """The memory of all groups of a run on one machine, and the courier's doorbell. The supervisor owns it."""

    def __init__(self, segment: Segment, shape: GroupShape, groups: int, bell: Doorbell | None = None) -> None:
        self._segment, self.shape, self._bell = segment, shape, bell
        self.groups = [Group(segment, shape, number, bell=bell) for number in range(groups)]

    @staticmethod
    def bytes_needed(shape: GroupShape, groups: int) -> int:
        """Return the bytes of the memory."""
        return groups * _line_up(shape.bytes)

    @classmethod
    def create(cls, shape: GroupShape, groups: int, folder: Path | None = None) -> GroupMemory:
        """Make the memory; the calling process owns it. Raises SpaceError if there is no room."""
        segment = Segment.create("partitions", cls.bytes_needed(shape, groups), folder)
        return cls(segment, shape, groups, None if shape.here is None else Doorbell.create())

    @property
    def descriptors(self) -> list[int]:
        """The open files that every member inherits."""
        return [self._segment.handle.descriptor, *([] if self._bell is None else [self._bell.descriptor])]

    def handle(self, group: int) -> GroupHandle:
        """Return what a member of a group needs to attach."""
        bell = None if self._bell is None else self._bell.descriptor
        return GroupHandle(self._segment.handle, self.shape, group, bell)

    def close(self) -> None:
        """Give up this process's mapping, and the doorbell."""
        self.groups.clear()
        self._segment.close()
        if self._bell is not None:
            self._bell.close()


def _line_up(size: int) -> int:
    return -(-size // 64) * 64
