"""Synchronous training: one update for a batch of every worker, as one process with all their images would make it.

In each turn every worker computes the gradient of its own batch on the same weights. When all have arrived, each
adds up its slice of all gradients, in the order of the workers, and applies it; when all slices are applied, the next
turn begins. Nothing depends on who is quicker, so a run is repeated bit for bit by its seed and number of workers.

A worker that waits for others has its gradient in shared memory and touches nothing, so it may be ordered to be idle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from adam_mp.compute.optimizer import Optimizer, Update
from adam_mp.kernels.update import HYPER, combine
from adam_mp.memory.ledger import LEASED, TRAINED, Ledger
from adam_mp.memory.steps import Contribution, StepMemory, step_key
from adam_mp.memory.store import ParameterStore
from adam_mp.memory.turns import Turns
from adam_mp.memory.waiting import AMONG_WORKERS, Backoff

_STEP = HYPER.index("step")


@dataclasses.dataclass(frozen=True)
class _Slice:
    """A part of the flat space from `start` on: the mean gradient there, and the function that applies it."""

    start: int
    gradient: np.ndarray
    update: Update


class SynchronousStep:
    """One worker's part in the steps.

    `gradient` [numbers] is where its backward pass leaves the gradient, the mean over its images; `set_rate` is called
    with (epoch, updates so far, mean loss) before an update; `stopped` tells that the run ends.
    """

    def __init__(
        self, worker: int, steps: StepMemory, turns: Turns, ledger: Ledger, store: ParameterStore,
        optimizer: Optimizer, hyper: np.ndarray, set_rate: Callable[[int, int, float], None],
        stopped: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._worker, self._steps, self._turns, self._ledger, self._store = worker, steps, turns, ledger, store
        self._hyper, self._set_rate, self._stopped = hyper, set_rate, stopped
        self.gradient = steps.gradients[worker]
        self._optimizer = optimizer
        self._spaces: Mapping[str, np.ndarray] = {"weights": store.weights, **store.states}
        self._slices: dict[int, _Slice] = {}  # by the number of players
        self._shares = np.zeros(steps.shape.workers)
        self._waiting = Backoff(AMONG_WORKERS)

    @property
    def pending(self) -> bool:
        """Whether this worker, or the dead one before it, has arrived at a step that is not applied yet."""
        return self._steps.pending(self._worker) is not None

    def next(self, epoch: int) -> int | None:
        """Return the batch that is this worker's next in the epoch, None if it has had all."""
        hand, turn = self._turns.hand(self._worker), self._turn(epoch)
        return int(hand[turn]) if turn < hand.size else None

    def _turn(self, epoch: int) -> int:
        """Return the turn that comes next: the one after the last applied one."""
        last = self._steps.last(self._worker)
        return last - step_key(epoch, 0) + 1 if last >= step_key(epoch, 0) else 0

    def arrive(self, epoch: int, contribution: Contribution) -> None:
        """Bring the gradient of the next batch to its step."""
        self._steps.arrive(self._worker, step_key(epoch, self._turn(epoch)), contribution)

    def complete(self) -> Contribution | None:
        """Apply the pending step if all have arrived, and wait until it is applied by all; None if some have not.

        Returns what this worker brought to it. It does not return between the first slice that may have been applied
        and the last, unless the run is stopped.
        """
        steps, worker = self._steps, self._worker
        key = steps.pending(worker)
        if key is None:
            return None
        epoch, turn = key >> 32, (key & 0xFFFFFFFF) - 1
        players = self._turns.players(turn)
        if players == 0 or not steps.all_arrived(key, players):
            return None  # nobody plays in a step that the supervisor has just taken back
        own = steps.contribution(worker)
        self._ledger.finish(epoch, own.batch, worker)
        step = self._turns.step(turn)
        part = self._slice(players)
        self._add_up(epoch, step, players, part)
        steps.journal(worker, key, players, self._spaces)
        self._hyper[_STEP] = step + 1
        part.update()
        if worker == 0:  # it has a part in every step; counted before its mark, or its death between would lose it
            self._store.set_updates(step + 1)
        steps.applied(worker, key)
        self._waiting.reset()
        while not steps.all_applied(key, players):
            if self._stopped():
                return own
            self._waiting.pause()
        return own

    def _slice(self, players: int) -> _Slice:
        """Return this worker's slice in a step of so many; in an epoch's last step some may have no part."""
        if players not in self._slices:
            part = self._steps.slice_of(self._worker, players)
            gradient = np.zeros(part.stop - part.start, np.float32)
            states = {name: state[part] for name, state in self._store.states.items()}
            update = self._optimizer.bind(self._store.weights[part], gradient, states, self._hyper)
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
        self._set_rate(epoch, step, sum(each.loss for each in brought) / max(images, 1))


def left_to_a_successor(steps: StepMemory, ledger: Ledger, worker: int) -> bool:
    """Tell whether a dead worker's batch is in a step that its successor will finish: then it is not to be freed."""
    key = steps.pending(worker)
    if key is None or key >> 32 != ledger.round:
        return False
    return int(ledger.states()[steps.contribution(worker).batch]) in (LEASED, TRAINED)
