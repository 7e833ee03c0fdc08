from __future__ import annotations

import dataclasses

from adam_mp.memory.board import IDLE, STOP, TRAIN, Board
from adam_mp.memory.segment import Segment


def test_orders_are_numbered():
    segment = Segment.create("test", Board.bytes_needed(2))
    board = Board(segment, 0, 2)
    assert board.order() == (0, IDLE)
    assert board.give_order(TRAIN) == 1
    assert board.give_order(STOP) == 2
    assert Board(segment, 0, 2).order() == (2, STOP)


def test_counters_are_each_processes_own():
    segment = Segment.create("test", Board.bytes_needed(3))
    first, second, _ = Board(segment, 0, 3).counters
    names = [field.name for field in dataclasses.fields(first.read()) if field.name != "loss"]
    for number, name in enumerate(names, 1):
        first.add(name, number)
    first.add_loss(0.25, 16)
    first.add_loss(0.5, 16)
    seen = first.read()
    assert [getattr(seen, name) for name in names] == list(range(1, len(names) + 1))
    assert seen.loss == 0.75
    assert not any(vars(second.read()).values())
    second.publish("ready", 1)
    first.clear()
    assert not any(vars(first.read()).values())
    assert second.read().ready == 1


def test_a_huge_loss_hides_no_later_one():
    """A run that went back from a loss of 1e34 was taken for a success: the sum lost all later losses to rounding."""
    counters = Board(Segment.create("test", Board.bytes_needed(1)), 0, 1).counters[0]
    counters.add_loss(1e34, 16)
    before = counters.read().loss
    counters.add_loss(80.0, 16)
    assert counters.read().loss - before == 80.0
    assert before / 16 >= 100  # far above what any network's guard allows
