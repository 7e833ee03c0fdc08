from __future__ import annotations

import time
import types

import numpy as np
import pytest

from adam_mp.data.reading.faults import Fault
from adam_mp.errors import ProcessError
from adam_mp.memory.board import ELSEWHERE, HERE, STOP
from adam_mp.memory.ledger import HELD, LEASED
from adam_mp.memory.ring import NO_PRODUCER, RingShape, Tag
from adam_mp.memory.run_memory import RunMemory, RunShape
from adam_mp.training.crew import crew as crews
from adam_mp.training.crew.crew import Crew


class FakeChild:
    """A process that lives until the test says otherwise."""

    def __init__(self, name):
        self.fault = ""
        self.name, self.exit_code, self.pid, self.started, self.closed = name, None, 1, time.monotonic(), False
        self.wanted_memory = False

    def describe_end(self):
        return f"ended with exit code {self.exit_code}"

    def last_words(self):
        return "Traceback"

    def last_lines(self):
        return "\n    Traceback"

    def own_fault(self):
        return self.fault

    def wait(self, deadline):
        return True

    def close(self):
        self.closed = True


@pytest.fixture
def make_crew(monkeypatch):
    """A crew of fake children on real shared memory, with a round of six batches open."""
    owned, started = [], []

    def start_child(name, *_):
        started.append(FakeChild(name))
        return started[-1]

    monkeypatch.setattr(crews, "start_child", start_child)

    def make(workers, servers, restarts=1, cache=None):
        memory = RunMemory.create(
            RunShape(workers, servers, 6, 2, 6, RingShape(4, 1, (1, 1, 1)), {"bad": ("|u1", (9,))})
        )
        owned.append(memory)
        memory.ledger.open(0, np.zeros(6, np.uint8))
        specs = [types.SimpleNamespace(process=number) for number in range(workers + servers)]
        notices = []
        crew = Crew(
            memory, [], specs[:workers], specs[workers:], restarts, lambda *notice: notices.append(notice), cache=cache
        )
        crew.start()
        return crew, memory, started, notices

    yield make
    for each in owned:
        each.close()


def publish(memory, ring, batch, server):
    slot = ring.reserve()
    slot.write_tag(Tag(0, batch, 1, server))
    ring.publish()


def test_what_a_dead_worker_leased_is_free_again_and_its_counters_stay(make_crew):
    crew, memory, started, notices = make_crew(2, 1)
    batch = memory.ledger.claim(0, 2)
    assert memory.ledger.lease(0, batch, 2, 1)
    memory.evaluation.open(5, np.zeros(2, np.uint8))
    memory.evaluation.claim_lease(5, 1)
    memory.board.counters[1].add("images", 40)
    memory.board.counters[1].publish("acknowledged", 7)
    started[1].exit_code = 3
    crew.step()
    assert memory.ledger.statistics().free == 6
    assert memory.evaluation.statistics().free == 2
    assert crew.totals()["images"] == 40
    assert crew.rows()[1].acknowledged == 0
    assert started[1].closed
    assert started[3].name == "worker 1"
    assert notices == [("worker 1 ended with exit code 3; started again", "Traceback")]


class FakeCache:
    def __init__(self, *left):
        self.left = list(left)

    def shrink(self):
        return self.left.pop(0) if self.left else None


def test_a_cache_for_which_processes_die_is_made_smaller_before_they_start_again(make_crew):
    cache = FakeCache(4_000_000, 0)
    crew, _, started, notices = make_crew(1, 2, restarts=0, cache=cache)

    def die(wanted):
        started[-1].exit_code, started[-1].wanted_memory = -9, wanted
        crew.step()
        return notices[-1][0].partition(" code -9; ")[2]

    assert die(True) == "the cache is made smaller, to 4.0 MB; started again"
    assert die(None) == "the cache is made smaller, to 0.0 MB; started again"  # and no death of these counts
    assert die(True) == "given up after 1 early death"  # the cache has nothing left to give
    started[0].exit_code = -9
    with pytest.raises(ProcessError, match=r"\(first failure\); give the run more memory, fewer cores or a smaller"):
        crew.step()


def test_other_deaths_leave_the_cache_as_it_is(make_crew):
    cache = FakeCache(4_000_000)
    crew, _, started, notices = make_crew(1, 1, cache=cache)
    started[-1].exit_code = -9
    crew.step()
    assert cache.left == [4_000_000]
    assert notices[-1][0].endswith("; started again")


@pytest.mark.parametrize(
    ("ready", "missing"), [([], "worker and no data server"), ([0, 1], "data server"), ([2], "worker")]
)
def test_who_did_not_get_ready_is_named(make_crew, monkeypatch, ready, missing):
    crew, memory, _, _ = make_crew(2, 1)
    monkeypatch.setattr(crews, "_START_DEADLINE", 0.0)
    for number in ready:
        memory.board.counters[number].publish("ready", 1)
    with pytest.raises(ProcessError, match=f"no {missing} was ready 0 s after its start"):
        crew.wait_ready(crew.step)
    for number in range(3):
        memory.board.counters[number].publish("ready", 1)
    crew.wait_ready(crew.step)


def test_what_needs_care_is_tended_while_processes_start(make_crew):
    crew, memory, _, _ = make_crew(1, 1)
    tended = []

    def tend():
        memory.board.counters[len(tended)].publish("ready", 1)
        tended.append(None)

    crew.wait_ready(tend)
    assert len(tended) == 2


def test_what_a_dead_data_server_held_is_free_again(make_crew):
    crew, memory, started, _ = make_crew(1, 2)
    mine, other = memory.ledger.claim(0, 1), memory.ledger.claim(0, 2)
    started[1].exit_code = -9
    crew.step()
    states = memory.ledger.states()
    assert states[mine] == 0
    assert states[other] == HELD


def test_a_ring_without_its_consumer_is_emptied(make_crew):
    crew, memory, started, notices = make_crew(2, 1, restarts=0)
    lost = memory.rings[1]
    for _ in range(2):
        publish(memory, lost, memory.ledger.claim(0, 2), 2)
    started[1].exit_code = 1
    crew.step()
    assert "given up" in notices[0][0]
    assert lost.producer == NO_PRODUCER
    assert lost.statistics().waiting == 0
    assert memory.ledger.statistics().free == 6
    publish(memory, lost, memory.ledger.claim(0, 2), 2)  # it was writing when the supervisor closed the ring
    crew.step()
    assert memory.ledger.statistics().free == 6
    assert crew.obeying() == [0]


def test_a_ring_without_its_producer_is_given_to_another(make_crew):
    crew, memory, started, _ = make_crew(2, 2, restarts=0)
    assert [ring.producer for ring in memory.rings] == [2, 3]
    started[3].exit_code = 1
    crew.step()
    assert [ring.producer for ring in memory.rings] == [2, 2]
    started[2].exit_code = 1
    with pytest.raises(ProcessError, match=r"data server 1 ended with exit code 1 \(first failure\)"):
        crew.step()


def test_a_sample_that_kills_two_processes_is_left_out(make_crew):
    crew, memory, started, _ = make_crew(1, 1, restarts=1)
    for deaths in (1, 2):
        memory.board.counters[1].publish("decoding", 5)
        next(child for child in started if child.exit_code is None and child.name == "data server 0").exit_code = -11
        crew.step()
        assert memory.arrays["bad"][4] == (Fault.CRASHED if deaths == 2 else 0)
    assert memory.board.counters[1].read().decoding == 0
    assert crew.totals()["bad"] == 1
    for _ in range(2):  # who was not decoding, or was killed from outside, blames nobody
        child = next(child for child in started if child.exit_code is None and child.name == "data server 0")
        child.started -= 3600
        memory.board.counters[1].publish("decoding", 7)
        child.exit_code = -9
        crew.step()
    assert np.flatnonzero(memory.arrays["bad"]).tolist() == [4]


def test_who_makes_the_pictures_is_said_once_for_all_data_servers(make_crew, monkeypatch):
    crew, memory, started, notices = make_crew(1, 2)
    monkeypatch.setattr(FakeChild, "last_words", lambda child: f"earlier\n{child.name} says\n")
    first, second = memory.board.counters[1:]

    def publish(row, made_by):
        row.publish("made_by", made_by)
        crew.step()
        return [text for text, _ in notices]

    assert publish(first, ELSEWHERE) == publish(second, ELSEWHERE) == []
    assert publish(second, HERE) == publish(first, HERE) == ["data server 1 says"]
    assert len(publish(second, ELSEWHERE)) == 1  # the other still makes its own
    started[1].exit_code = 1
    crew.step()
    assert "data server 0 ended with exit code 1" in notices[1][0]
    assert notices[2][0] == "data server 1 says"
    notices.clear()
    assert publish(first, ELSEWHERE) == []
    assert publish(first, HERE) == ["data server 0 says"]


def test_late_deaths_do_not_add_up(make_crew):
    crew, _, started, _ = make_crew(1, 1, restarts=1)

    def worker():
        return next(child for child in started if child.exit_code is None and child.name == "worker 0")

    for _ in range(4):
        worker().started -= 3600
        worker().exit_code = 1
        crew.step()
    assert crew.obeying() == [0]
    worker().exit_code = 1
    with pytest.raises(ProcessError, match="cannot go on"):
        crew.step()


@pytest.mark.parametrize(("ready", "deaths"), [(0, 2), (1, 6)])
def test_who_dies_twice_of_the_same_before_it_was_ready_is_given_up(make_crew, ready, deaths):
    crew, memory, started, notices = make_crew(2, 1, restarts=5)
    for number in range(1, deaths + 1):
        child = next(child for child in started if child.exit_code is None and child.name == "worker 0")
        memory.board.counters[0].publish("ready", ready)
        child.exit_code, child.fault = 1, "AttributeError: module 'json' has no attribute 'loads'"
        crew.step()
        assert ("given up" in notices[-1][0]) == (number == deaths)
    assert notices[-1][0].endswith("; its last lines:" if deaths == 2 else "6 early deaths")
    assert notices[-1][2] == ("    Traceback" if deaths == 2 else "")


def test_stopping_tells_all(make_crew):
    crew, memory, started, _ = make_crew(2, 1)
    crew.stop()
    assert memory.board.order()[1] == STOP
    assert all(child.closed for child in started)
    assert LEASED not in memory.ledger.states()
