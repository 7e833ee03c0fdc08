from __future__ import annotations

import threading

import numpy as np
import pytest

from adam_mp.memory.exchange import UNSEEN, ExchangeMemory
from adam_mp.memory.layout import Held, Layout

LAYOUT = Layout.of({"w": (300, 400), "b": (7,)}).for_servers(3)


@pytest.fixture
def memory():
    made = ExchangeMemory.create(Held.all_of(LAYOUT))
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
    memory.note("agreed", 3)
    statistics = memory.statistics()
    assert (statistics.pushed_bytes, statistics.pulls) == (42, 0)
    assert memory.read("agreed") == 3


def test_before_the_first_map_there_is_none(memory):
    assert memory.read_map() == (0, b"")


@pytest.mark.parametrize("dies_at", ["length", "bytes", "count"])
def test_a_supervisor_that_dies_while_it_notes_a_map_leaves_the_one_before(memory, monkeypatch, dies_at):
    for text in (b"first", b"second", b"third"):
        memory.note_map(text)
    place = memory._maps[(memory.read("maps") + 1) % 2]  # what it does until then
    place[:8].view(np.int64)[0] = 1000
    if dies_at != "length":
        place[8:500] = 255
    if dies_at == "count":
        monkeypatch.setattr(memory, "note", lambda name, value: (_ for _ in ()).throw(KeyError(name)))
        with pytest.raises(KeyError):
            memory.note_map(b"fourth")
        monkeypatch.undo()
    assert memory.read_map() == (3, b"third")
    memory.note_map(b"fifth")
    assert memory.read_map() == (4, b"fifth")


def test_a_map_that_is_read_while_others_are_noted_is_whole(memory):
    texts = [bytes([65 + each]) * (1 + 60 * each) for each in range(26)]
    done = threading.Event()

    def note():
        for number in range(4000):
            memory.note_map(texts[number % 26])
        done.set()

    writer, counts = threading.Thread(target=note), []
    writer.start()
    while not done.is_set():
        count, text = memory.read_map()
        assert text == (texts[(count - 1) % 26] if count else b"")
        counts.append(count)
    writer.join()
    assert counts == sorted(counts)
    assert memory.read_map() == (4000, texts[3999 % 26])


def test_a_map_that_has_no_room_is_refused(memory):
    with pytest.raises(ValueError, match="expected at most"):
        memory.note_map(b"x" * 500_000)
    assert memory.read_map() == (0, b"")
