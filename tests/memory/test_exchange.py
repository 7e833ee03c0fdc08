"""The bucket map in the exchange's memory: whole, whoever dies and whenever it is read."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from adam_mp.memory.exchange import ExchangeMemory
from adam_mp.memory.layout import Layout

LAYOUT = Layout.of({"w": (3, 4)}).for_servers(2)


@pytest.fixture
def words():
    made = ExchangeMemory.create(LAYOUT)
    yield made
    made.close()


def test_before_the_first_map_there_is_none(words):
    assert words.read_map() == (0, b"")


@pytest.mark.parametrize("dies_at", ["length", "bytes", "count"])
def test_a_supervisor_that_dies_while_it_notes_a_map_leaves_the_one_before(words, monkeypatch, dies_at):
    for text in (b"first", b"second", b"third"):
        words.note_map(text)
    place = words._maps[(words.read("maps") + 1) % 2]  # what it does until then
    place[:8].view(np.int64)[0] = 1000
    if dies_at != "length":
        place[8:500] = 255
    if dies_at == "count":
        monkeypatch.setattr(words, "note", lambda name, value: (_ for _ in ()).throw(KeyError(name)))
        with pytest.raises(KeyError):
            words.note_map(b"fourth")
        monkeypatch.undo()
    assert words.read_map() == (3, b"third")
    words.note_map(b"fifth")
    assert words.read_map() == (4, b"fifth")


def test_a_map_that_is_read_while_others_are_noted_is_whole(words):
    texts = [bytes([65 + each]) * (1 + 60 * each) for each in range(26)]
    done = threading.Event()

    def note():
        for number in range(4000):
            words.note_map(texts[number % 26])
        done.set()

    writer, counts = threading.Thread(target=note), []
    writer.start()
    while not done.is_set():
        count, text = words.read_map()
        assert text == (texts[(count - 1) % 26] if count else b"")
        counts.append(count)
    writer.join()
    assert counts == sorted(counts)
    assert words.read_map() == (4000, texts[3999 % 26])


def test_a_map_that_has_no_room_is_refused(words):
    with pytest.raises(ValueError, match="expected at most"):
        words.note_map(b"x" * 5000)
    assert words.read_map() == (0, b"")
