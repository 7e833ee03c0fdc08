"""The learning rate of each update: the schedule's, reduced after a divergence and for a batch with a large loss."""

from __future__ import annotations

from adam_mp.compute.optimizer import UpdateNumbers
from adam_mp.memory.board import Board
from adam_mp.training.settings.schedule import Rates, Schedule, share_of_rate


class LearningRate:
    """Sets the learning rate in `numbers`, which a worker's update functions read."""

    def __init__(self, schedule: Schedule, classes: int, board: Board, numbers: UpdateNumbers) -> None:
        self._rates, self._classes, self._board, self._numbers = Rates(schedule), classes, board, numbers

    def set(self, epoch: int, step: int, loss: float) -> None:
        """Set the rate of update number `step` (from 0) of the run; `loss` is the mean loss of its images."""
        share = share_of_rate(loss, self._classes) * self._board.rate_share
        self._numbers.set_rate(self._rates.value(epoch, step) * share)
