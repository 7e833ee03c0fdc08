"""The guard against divergence: it finds that a run has diverged, and limits how often the run may go back.

A run has diverged when a worker met a loss that is NaN or infinite, when a weight is NaN or infinite (the driver checks
that), or when the mean loss of a hundred batches or more is above twice that of guessing, 2 ln(classes). The run then
goes back to its last good state, with half the learning rate.
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
    """The run has diverged; the message says how. The driver of the run's machine catches it."""


class DivergenceGuard:
    """Watches the loss of a network with so many `classes`; allows the run to go back `limit` times.

    `times` is how often the run has gone back so far.
    """

    def __init__(self, classes: int, batch_size: int, limit: int) -> None:
        self.bound = _BOUND * math.log(classes)
        self._least, self._limit = _WINDOW * batch_size, limit
        self._faults: dict[int, int] = {}  # worker -> its count of bad losses, as of the last look
        self._begin = (0.0, 0.0)  # images and sum of losses when the window began
        self.times = 0

    def check(self, workers: Sequence[Progress], images: float, loss: float) -> None:
        """Raise DivergedError if a worker met a bad loss since the last look, or the window's mean loss is too high.

        `workers` are the workers' counters, `images` and `loss` the sums of all workers since the start.
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
        """Allow the run to go back once more, or raise DivergenceError; its message has what `kept` says."""
        if self.times >= self._limit:
            again = f" though the learning rate was halved {several(self.times, 'time')}" if self.times else ""
            raise DivergenceError(f"{reason}{again}; use a lower --lr. {kept()}")
        self.times += 1

    def begin_again(self, workers: Sequence[Progress], images: float, loss: float) -> None:
        """Begin a new window: what workers counted up to now belongs to weights that were given up."""
        self._faults = {number: progress.faults for number, progress in enumerate(workers)}
        self._begin = (images, loss)
