"""The guard against divergence, without processes."""

from __future__ import annotations

import dataclasses
import math

import pytest

from adam_mp.errors import DivergenceError
from adam_mp.memory.board import Board, Progress
from adam_mp.memory.segment import Segment
from adam_mp.training.epoch.guard import DivergedError, DivergenceGuard

FRESH = Progress(**{field.name: 0 for field in dataclasses.fields(Progress)})
FAULTY = dataclasses.replace(FRESH, faults=1, fault_epoch=3, fault_step=77)


def test_a_fault_is_seen_once_and_that_of_a_successor_again():
    guard = DivergenceGuard(10, 16, 3)
    guard.check([FRESH, FRESH], 0, 0)
    with pytest.raises(DivergedError, match="NaN or infinite in epoch 3, update 77"):
        guard.check([FRESH, FAULTY], 0, 0)
    guard.check([FRESH, FAULTY], 0, 0)
    guard.check([FRESH, FRESH], 0, 0)  # it died, and its successor has met none
    with pytest.raises(DivergedError):
        guard.check([FRESH, FAULTY], 0, 0)
    guard.begin_again([FAULTY, FAULTY], 0, 0)
    guard.check([FAULTY, FAULTY], 0, 0)


def test_the_mean_loss_of_a_window_is_bounded():
    guard = DivergenceGuard(10, 16, 3)
    bound = 2 * math.log(10)
    guard.check([], 1000, 1000 * 9.0)  # too few to tell
    guard.check([], 1600, 1600 * bound)
    guard.check([], 3200, 3200 * bound)
    with pytest.raises(DivergedError, match=r"mean loss of 1,600 images is 4\.7"):
        guard.check([], 4800, 3200 * bound + 1600 * 4.7)
    guard.begin_again([], 9600, 1e6)
    guard.check([], 11_200, 1e6 + 1600 * 2.0)


def test_it_gives_up_after_so_many_times():
    guard = DivergenceGuard(10, 16, 2)
    guard.go_back("it diverged", lambda: "kept")
    guard.go_back("it diverged", lambda: "kept")
    with pytest.raises(DivergenceError, match=r"though the learning rate was halved 2 times; use a lower --lr\. kept"):
        guard.go_back("it diverged", lambda: "kept")
    with pytest.raises(DivergenceError, match="it diverged; use"):
        DivergenceGuard(10, 16, 0).go_back("it diverged", lambda: "kept")


def test_the_share_of_the_rate_is_on_the_board():
    segment = Segment.create("test", Board.bytes_needed(1))
    board, other = Board(segment, 0, 1), Board(segment, 0, 1)
    assert other.rate_share == 1
    board.rate_share = 0.25
    board.give_order(2)
    assert other.rate_share == 0.25
    assert other.order() == (1, 2)
    del board, other
    segment.close()
