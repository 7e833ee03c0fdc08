"""Whoever was stopped judges nobody by the time in which it did not listen."""

from __future__ import annotations

import types

import pytest

from adam_mp.errors import StalledError, TransportError
from adam_mp.params.run import membership
from adam_mp.params.run.listening import Listening
from adam_mp.params.run.membership import CoordinatorLink
from adam_mp.params.run.news import News
from adam_mp.training.crew import watchdog
from adam_mp.training.crew.watchdog import Watchdog
from adam_mp.training.replica import shared_leases as leasing
from adam_mp.transport.messages import Kind
from tests.params.run.test_membership import HERE, WELCOME, Line, joined


class Clock:
    """A module's `time`, whose sleeps pass at once."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    for module in (membership, leasing, watchdog):
        monkeypatch.setattr(module, "time", made)
    return made


def test_time_between_two_looks_counts_as_far_as_a_look_explains_it():
    listening = Listening()
    assert [listening.step(now) for now in (50.0, 50.5, 51.0, 111.0, 111.0, 110.0)] == [0.0, 0.5, 1.0, 2.0, 2.0, 2.0]
    assert listening.step(200.0, behind=True) == pytest.approx(2.1)


def test_a_member_that_was_stopped_does_not_take_the_coordinator_for_silent(clock):
    link = joined(lambda message: [(Kind.WELCOME, WELCOME)] if message.kind == Kind.JOIN else [])
    for expected in (1.0, 2.0, 2.5):
        clock.now += 3600.0 if expected < 2.5 else 0.5
        assert link.report(dict, dict, 0.0) is None
        assert link.silence == pytest.approx(expected)


def test_a_member_that_is_stopped_while_it_asks_listens_afterwards(clock):
    said = []

    class Slow(Line):
        def receive(self, seconds):
            clock.now += seconds or 0.01
            said.append(clock.now)
            if len(said) == 1:
                clock.now += 3600.0  # it is stopped
            return super().receive(seconds) if len(said) > 20 else None

    link = CoordinatorLink(Slow(lambda message: [(Kind.WELCOME, WELCOME)]), HERE, 9)
    assert link.join({}, 30.0) == News(run=5)
    silent = CoordinatorLink(Slow(lambda message: []), HERE, 9)
    with pytest.raises(TransportError, match="does not answer for 30 s"):
        silent.join({}, 30.0)


def test_a_run_that_was_stopped_has_not_stalled(clock):
    crew = types.SimpleNamespace(totals=lambda: {"heartbeat": 5.0}, children=dict, first_failure="")
    dog = Watchdog(60.0, crew, dict, types.SimpleNamespace(asked=False), lambda *_: None)
    dog.step(moved=True)
    for _ in range(20):
        clock.now += 3600.0
        dog.step(moved=False)
    for _ in range(80):
        clock.now += 0.5
        dog.step(moved=False)
    clock.now += 0.5
    with pytest.raises(StalledError, match="nothing moved for 60 s"):
        dog.step(moved=False)
