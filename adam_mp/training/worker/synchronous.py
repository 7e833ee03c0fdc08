"""Synchronous training: all workers make one update together, from a batch of each.

It is the update that one process would make from the images of all these batches. In each turn of an epoch:

1. Every worker computes the gradient of its own batch on the same weights, leaves it in shared memory, and *arrives*.
2. When all have arrived, each worker adds up its slice of all gradients, in the order of the workers, and applies it.
   If gradients are clipped, each first tells the sum of its slice's squares, and waits until all have told theirs.
3. When all have applied their slices, the next turn begins.

The *players* of a turn are the workers that have a batch in it: all of them, but in an epoch's last turn perhaps only
the first few. Nothing depends on which worker is quicker, so the same seed and number of workers give the same bits.

A worker that has arrived and waits for others touches nothing, so it may acknowledge IDLE.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping

import numpy as np

from adam_mp.compute.clipping import Clip
from adam_mp.compute.optimizer import Optimizer, Update, UpdateNumbers
from adam_mp.compute.shares import cut_stretches
from adam_mp.kernels.update import combine
from adam_mp.memory.board import STOP
from adam_mp.memory.ledger import LEASED, TRAINED, Ledger
from adam_mp.memory.ring import Tag
from adam_mp.memory.run_memory import RunMemory
from adam_mp.memory.steps import Contribution, StepMemory, epoch_of, step_key, turn_of
from adam_mp.memory.store import ParameterStore
from adam_mp.memory.waiting import AMONG_WORKERS, Backoff
from adam_mp.memory.wanted import WaitingBatch, find_wanted
from adam_mp.training.worker.averaging import MovingAverage
from adam_mp.training.worker.learning_rate import LearningRate
from adam_mp.training.worker.step import Gradient, Outcome


@dataclasses.dataclass(frozen=True)
class _Slice:
    """A worker's part of the flat space, from `start` on: the mean gradient there, and the function that applies it.

    `clip` clips the gradient, None if it is not to be clipped.
    """

    start: int
    gradient: np.ndarray
    update: Update
    clip: Clip | None


class SynchronousStep:
    """One worker's part in the steps; its training context leaves each gradient in its row of `steps.gradients`.

    `optimizer` updates the store with the numbers that `numbers` has at that moment, and the shares that `stretches`
    has of them (`compute.shares`); `rate` sets the learning rate in `numbers`. `clip_norm` is the largest norm of an
    update's gradient, 0.0 for any; `average` is the moving average of the weights, None without one.
    """

    def __init__(
        self, worker: int, memory: RunMemory, steps: StepMemory, store: ParameterStore, optimizer: Optimizer,
        numbers: UpdateNumbers, rate: LearningRate, stretches: np.ndarray, clip_norm: float = 0.0,
        average: MovingAverage | None = None,
    ) -> None:  # fmt: skip
        self._worker, self._steps, self._store = worker, steps, store
        self._board, self._ledger, self._turns = memory.board, memory.ledger, memory.turns
        self._rings = memory.rings_of(worker)
        self._counters, self._staleness = memory.board.counters[worker], memory.staleness[worker]
        self._optimizer, self._numbers, self._rate = optimizer, numbers, rate
        self._stretches, self._clip_norm, self._average = stretches, clip_norm, average
        states = {name: store.states[name] for name in optimizer.states}
        self._spaces: Mapping[str, np.ndarray] = {"weights": store.weights, **states}
        self._slices: dict[int, _Slice] = {}  # number of players -> this worker's slice
        self._shares = np.zeros(steps.shape.workers)
        self._waiting = Backoff(AMONG_WORKERS)

    # What the worker's loop calls.

    def settle(self) -> bool:
        """Complete the step at which this worker, or its dead predecessor, has arrived, if all others have too."""
        key = self._steps.pending(self._worker)
        if key is None:
            return False
        start = time.perf_counter_ns()
        if not self._complete(key):
            return False
        self._counters.add("update_ns", time.perf_counter_ns() - start)
        return True

    def take(self) -> WaitingBatch | Outcome:
        """Return the batch of this worker's next turn, unless the step of its last turn is not completed yet."""
        if self._steps.pending(self._worker) is not None:
            return Outcome.WAITING_FOR_OTHERS
        epoch = self._ledger.round
        wanted = None if epoch < 0 else self._next_batch(epoch)
        found = None if wanted is None else find_wanted(self._rings, self._ledger, epoch, wanted)
        return found or Outcome.NOTHING_THERE

    def skip(self, tag: Tag) -> None:
        """Arrive at the step with no images: the other workers wait until all have arrived."""
        self._arrive(tag, 0.0)

    def prepare(self, tag: Tag, loss: float) -> None:
        """Do nothing: the learning rate follows from the losses of all workers, so `settle` sets it."""

    def update(self, gradient: Gradient) -> None:
        """Arrive at the step with the gradient; `settle` applies it."""
        self._arrive(gradient.tag, gradient.loss)

    # The steps.

    def _next_batch(self, epoch: int) -> int | None:
        """Return this worker's next batch in the epoch, None if it has trained all of its batches."""
        hand, turn = self._turns.hand(self._worker), self._next_turn(epoch)
        return int(hand[turn]) if turn < hand.size else None

    def _next_turn(self, epoch: int) -> int:
        """Return the turn after the last one in which this worker, or a dead predecessor, has applied its slice."""
        last = self._steps.last(self._worker)
        return last - step_key(epoch, 0) + 1 if last >= step_key(epoch, 0) else 0

    def _arrive(self, tag: Tag, loss: float) -> None:
        """Tell the other workers that this worker's gradient for the step is in shared memory."""
        key = step_key(tag.epoch, self._next_turn(tag.epoch))
        self._steps.arrive(self._worker, key, Contribution(tag.batch, tag.images, loss))

    def _complete(self, key: int) -> bool:
        """Apply this worker's slice of step `key` and wait until all workers have applied theirs.

        Returns False, with nothing done, if some workers have not arrived yet. Once all have arrived, the others may
        change weights, so this worker must not acknowledge IDLE before all have applied their slices. Only STOP ends
        that wait, and the one before it for the norm of a gradient that is to be clipped; then too nothing is done.
        """
        steps, worker = self._steps, self._worker
        epoch, turn = epoch_of(key), turn_of(key)
        players = self._turns.players(turn)  # 0 if the supervisor has just dealt other batches, and the step is gone
        if players == 0 or not steps.all_arrived(key, players):
            return False
        own = steps.contribution(worker)
        self._ledger.finish(epoch, own.batch, worker)
        step = self._turns.step(turn)
        part = self._slice(players)
        self._add_up(epoch, step, players, part)
        if part.clip is not None and not self._clip(key, players, part.clip):
            return False
        average = self._average if self._average is not None and self._average.moves_at(step + 1) else None
        spaces = self._spaces if average is None else {**self._spaces, "average": average.space}
        steps.journal(worker, key, players, spaces)
        self._numbers.set_step(step + 1)
        part.update()
        if average is not None:
            average.move_slice(step + 1, steps.slice_of(worker, players))
        if worker == 0:  # before its mark: a successor counts again, but only where the mark is missing
            self._store.set_updates(step + 1)
        steps.applied(worker, key)
        self._count(own)  # before the wait, in which this worker may die
        self._wait(lambda: steps.all_applied(key, players))
        return True

    def _clip(self, key: int, players: int, clip: Clip) -> bool:
        """Clip this worker's slice by the norm of the whole mean gradient; return False if STOP came before."""
        self._steps.tell_square(self._worker, key, clip.square())
        if not self._wait(lambda: self._steps.square(key, players) is not None):
            return False
        square = self._steps.square(key, players)
        assert square is not None, "no player tells another square before all have applied this step"
        clip.finish(square)
        return True

    def _wait(self, done: Callable[[], bool]) -> bool:
        """Wait until the other workers are so far that `done` returns True; return False if STOP came before."""
        self._waiting.reset()
        while not done():
            if self._board.order().kind == STOP:
                return False
            self._waiting.pause()
        return True

    def _count(self, own: Contribution) -> None:
        self._counters.add("images", own.images)
        self._counters.add_loss(own.loss, own.images)
        if self._worker == 0:  # worker 0 plays in every turn, so it counts the updates of all
            self._counters.add("updates", 1)
            self._staleness[0] += 1

    def _slice(self, players: int) -> _Slice:
        """Return this worker's slice of the flat space in a step of so many players."""
        if players not in self._slices:
            part = self._steps.slice_of(self._worker, players)
            gradient = np.zeros(part.stop - part.start, np.float32)
            states = {name: state[part] for name, state in self._store.states.items()}
            stretches = cut_stretches(self._stretches, part)
            update = self._optimizer.bind(self._store.weights[part], gradient, states, self._numbers.array, stretches)
            clip = Clip(self._clip_norm, gradient, stretches) if self._clip_norm else None
            self._slices[players] = _Slice(part.start, gradient, update, clip)
        return self._slices[players]

    def _add_up(self, epoch: int, step: int, players: int, part: _Slice) -> None:
        """Write the mean gradient over all players' images to this worker's slice; set the rate by their mean loss."""
        contributions = [self._steps.contribution(worker) for worker in range(players)]
        images = sum(each.images for each in contributions)
        self._shares[:] = 0.0
        for worker, each in enumerate(contributions):
            self._shares[worker] = each.images / max(images, 1)
        combine(self._steps.gradients, self._shares, part.start, part.gradient)
        self._rate.set(epoch, step, sum(each.loss for each in contributions) / max(images, 1))


def left_to_a_successor(steps: StepMemory, ledger: Ledger, worker: int) -> bool:
    """Tell whether a dead worker's batch is in a step that its successor will finish, so that it must not be freed."""
    key = steps.pending(worker)
    if key is None or epoch_of(key) != ledger.round:
        return False
    return int(ledger.states()[steps.contribution(worker).batch]) in (LEASED, TRAINED)
