"""Asynchronous training (paper, section 3.2.2): a worker updates the shared weights at once and waits for nobody."""

from __future__ import annotations

import time
from collections.abc import Sequence

from adam_mp.compute.clipping import Clip
from adam_mp.compute.optimizer import Update, UpdateNumbers
from adam_mp.memory.ring import Tag
from adam_mp.memory.run_memory import RunMemory
from adam_mp.memory.staleness import column
from adam_mp.memory.store import ParameterStore
from adam_mp.memory.wanted import WaitingBatch, find_oldest
from adam_mp.params.replica.factors import Outbox
from adam_mp.training.worker.averaging import MovingAverage
from adam_mp.training.worker.learning_rate import LearningRate
from adam_mp.training.worker.step import Gradient, Outcome


class AsyncStep:
    """One worker's batches and updates, whatever the other workers do.

    `updates` are functions that apply the gradient in the worker's training context to `store`, with the learning rate
    and the other numbers that `numbers` has at that moment. `outbox` takes the activations and errors of the dense
    layers whose updates go to parameter servers in that form, None if there are none. `clip` is what clips the gradient
    among `updates`, None if it is not clipped; `average` is the moving average of the weights, None without one.
    """

    def __init__(
        self, worker: int, memory: RunMemory, store: ParameterStore, updates: Sequence[Update],
        numbers: UpdateNumbers, rate: LearningRate, outbox: Outbox | None = None, clip: Clip | None = None,
        average: MovingAverage | None = None,
    ) -> None:  # fmt: skip
        self._worker, self._store = worker, store
        self._board, self._rings, self._ledger = memory.board, memory.rings_of(worker), memory.ledger
        self._counters, self._staleness = memory.board.counters[worker], memory.staleness[worker]
        self._updates, self._numbers, self._rate, self._outbox = updates, numbers, rate, outbox
        self._clip, self._average = clip, average

    def settle(self) -> bool:
        """Return False: `update` leaves nothing to finish."""
        return False

    def take(self) -> WaitingBatch | Outcome:
        if self._board.held_up:
            return Outcome.WAITING_FOR_EXCHANGE
        return find_oldest(self._rings) or Outcome.NOTHING_THERE

    def skip(self, tag: Tag) -> None:
        self._ledger.finish(tag.epoch, tag.batch, self._worker)

    def prepare(self, tag: Tag, loss: float) -> None:
        """Set the learning rate now: with plain descent, dense layers update their weights in the backward pass."""
        self._rate.set(tag.epoch, self._store.read_step(), loss / tag.images)

    def update(self, gradient: Gradient) -> None:
        """Update the weights while others read and update them too, and report the batch as trained."""
        start = time.perf_counter_ns()
        tag = gradient.tag
        earlier_updates = self._store.count_update()
        self._numbers.set_step(earlier_updates + 1)
        for update in self._updates:
            update()
        if self._outbox is not None:  # after the update: the store must have what the synchronizer sends
            share = 1.0 if self._clip is None else self._clip.share
            self._outbox.put(gradient.factors, self._numbers.rate, self._numbers.weight_decay, share)
        if self._average is not None:
            self._average.after_update(earlier_updates + 1)
        self._counters.add("update_ns", time.perf_counter_ns() - start)
        if self._ledger.finish(tag.epoch, tag.batch, self._worker):
            self._counters.add("images", tag.images)
            self._counters.add_loss(gradient.loss, tag.images)
        staleness = earlier_updates - gradient.read_at
        self._counters.add("updates", 1)
        self._counters.add("staleness", staleness)
        self._staleness[column(staleness)] += 1
