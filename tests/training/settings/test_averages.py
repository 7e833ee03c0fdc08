from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.errors import SettingsError
from adam_mp.training.settings.averages import Average, parse_average
from adam_mp.training.settings.settings import TrainSettings

DECAYS = [0.05, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999]


def test_what_is_written_for_averages():
    assert parse_average("none", 1) is None
    assert parse_average("ema:0.999", 1) == Average(0.999)
    assert parse_average("last:3", 3) == Average(epochs=3)
    assert [parse_average(text, 5).moves for text in ("ema:0.9", "last:2")] == [True, False]


@pytest.mark.parametrize(
    "text",
    ["", "ema", "ema:", "ema:x", "ema:0", "ema:1", "ema:0.999999", "ema:-1", "ema:e", "ema(0.9)", "last:1", "last:2.5",
     "last:1e999", "last:6", "0.999", 0.999, True, None, "None", "ema:0.9,last:2"],
)  # fmt: skip
def test_what_is_no_average(text):
    with pytest.raises(SettingsError, match=r"^average is .*; (expected|give) "):
        parse_average(text, 5)


def test_an_average_of_more_epochs_than_there_are_is_refused_with_the_settings():
    assert TrainSettings(average="last:5").average == "last:5"
    with pytest.raises(SettingsError, match=r"^average is 'last:5', but epochs is 4; give at most last:4$"):
        TrainSettings(average="last:5", epochs=4)


@pytest.mark.parametrize("decay", DECAYS)
@given(st.integers(0, 3000), st.integers(0, 60))
def test_what_a_move_over_several_updates_keeps_is_the_product_over_them(decay, before, updates):
    exact = math.prod(min(Fraction(decay), Fraction(1 + t, 10 + t)) for t in range(before, before + updates))
    assert Average(decay).kept(before, before + updates) == pytest.approx(float(exact), rel=1e-9)


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_an_average_keeps_a_share_of_itself_whatever_the_counts_are(before, after):
    kept = Average(0.999).kept(before, after)
    assert 0 <= kept <= 1
    assert (kept == 1) == (after <= before)


@pytest.mark.parametrize("decay", DECAYS)
def test_each_move_begins_where_the_one_before_ended_and_moves_are_often_enough(decay):
    average, last = Average(decay), 0
    for update in range(1, 5000):
        if average.moves_at(update):
            assert average.last_move(update) == last
            # The span of the average in updates, as it warms up and after that.
            span = min(1 / (1 - decay), (10 + update) / 9)
            assert update - last <= max(1, span / 2)
            last = update
    assert 5000 - last <= 32


def test_an_average_of_epochs_does_not_move_with_updates():
    assert not any(Average(epochs=2).moves_at(update) for update in range(1, 100))


def test_the_last_epochs_are_counted_in_and_others_begin_anew():
    counts, averaged = [], 0
    for epoch in range(5):
        averaged = Average(epochs=3).of_epochs(epoch, 5, averaged)
        counts.append(averaged)
    assert counts == [0, 0, 1, 2, 3]
    # Resumed after three of five epochs to train ten: the third, which is averaged, is none of the last three.
    assert [Average(epochs=3).of_epochs(epoch, 10, 1) for epoch in (3, 6, 7)] == [0, 0, 1]
    # Resumed after four of five to train six: of the two that are averaged, one is none of the last three.
    assert Average(epochs=3).of_epochs(4, 6, 2) == 1
    assert Average(epochs=3).of_epochs(5, 6, 1) == 2
