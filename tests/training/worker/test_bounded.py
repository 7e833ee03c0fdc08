"""Bounded staleness under every order of events: workers as a model, a clock each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adam_mp.errors import SettingsError
from adam_mp.memory.board import Board
from adam_mp.memory.segment import Segment
from adam_mp.training.settings.consistency import Consistency, parse_consistency
from adam_mp.training.worker.bounded import BoundedClock
from adam_mp.training.worker.step import Outcome


@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_nobody_is_more_than_the_bound_ahead_of_the_slowest_and_somebody_may_always_go_on(workers, bound, seed):
    random = np.random.default_rng(seed)
    segment = Segment.create("test", Board.bytes_needed(workers))
    rows = Board(segment, 0, workers).counters
    clocks = [BoundedClock(worker, rows, bound) for worker in range(workers)]
    busy = [False] * workers
    for _ in range(300):
        worker = int(random.integers(workers))
        if busy[worker]:
            assert 0 <= clocks[worker].advance() <= bound
            busy[worker] = False
        elif random.random() < 0.1:
            clocks[worker].leave()
        elif random.random() < 0.03:  # it dies, and another comes in its place
            rows[worker].clear()
            clocks[worker] = BoundedClock(worker, rows, bound)
        else:
            busy[worker] = clocks[worker].may_begin()
        in_play = [row.read().clock for row in rows if row.read().clock]
        if in_play:
            assert max(in_play) - min(in_play) <= bound
    if not any(busy):
        assert any(clock.may_begin() for clock in clocks)
    del rows, clocks
    segment.close()


class DelayedRow:
    """A worker's row as a processor with a store buffer shows it: a publication stays unseen by others for a while."""

    def __init__(self):
        self.seen = self.newest = 0

    def publish(self, _name, value):
        self.newest = value

    def exchange(self, _name, value):
        self.seen = self.newest = value

    def observe(self, _name):
        return self.seen


@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_the_bound_holds_though_stores_become_visible_late(workers, bound, seed):
    random = np.random.default_rng(seed)
    rows = [DelayedRow() for _ in range(workers)]
    clocks = [BoundedClock(worker, rows, bound) for worker in range(workers)]
    busy = [False] * workers
    for _ in range(300):
        worker = int(random.integers(workers))
        if random.random() < 0.3:
            rows[worker].seen = rows[worker].newest
        if busy[worker]:
            clocks[worker].advance()
            busy[worker] = False
        elif random.random() < 0.1:
            clocks[worker].leave()
        else:
            busy[worker] = clocks[worker].may_begin()
        in_play = [row.newest for row in rows if row.newest]
        if in_play:
            assert max(in_play) - min(in_play) <= bound


def test_the_slowest_holds_up_the_others_until_it_leaves():
    segment = Segment.create("test", Board.bytes_needed(2))
    rows = Board(segment, 0, 2).counters
    quick, slow = (BoundedClock(worker, rows, 2) for worker in range(2))
    assert slow.may_begin()
    for lead in (1, 2):
        assert quick.may_begin()
        assert quick.advance() == lead
    assert not quick.may_begin()
    slow.leave()
    assert quick.may_begin()
    del rows, quick, slow
    segment.close()


def test_a_worker_that_is_too_far_ahead_waits_and_one_without_data_holds_up_nobody(make_world):
    world = make_world(2, bound=1)
    while world.server.fill_rings():
        pass
    quick, slow = world.workers
    assert not isinstance(slow.step.take(), Outcome)  # it is in play, and has its first batch in hand
    assert quick.train_batch() is Outcome.DONE
    assert quick.train_batch() is Outcome.WAITING_FOR_OTHERS
    assert world.progress(0).lead == 1
    assert slow.train_batch() is Outcome.DONE
    assert quick.train_batch() is Outcome.DONE
    ring = world.memory.rings[1]
    while ring.peek() is not None:
        ring.consume()
    assert slow.train_batch() is Outcome.NOTHING_THERE
    assert world.progress(1).clock == 0
    assert quick.train_batch() is Outcome.DONE
    assert world.progress(0).updates == 3


def test_the_dial():
    assert parse_consistency("async") == Consistency("async")
    assert parse_consistency("ssp:12") == Consistency("ssp", 12)
    assert parse_consistency("sync").in_steps
    assert not parse_consistency("sync").timeless
    assert parse_consistency("deterministic").timeless


@pytest.mark.parametrize("text", ["ssp", "ssp:", "ssp:0", "ssp:-1", "ssp:1.5", "SYNC", "", 3, None, "ssp:9999999999"])
def test_what_is_no_mode(text):
    with pytest.raises(SettingsError, match="expected async, ssp:K"):
        parse_consistency(text)
