"""The guard against divergence: it sees that a run has gone wrong, and says how often it may begin again.

A run has diverged when a worker met a loss that is NaN or infinite, when a weight is, or when the mean loss of a
hundred batches or more is above twice that of guessing, 2 ln(classes). It then goes back to the last good checkpoint
with half the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from adam_mp.errors import DivergenceError, several
from adam_mp.memory.board import Progress

RATE = 0.5  # what is left of the learning rate after going back
_BOUND = 2.0  # times the loss of guessing
_WINDOW = 100  # batches


class DivergedError(Exception):
    """The run has diverged; the message says how. To be caught by the supervisor."""


class DivergenceGuard:
    """Watches the loss of a network of `classes`, in batches of `batch_size`; allows `limit` ways back."""

    def __init__(self, classes: int, batch_size: int, limit: int) -> None:
        self.bound = _BOUND * math.log(classes)
        self._least, self._limit = _WINDOW * batch_size, limit
        self._faults: dict[int, int] = {}  # worker -> faults that are dealt with
        self._begin = (0.0, 0.0)  # images and sum of losses at the window's begin
        self.times = 0

    def look(self, workers: Sequence[Progress], images: float, loss: float) -> None:
        """Raise DivergedError if a worker met a bad loss since the last look, or if the window's loss is too high.

        `images` and `loss` are all workers' sums since the start.
        """
        for number, progress in enumerate(workers):
            if progress.faults != self._faults.get(number, 0):
                self._faults[number] = progress.faults
                if progress.faults:
                    raise DivergedError(
                        f"the loss became NaN or infinite in epoch {progress.fault_epoch}, update {progress.fault_step}"
                    )
        seen = images - self._begin[0]
        if seen >= self._least:
            mean = (loss - self._begin[1]) / seen
            self._begin = (images, loss)
            if mean > self.bound:
                raise DivergedError(f"the mean loss of {seen:,.0f} images is {mean:.3g}, more than {self.bound:.3g}")

    def go_back(self, reason: str, kept: Callable[[], str]) -> None:
        """Count one more way back; raises DivergenceError, which says what is `kept`, when there were too many."""
        if self.times >= self._limit:
            again = f" though the learning rate was halved {several(self.times, 'time')}" if self.times else ""
            raise DivergenceError(f"{reason}{again}; use a lower --lr. {kept()}")
        self.times += 1

    def begin_again(self, workers: Sequence[Progress], images: float, loss: float) -> None:
        """Forget what was seen up to now: the weights are good again."""
        self._faults = {number: progress.faults for number, progress in enumerate(workers)}
        self._begin = (images, loss)
