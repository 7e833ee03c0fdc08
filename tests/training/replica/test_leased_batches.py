"""What a replica tells of its batches, without sockets: only what the servers have, and each until it is heard."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from adam_mp.memory.ledger import ELSEWHERE, FREE, HELD, LEASED, SKIPPED, TRAINED
from adam_mp.training.replica.leased_batches import LeasedBatches, none_here


def no_failures(batches):
    return {}


def begun(count, *trained, round_number=1, done=0, failed_in=no_failures):
    """Batches of an epoch, of which some are trained; rounds up to `done` are over."""
    batches = LeasedBatches()
    batches.begin(count)
    states = np.full(count, ELSEWHERE, np.uint8)
    states[list(trained)] = TRAINED
    batches.step(states, round_number, lambda number: number <= done, failed_in)
    return batches, states


class Told:
    """A replica of one batch, and what its coordinator hears of it."""

    def __init__(self):
        self.batches, self.states, self.done = LeasedBatches(), np.array([LEASED], np.uint8), 0
        self.batches.begin(1)
        self.pushed = self.heard = False
        self.on_its_way = None  # a report, or what it joins with, that nobody has answered

    def do(self, deed):
        if deed == "train":
            self.states[:] = TRAINED
        elif deed == "exchange":
            self.pushed |= self.batches.waits_for_exchange
            self.done += 1
        elif deed == "report" and self.on_its_way is None:
            self.on_its_way = self.batches.tell()
        elif deed == "rejoin":  # the coordinator was lost, with what it had heard
            self.heard, self.on_its_way = False, self.batches.rejoin(self.states, same_epoch=True).trained
            assert bool(self.on_its_way) == self.pushed
        elif deed == "hear" and self.on_its_way is not None:
            assert self.pushed or not self.on_its_way
            assert not (self.heard and self.on_its_way), "told twice"
            self.heard |= bool(self.on_its_way)
            self.on_its_way = None
            self.batches.heard()
        self.batches.step(self.states, self.done + 1, lambda number: number <= self.done, no_failures)


def test_a_batch_is_told_once_the_servers_have_it_and_until_it_is_heard_in_whatever_order():
    for order in itertools.product(("train", "exchange", "report", "hear", "rejoin"), repeat=6):
        replica = Told()
        for deed in (*order, "hear", "train", "exchange", "report", "hear"):
            replica.do(deed)
        assert replica.heard, order
        assert replica.batches.tell_last() == [], order


def test_what_is_trained_during_a_round_waits_for_the_next():
    batches, states = begun(4, 0, round_number=5, done=4)
    assert batches.waits_for_exchange
    assert batches.tell() == []
    states[1] = TRAINED  # round 5 has begun
    batches.step(states, 6, lambda number: number <= 5, no_failures)
    assert batches.tell() == [0]
    assert batches.tell_last() == [0]  # nobody answered that report
    batches.heard()
    batches.step(states, 7, lambda number: number <= 6, no_failures)
    assert batches.tell() == [1]
    assert not batches.waits_for_exchange


def test_a_replica_that_joins_again_tells_what_the_servers_have_and_keeps_the_rest():
    batches, states = begun(6, 0, 1, done=1)
    states[[2, 3, 4]] = TRAINED, HELD, FREE
    batches.step(states, 2, lambda number: number <= 1, no_failures)
    again = batches.rejoin(states, same_epoch=True)
    assert (again.trained, sorted(again.leased)) == ([0, 1], [2, 3, 4])
    assert batches.tell() == []  # what was ready is told by joining
    assert batches.rejoin(states, same_epoch=False) == type(again)([], [])


def test_it_asks_for_as_many_as_are_trained_in_four_reports_less_what_is_here():
    batches, states = begun(1000)
    assert batches.want(states, 2) == 8
    assert batches.has_to_tell
    states[:100] = TRAINED
    batches.step(states, 1, lambda number: False, no_failures)
    assert batches.want(states, 2) == 400
    states[100:350] = FREE
    states[350:360] = HELD
    assert batches.want(states, 2) == 280 - 260  # by seven tenths of the pace
    states[360:500] = FREE
    assert batches.want(states, 2) == 0
    assert not batches.has_to_tell
    batches.begin(1000)
    assert batches.has_to_tell


def test_images_that_could_not_be_had_are_told_with_their_batch_and_known_of_all_when_asked():
    batches, _ = begun(4, 1, 2, done=1, failed_in=lambda found: {batch: 10 * batch for batch in found.tolist()})
    assert batches.failed_of([0, 2]) == {2: 20}
    batches.note_failed_elsewhere({2: 20, 3: 5})
    assert batches.failed == {1: 10, 2: 20, 3: 5}
    batches.begin(4)
    assert batches.failed == {}


@pytest.mark.parametrize("state", [FREE, HELD, LEASED, TRAINED, SKIPPED, ELSEWHERE])
def test_what_is_here(state):
    assert none_here(np.array([TRAINED, state], np.uint8)) == (state in (TRAINED, SKIPPED, ELSEWHERE))
