"""Synchronous training: one update for a batch of every worker, as one process with all their images would make it.

In each turn every worker computes the gradient of its own batch on the same weights. When all have arrived, each
adds up its slice of all gradients, in the order of the workers, and applies it; when all slices are applied, the next
turn begins. Nothing depends on who is quicker, so a run is repeated bit for bit by its seed and number of workers.

A worker that waits for others has its gradient in shared memory and touches nothing, so it may be ordered to be idle.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

import numpy as np

from adam_mp.compute.optimizer import Optimizer, Update, UpdateNumbers
from adam_mp.kernels.update import combine
from adam_mp.memory.board import STOP
from adam_mp.memory.ledger import LEASED, TRAINED, Ledger
from adam_mp.memory.ring import Tag
from adam_mp.memory.run_memory import RunMemory
from adam_mp.memory.steps import Contribution, StepMemory, epoch_of, step_key, turn_of
from adam_mp.memory.store import ParameterStore
from adam_mp.memory.waiting import AMONG_WORKERS, Backoff
from adam_mp.memory.wanted import WaitingBatch, find_wanted
from adam_mp.training.worker.learning_rate import LearningRate
from adam_mp.training.worker.step import Gradient, Outcome


@dataclasses.dataclass(frozen=True)
class _Slice:
    """A part of the flat space from `start` on: the mean gradient there, and the function that applies it."""

    start: int
    gradient: np.ndarray
    update: Update


class SynchronousStep:
    """One worker's part in the steps; its context leaves each gradient in its row of `steps.gradients`.

    `optimizer` changes the store by the live `numbers`, among which `rate` sets the learning rate.
    """

    def __init__(
        self, worker: int, memory: RunMemory, steps: StepMemory, store: ParameterStore, optimizer: Optimizer,
        numbers: UpdateNumbers, rate: LearningRate,
    ) -> None:  # fmt: skip
        self._worker, self._steps, self._store = worker, steps, store
        self._board, self._ledger, self._turns = memory.board, memory.ledger, memory.turns
        self._rings = memory.rings_of(worker)
        self._counters, self._staleness = memory.board.counters[worker], memory.staleness[worker]
        self._optimizer, self._numbers, self._rate = optimizer, numbers, rate
        self._spaces: Mapping[str, np.ndarray] = {"weights": store.weights, **store.states}
        self._slices: dict[int, _Slice] = {}  # by the number of players
        self._shares = np.zeros(steps.shape.workers)
        self._waiting = Backoff(AMONG_WORKERS)

    # What the worker's loop calls.

    def settle(self) -> bool:
        """See the pending step through, this worker's or that of the dead one before it, if all have arrived."""
        key = self._steps.pending(self._worker)
        if key is None:
            return False
        began = time.perf_counter_ns()
        own = self._complete(key)
        if own is None:
            return False
        self._counters.add("update_ns", time.perf_counter_ns() - began)
        self._counters.add("images", own.images)
        self._counters.add_loss(own.loss, own.images)
        if self._worker == 0:  # it has a part in every step
            self._counters.add("updates", 1)
            self._staleness[0] += 1
        return True

    def take(self) -> WaitingBatch | Outcome:
        """Return the batch whose turn it is, unless others are still to arrive at this worker's last one."""
        if self._steps.pending(self._worker) is not None:
            return Outcome.WAITING_FOR_OTHERS
        epoch = self._ledger.round
        wanted = None if epoch < 0 else self._next_batch(epoch)
        found = None if wanted is None else find_wanted(self._rings, self._ledger, epoch, wanted)
        return found or Outcome.NOTHING_THERE

    def skip(self, tag: Tag) -> None:
        """Arrive at the step all the same: the others wait for all."""
        self._arrive(tag, 0.0)

    def prepare(self, tag: Tag, loss: float) -> None:
        """Nothing: the rate follows from the losses of all, once they have arrived."""

    def update(self, gradient: Gradient) -> None:
        """Arrive with the gradient at the step; `settle` applies it."""
        self._arrive(gradient.tag, gradient.loss)

    # The steps.

    def _next_batch(self, epoch: int) -> int | None:
        """Return the batch that is this worker's next in the epoch, None if it has had all."""
        hand, turn = self._turns.hand(self._worker), self._next_turn(epoch)
        return int(hand[turn]) if turn < hand.size else None

    def _next_turn(self, epoch: int) -> int:
        """Return the turn that comes next: the one after the last applied one."""
        last = self._steps.last(self._worker)
        return last - step_key(epoch, 0) + 1 if last >= step_key(epoch, 0) else 0

    def _arrive(self, tag: Tag, loss: float) -> None:
        """Bring the gradient of the next batch to its step."""
        key = step_key(tag.epoch, self._next_turn(tag.epoch))
        self._steps.arrive(self._worker, key, Contribution(tag.batch, tag.images, loss))

    def _complete(self, key: int) -> Contribution | None:
        """Apply the pending step `key` if all have arrived, and wait until all have applied it; None if some have not.

        Returns what this worker brought to it. It does not return between the first slice that may have been applied
        and the last, unless the run is stopped.
        """
        steps, worker = self._steps, self._worker
        epoch, turn = epoch_of(key), turn_of(key)
        players = self._turns.players(turn)
        if players == 0 or not steps.all_arrived(key, players):
            return None  # nobody plays in a step that the supervisor has just taken back
        own = steps.contribution(worker)
        self._ledger.finish(epoch, own.batch, worker)
        step = self._turns.step(turn)
        part = self._slice(players)
        self._add_up(epoch, step, players, part)
        steps.journal(worker, key, players, self._spaces)
        self._numbers.set_step(step + 1)
        part.update()
        if worker == 0:  # it has a part in every step; counted before its mark, or its death between would lose it
            self._store.set_updates(step + 1)
        steps.applied(worker, key)
        self._waiting.reset()
        while not steps.all_applied(key, players):
            if self._board.order().kind == STOP:
                return own
            self._waiting.pause()
        return own

    def _slice(self, players: int) -> _Slice:
        """Return this worker's slice in a step of so many; in an epoch's last step some may have no part."""
        if players not in self._slices:
            part = self._steps.slice_of(self._worker, players)
            gradient = np.zeros(part.stop - part.start, np.float32)
            states = {name: state[part] for name, state in self._store.states.items()}
            update = self._optimizer.bind(self._store.weights[part], gradient, states, self._numbers.array)
            self._slices[players] = _Slice(part.start, gradient, update)
        return self._slices[players]

    def _add_up(self, epoch: int, step: int, players: int, part: _Slice) -> None:
        """Leave the mean gradient over all images in this worker's slice, and set the rate by their mean loss."""
        brought = [self._steps.contribution(worker) for worker in range(players)]
        images = sum(each.images for each in brought)
        self._shares[:] = 0.0
        for worker, each in enumerate(brought):
            self._shares[worker] = each.images / max(images, 1)
        combine(self._steps.gradients, self._shares, part.start, part.gradient)
        self._rate.set(epoch, step, sum(each.loss for each in brought) / max(images, 1))


def left_to_a_successor(steps: StepMemory, ledger: Ledger, worker: int) -> bool:
    """Tell whether a dead worker's batch is in a step that its successor will finish: then it is not to be freed."""
    key = steps.pending(worker)
    if key is None or epoch_of(key) != ledger.round:
        return False
    return int(ledger.states()[steps.contribution(worker).batch]) in (LEASED, TRAINED)
