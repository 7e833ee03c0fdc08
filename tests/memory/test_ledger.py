from __future__ import annotations

import threading
import time

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from adam_mp.memory.ledger import FREE, HELD, LEASED, SKIPPED, TRAINED, Ledger
from adam_mp.memory.segment import Segment

BATCHES = 6
SERVERS, WORKERS = st.sampled_from([2, 3]), st.sampled_from([0, 1])
ROUNDS, BATCH = st.integers(0, 1), st.integers(0, BATCHES - 1)


class LedgerMachine(RuleBasedStateMachine):
    """Data servers, workers and the supervisor in any order, some in a round that is over, against a dictionary."""

    def __init__(self):
        super().__init__()
        self.segment = Segment.create("test", Ledger.bytes_needed(BATCHES))
        self.ledger = Ledger(self.segment, 0, BATCHES)
        self.round = 0
        self.open()

    def open(self):
        self.ledger.open(self.round, np.zeros(BATCHES, np.uint8))
        self.model = dict.fromkeys(range(BATCHES), (FREE, 0))

    @rule(age=ROUNDS, server=SERVERS)
    def claim(self, age, server):
        batch = self.ledger.claim(self.round - age, server)
        free = [number for number, (state, _) in self.model.items() if state == FREE]
        assert (batch is None) == (age > 0 or not free)
        if batch is not None:
            assert self.model[batch][0] == FREE
            self.model[batch] = (HELD, server)

    @precondition(lambda self: any(state == HELD for state, _ in self.model.values()))
    @rule(data=st.data(), worker=WORKERS)
    def lease_what_is_held(self, data, worker):
        held = [(batch, holder) for batch, (state, holder) in self.model.items() if state == HELD]
        self.lease(0, *data.draw(st.sampled_from(held)), worker)

    @rule(age=ROUNDS, batch=BATCH, server=SERVERS, worker=WORKERS)
    def lease(self, age, batch, server, worker):
        leased = self.ledger.lease(self.round - age, batch, server, worker)
        assert leased == (age == 0 and self.model[batch] == (HELD, server))
        if leased:
            self.model[batch] = (LEASED, worker)

    @rule(age=ROUNDS, batch=BATCH, worker=WORKERS)
    def finish(self, age, batch, worker):
        finished = self.ledger.finish(self.round - age, batch, worker)
        assert finished == (age == 0 and self.model[batch] == (LEASED, worker))
        if finished:
            self.model[batch] = (TRAINED, 0)

    @rule(worker=WORKERS)
    def claim_lease(self, worker):
        batch = self.ledger.claim_lease(self.round, worker)
        free = [number for number, (state, _) in self.model.items() if state == FREE]
        assert batch == (free[0] if free else None)
        if batch is not None:
            self.model[batch] = (LEASED, worker)

    @rule(state=st.sampled_from([HELD, LEASED]), holder=st.integers(0, 3))
    def take_back(self, state, holder):
        lost = [number for number, entry in self.model.items() if entry == (state, holder)]
        assert self.ledger.take_back(state, holder) == len(lost)
        self.model.update(dict.fromkeys(lost, (FREE, 0)))

    @rule(age=ROUNDS, batch=BATCH, server=SERVERS)
    def give_back(self, age, batch, server):
        given = self.ledger.give_back(self.round - age, batch, server)
        assert given == (age == 0 and self.model[batch] == (HELD, server))
        if given:
            self.model[batch] = (FREE, 0)

    @rule()
    def close_round(self):
        skipped = [number for number, (state, _) in self.model.items() if state in (FREE, HELD)]
        assert self.ledger.close_round() == len(skipped)
        self.model.update(dict.fromkeys(skipped, (SKIPPED, 0)))

    @rule()
    def next_round(self):
        self.round += 1
        self.open()

    @invariant()
    def all_are_counted(self):
        states = [state for state, _ in self.model.values()]
        assert self.ledger.states().tolist() == states
        statistics = self.ledger.statistics()
        assert sum(vars(statistics).values()) == BATCHES
        assert statistics.trained == states.count(TRAINED)
        assert self.ledger.round == self.round

    def teardown(self):
        del self.ledger
        self.segment.close()


TestLedger = LedgerMachine.TestCase


def test_an_interrupted_epoch_is_taken_up():
    segment = Segment.create("test", Ledger.bytes_needed(4))
    ledger = Ledger(segment, 0, 4)
    ledger.open(3, np.array([TRAINED, FREE, SKIPPED, FREE], np.uint8))
    assert [ledger.claim(3, 5) for _ in range(3)] == [1, 3, None]


def train(ledger, round_number, batches, finished):
    """Train all that data server 2 holds; note what counted."""
    for batch in range(batches):
        if ledger.lease(round_number, batch, 2, 0) and ledger.finish(round_number, batch, 0):
            finished.append(batch)


def test_what_is_trained_while_a_round_closes_stays_trained():
    batches = 4000
    segment = Segment.create("test", Ledger.bytes_needed(batches))
    ledger = Ledger(segment, 0, batches)
    for round_number in range(40):
        ledger.open(round_number, np.zeros(batches, np.uint8))
        for _ in range(batches):
            ledger.claim(round_number, 2)
        finished = []
        thread = threading.Thread(target=train, args=(ledger, round_number, batches, finished))
        thread.start()
        while not finished:
            time.sleep(0)
        ledger.close_round()
        thread.join()
        assert np.flatnonzero(ledger.states() == TRAINED).tolist() == finished
    del ledger, thread
    segment.close()
