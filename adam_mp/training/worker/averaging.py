"""The moving average of the weights (`--average ema:D`), which workers move in shared memory beside the weights.

It does not move at every update: a move reads all weights, and reads and writes all of the average. With async and
ssp:K, the worker whose update the store counts as the next at which the average moves does it alone; no other waits for
it. In steps of all workers, each worker moves its slice.
"""

from __future__ import annotations

from adam_mp.kernels.average import move_average
from adam_mp.memory.store import ParameterStore
from adam_mp.training.settings.averages import AVERAGE, Average


class MovingAverage:
    """Moves the average in `store` towards the weights, as `average` says; one worker's view.

    If a worker dies as it moves the average, some of its numbers have moved and some have not. The next move covers its
    own updates alone, so these numbers are a move behind: each lies between what it was and the weight all the same.
    """

    def __init__(self, average: Average, store: ParameterStore) -> None:
        self._average, self._store = average, store
        self.space = store.states[AVERAGE]

    def after_update(self, update: int, step: int | None = None) -> None:
        """Move the average if it moves at this machine's `update`-th update, which this worker has just made.

        It moves by as many updates as the whole run, other replicas included, has made since the last move. `step` is
        how many that run has made, None for what the store counts.
        """
        if self._average.moves_at(update):
            step = self._store.read_step() if step is None else step
            before = self._store.note_average(step)
            move_average(self.space, self._store.weights, 1.0 - self._average.kept(before, step))

    def moves_at(self, update: int) -> bool:
        """Tell whether the average moves at the `update`-th update of the run."""
        return self._average.moves_at(update)

    def move_slice(self, update: int, part: slice) -> None:
        """Move a slice of the average, as the `update`-th step of all workers asks for."""
        share = 1.0 - self._average.kept(self._average.last_move(update), update)
        move_average(self.space[part], self._store.weights[part], share)
