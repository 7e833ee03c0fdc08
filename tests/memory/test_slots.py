"""The words of a queue: nothing is taken before it is published, nothing written over before it is consumed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.memory.segment import Segment
from adam_mp.memory.slots import WORDS_BYTES, SlotWords


@pytest.fixture
def words():
    segment = Segment.create("test", WORDS_BYTES)
    made = SlotWords(segment, 0, 3)
    yield made
    del made._words
    segment.close()


def test_slots_go_round(words):
    assert words.oldest() is None
    for turn in range(10):
        assert words.free() == turn % 3
        words.publish()
        assert words.oldest() == turn % 3
        words.consume()
    assert words.counts() == (10, 10)


def test_a_full_queue_has_no_free_slot(words):
    for _ in range(3):
        words.publish()
    assert words.free() is None
    assert [words.at(ahead) for ahead in range(3)] == [0, 1, 2]
    words.consume(2)
    assert (words.oldest(), words.free()) == (2, 0)


def test_the_word_beside_them_is_another(words):
    words.extra = -1
    words.publish()
    words.extra += 5
    assert (words.extra, words.counts()) == (4, (1, 0))


@given(st.lists(st.booleans()))
def test_it_is_a_queue(steps):
    segment = Segment.create("test", WORDS_BYTES + 24)
    words, numbers, model = SlotWords(segment, 0, 3), segment.array(np.int64, (3,), WORDS_BYTES), []
    try:
        for number, produce in enumerate(steps):
            if produce and (free := words.free()) is not None:
                numbers[free] = number
                words.publish()
                model.append(number)
            elif not produce and (oldest := words.oldest()) is not None:
                assert numbers[oldest] == model.pop(0)
                words.consume()
            published, consumed = words.counts()
            assert published - consumed == len(model) <= 3
    finally:
        del words._words, numbers
        segment.close()
