"""The memory of synchronous steps: each worker's gradient, and how far each worker is in the step.

A step's key names the epoch and the turn in it. In a step each worker updates one slice of the flat space, and the
slices of all workers together are the whole of it. A worker goes through a step by these marks, in this order; it
stores each mark after the data that the mark announces:

    arrived     its gradient, loss and number of images are in the memory
    summed      with clipping: its part of the gradient's norm is in the memory
    journaled   the journal has its slice of the weights as it was before the step
    applied     its slice has the step's update

So the successor of a dead worker sees from the marks what is done. If the worker died while it updated its slice, the
successor restores the slice from the journal and updates it again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adam_mp.kernels.atomic import compare_and_swap, observe, publish
from adam_mp.memory.segment import Segment, SegmentHandle

_ARRIVED, _JOURNALED, _APPLIED, _IMAGES, _LOSS, _BATCH, _SUMMED, _SQUARE = range(8)
_ROW = 16  # int64 words, two cache lines
_ALIGNMENT = 16  # float32 values: slices begin at multiples of this, a cache line


@dataclasses.dataclass(frozen=True)
class StepShape:
    """The sizes of a step memory.

    `numbers` are the float32 values of the flat space, `spaces` the flat spaces that an update changes: the weights,
    the optimizer's states, and the moving average of the weights if there is one.
    """

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
    """What a worker brings to a step besides its gradient: the batch, its number of images, the sum of their losses."""

    batch: int
    images: int
    loss: float


def step_key(epoch: int, turn: int) -> int:
    """Return the key of the step in turn `turn` of `epoch`; later steps have larger keys."""
    return epoch << 32 | turn + 1


def epoch_of(key: int) -> int:
    """Return the epoch of the step with this key."""
    return key >> 32


def turn_of(key: int) -> int:
    """Return the turn of the step with this key."""
    return (key & 0xFFFFFFFF) - 1


class StepMemory:
    """The memory of synchronous steps; `gradients` is float32 [workers, numbers].

    A worker alone writes its own gradient, marks and part of the journal; all workers read them.
    """

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
        """What to send to a child, which must also inherit the segment's descriptor."""
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
        """Mark the worker as arrived at step `key`; its gradient must be complete.

        The mark is an atomic swap, so that of several workers that arrive last at the same time, at least one sees that
        all have arrived.
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
        """Return the key of the step at which the worker has arrived, if it has not applied that step; else None."""
        arrived = int(observe(self._words, worker * _ROW + _ARRIVED))
        return arrived if arrived != int(observe(self._words, worker * _ROW + _APPLIED)) else None

    def last(self, worker: int) -> int:
        """Return the key of the last step that the worker applied, 0 for none."""
        return int(observe(self._words, worker * _ROW + _APPLIED))

    def contribution(self, worker: int) -> Contribution:
        """Return what the worker brought to the last step at which it arrived."""
        row = self._rows[worker]
        return Contribution(int(row[_BATCH]), int(row[_IMAGES]), float(self._reals[worker, _LOSS]))

    def tell_square(self, worker: int, key: int, square: float) -> None:
        """Leave the sum of the squares of the worker's slice of the mean gradient in step `key`.

        A successor of a worker that died in the step leaves the same number again.
        """
        self._reals[worker, _SQUARE] = square
        publish(self._words, worker * _ROW + _SUMMED, key)

    def square(self, key: int, players: int) -> float | None:
        """Return the sum of the squares of the whole mean gradient in step `key`; None until all players told theirs.

        The slices are added in the order of the workers, so that all get the same number.
        """
        if any(observe(self._words, worker * _ROW + _SUMMED) != key for worker in range(players)):
            return None
        return float(sum(self._reals[:players, _SQUARE].tolist()))

    def journal(self, worker: int, key: int, players: int, spaces: Mapping[str, np.ndarray]) -> None:
        """Make the worker's slice of `spaces` ready for the update of step `key`.

        `spaces` are those that the step changes, or the first of them, always in the same order. The first call keeps
        the slice in the journal. A later call for the same step, by the successor of a worker that
        died while it updated, restores the slice from the journal.
        """
        part = self.slice_of(worker, players)
        index = worker * _ROW + _JOURNALED
        kept = int(observe(self._words, index)) == key
        for journal, space in zip(self._journal, spaces.values(), strict=False):
            if kept:
                space[part] = journal[part]
            else:
                journal[part] = space[part]
        publish(self._words, index, key)

    def applied(self, worker: int, key: int) -> None:
        """Mark step `key` as applied by the worker: its slice has the update."""
        publish(self._words, worker * _ROW + _APPLIED, key)

    def close(self) -> None:
        """Give up this process's mapping."""
        del self._rows, self._reals, self._words, self.gradients, self._journal
        self._segment.close()
