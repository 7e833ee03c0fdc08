"""The learning rate of each update: the schedule's, less in a run that diverged, less for a batch that surprises."""

from __future__ import annotations

from adam_mp.compute.optimizer import UpdateNumbers
from adam_mp.memory.board import Board
from adam_mp.training.settings.schedule import Rates, Schedule, share_of_rate


class LearningRate:
    """Sets the rate among the live `numbers` of a worker's updates."""

    def __init__(self, schedule: Schedule, classes: int, board: Board, numbers: UpdateNumbers) -> None:
        self._rates, self._classes, self._board, self._numbers = Rates(schedule), classes, board, numbers

    def set(self, epoch: int, step: int, loss: float) -> None:
        """Set it for update number `step` (from 0) of the run, made for images of mean `loss`."""
        share = share_of_rate(loss, self._classes) * self._board.rate_share
        self._numbers.set_rate(self._rates.value(epoch, step) * share)
