from __future__ import annotations

import pytest

from adam_mp.memory.exchange import UNSEEN, ExchangeMemory
from adam_mp.memory.layout import Layout

LAYOUT = Layout.of({"w": (300, 400), "b": (7,)}).for_servers(3)


@pytest.fixture
def memory():
    made = ExchangeMemory.create(LAYOUT)
    yield made
    made.close()


def test_it_is_empty_at_first_and_shared(memory):
    assert memory.base.size == memory.sent.size == LAYOUT.size
    assert (memory.states == UNSEEN).all()
    assert memory.states.size == memory.sequences.size == memory.versions.size == len(LAYOUT.shards)
    assert memory.silences.size == 3
    other = ExchangeMemory.attach(memory.handle)
    for number, array in enumerate((memory.base, memory.sent, memory.states, memory.sequences, memory.versions)):
        array[:] = number + 1
    memory.silences[:] = 9
    there = (other.base, other.sent, other.states, other.sequences, other.versions)
    assert [set(array.tolist()) for array in there] == [{1}, {2}, {3}, {4}, {5}]
    assert other.silences.tolist() == [9, 9, 9]


def test_who_wants_a_round_gets_one_that_begins_from_now_on(memory):
    assert memory.want_round() == 1
    assert not memory.is_done(1)
    memory.add("round_begun")  # it began before the next wish
    assert memory.want_round() == 2
    memory.note("round_done", 1)
    assert memory.is_done(1)
    assert not memory.is_done(2)
    memory.note("wanted", 5)
    assert memory.want_round() == 2
    assert memory.read("wanted") == 5  # a later wish stays


def test_counters_are_told(memory):
    assert memory.add("pushed_bytes", 40) == 40
    assert memory.add("pushed_bytes", 2) == 42
    memory.note("map", 3)
    statistics = memory.statistics()
    assert (statistics.pushed_bytes, statistics.pulls) == (42, 0)
    assert memory.read("map") == 3
