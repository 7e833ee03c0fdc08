from __future__ import annotations

import numpy as np
import pytest

from adam_mp.compute.optimizer import UpdateNumbers, make_optimizer
from adam_mp.memory.board import Board
from adam_mp.memory.segment import Segment
from adam_mp.training.settings.schedule import Schedule
from adam_mp.training.worker.learning_rate import LearningRate


def test_it_is_the_schedules_less_after_a_divergence_and_for_a_surprise():
    segment = Segment.create("test", Board.bytes_needed(1))
    board = Board(segment, 0, 1)
    numbers = UpdateNumbers(make_optimizer("sgd", {"weight_decay": 0.5}))
    rate = LearningRate(Schedule("0.1 * (1 - progress)", 2, 10), 10, board, numbers)
    rate.set(0, 0, 1.0)
    assert numbers.rate == pytest.approx(0.1)
    rate.set(1, 15, 1.0)
    assert numbers.rate == pytest.approx(0.025)
    board.rate_share = 0.5  # the run went back to an earlier state
    rate.set(0, 0, 1.0)
    assert numbers.rate == pytest.approx(0.05)
    rate.set(0, 0, 2.5 * np.log(10))
    assert numbers.rate == pytest.approx(0.025)
    assert numbers.weight_decay == 0.5
    del board
    segment.close()
