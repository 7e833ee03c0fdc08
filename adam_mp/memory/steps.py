"""The memory of synchronous steps: each worker's gradient, and how far each is in the step.

A step is known by the epoch and the turn in it. A worker moves through it by these marks, in this order, each stored
after what it stands for:

    arrived     its gradient, loss and number of images are there
    journaled   what its slice of the weights was before the step is kept in the journal
    applied     its slice has the step's update

So whoever takes a dead worker's place sees from the marks what is done, and an update that was cut in two is begun
again from the journal. The slices of all in a step together are the flat space.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adam_mp.kernels.atomic import compare_and_swap, observe, publish
from adam_mp.memory.segment import Segment, SegmentHandle

_ARRIVED, _JOURNALED, _APPLIED, _IMAGES, _LOSS, _BATCH = range(6)
_ROW = 16  # int64 words, two cache lines
_ALIGNMENT = 16  # numbers of a slice


@dataclasses.dataclass(frozen=True)
class StepShape:
    """The sizes: `workers`, `numbers` in the flat space, `spaces` that an update changes (weights and states)."""

    workers: int
    numbers: int
    spaces: int

    @property
    def bytes(self) -> int:
        """The bytes of the memory."""
        return 8 * _ROW * self.workers + 4 * self.numbers * (self.workers + self.spaces)


@dataclasses.dataclass(frozen=True)
class StepHandle:
    """What a child needs to attach."""

    segment: SegmentHandle
    shape: StepShape


@dataclasses.dataclass(frozen=True)
class Contribution:
    """What a worker brings to a step: the sum of losses over its images, and how many they are."""

    batch: int
    images: int
    loss: float


def step_key(epoch: int, turn: int) -> int:
    """Return the number by which the step of an epoch's turn is known; later steps have larger ones."""
    return epoch << 32 | turn + 1


def epoch_of(key: int) -> int:
    """Return the epoch of a step."""
    return key >> 32


def turn_of(key: int) -> int:
    """Return the turn of its epoch in which a step is made."""
    return (key & 0xFFFFFFFF) - 1


class StepMemory:
    """The memory of synchronous steps; `gradients` is [workers, numbers]. A worker's row has that worker for writer."""

    def __init__(self, segment: Segment, shape: StepShape) -> None:
        self._segment, self.shape = segment, shape
        self._rows = segment.array(np.int64, (shape.workers, _ROW), 0)
        self._reals = self._rows.view(np.float64)
        self._words = self._rows.reshape(-1)
        start = 8 * _ROW * shape.workers
        self.gradients = segment.array(np.float32, (shape.workers, shape.numbers), start)
        start += 4 * shape.numbers * shape.workers
        self._journal = segment.array(np.float32, (shape.spaces, shape.numbers), start)

    @classmethod
    def create(cls, shape: StepShape, folder: Path | None = None) -> StepMemory:
        """Make the memory; the calling process owns it. Raises SpaceError if there is no room."""
        return cls(Segment.create("steps", shape.bytes, folder), shape)

    @classmethod
    def attach(cls, handle: StepHandle) -> StepMemory:
        """Map the memory that the supervisor made."""
        return cls(Segment.attach(handle.segment), handle.shape)

    @property
    def handle(self) -> StepHandle:
        """What to send to a child, together with the descriptor."""
        return StepHandle(self._segment.handle, self.shape)

    def slice_of(self, worker: int, players: int) -> slice:
        """Return the part of the flat space that `worker` updates in a step of the first `players` workers."""
        chunks = -(-self.shape.numbers // _ALIGNMENT)
        first, last = (chunks * each // players * _ALIGNMENT for each in (worker, worker + 1))
        return slice(min(first, self.shape.numbers), min(last, self.shape.numbers))

    def reset(self) -> None:
        """Forget all steps, before an epoch is opened. Supervisor only, while workers are idle."""
        self._rows[:] = 0

    # The marks.

    def arrive(self, worker: int, key: int, contribution: Contribution) -> None:
        """Say that the worker's gradient of step `key` is there.

        An atomic swap, so that of the workers who arrive last, one at least sees that all have.
        """
        self._rows[worker, _BATCH], self._rows[worker, _IMAGES] = contribution.batch, contribution.images
        self._reals[worker, _LOSS] = contribution.loss
        index = worker * _ROW + _ARRIVED
        compare_and_swap(self._words, index, int(self._words[index]), key)

    def all_arrived(self, key: int, players: int) -> bool:
        """Tell whether the first `players` workers have arrived at step `key`."""
        return all(observe(self._words, worker * _ROW + _ARRIVED) == key for worker in range(players))

    def all_applied(self, key: int, players: int) -> bool:
        """Tell whether the first `players` workers have applied their slices of step `key`."""
        return all(observe(self._words, worker * _ROW + _APPLIED) >= key for worker in range(players))

    def pending(self, worker: int) -> int | None:
        """Return the step at which the worker has arrived and that it has not applied, if there is one."""
        arrived = int(observe(self._words, worker * _ROW + _ARRIVED))
        return arrived if arrived != int(observe(self._words, worker * _ROW + _APPLIED)) else None

    def last(self, worker: int) -> int:
        """Return the last step that the worker applied."""
        return int(observe(self._words, worker * _ROW + _APPLIED))

    def contribution(self, worker: int) -> Contribution:
        """Return what the worker brought to the step at which it arrived last."""
        row = self._rows[worker]
        return Contribution(int(row[_BATCH]), int(row[_IMAGES]), float(self._reals[worker, _LOSS]))

    def journal(self, worker: int, key: int, players: int, spaces: Mapping[str, np.ndarray]) -> None:
        """Keep the worker's slice of `spaces` as it is before step `key`, or put back what is kept already."""
        part = self.slice_of(worker, players)
        index = worker * _ROW + _JOURNALED
        kept = int(observe(self._words, index)) == key
        for journal, space in zip(self._journal, spaces.values(), strict=True):
            if kept:
                space[part] = journal[part]
            else:
                journal[part] = space[part]
        publish(self._words, index, key)

    def applied(self, worker: int, key: int) -> None:
        """Say that the worker's slice has the update of step `key`."""
        publish(self._words, worker * _ROW + _APPLIED, key)

    def close(self) -> None:
        """Give up this process's mapping."""
        del self._rows, self._reals, self._words, self.gradients, self._journal
        self._segment.close()
