"""How many early deaths in a row are too many."""

from __future__ import annotations

import pytest

from adam_mp.process.early_deaths import EARLY, EarlyDeaths


@pytest.mark.parametrize("restarts", [0, 1, 5])
def test_one_more_early_death_than_restarts_is_too_many(restarts):
    deaths = EarlyDeaths(restarts)
    for _ in range(restarts):
        deaths.note(EARLY - 1)
        assert not deaths.too_many
    deaths.note(EARLY - 1)
    assert deaths.too_many
    assert deaths.in_a_row == restarts + 1


def test_who_lived_long_begins_another_row():
    deaths = EarlyDeaths(2)
    for _ in range(10):
        deaths.note(0.0)
        deaths.note(EARLY + 1)
    assert deaths.in_a_row == 1
    assert not deaths.too_many


def test_without_restarts_a_long_life_is_the_last():
    deaths = EarlyDeaths(0)
    deaths.note(1e6)
    assert deaths.too_many


def test_a_long_life_with_nothing_done_is_an_early_death():
    deaths = EarlyDeaths(1)
    for _ in range(2):
        deaths.note(1e6, idle=True)
    assert deaths.too_many


def test_a_death_that_will_not_come_again_is_forgiven():
    deaths = EarlyDeaths(1)
    deaths.note(0.0)
    deaths.note(0.0)
    deaths.forgive()
    assert not deaths.too_many
    deaths.note(0.0)
    assert not deaths.too_many


def test_two_that_died_at_once_with_the_same_words_are_too_many():
    deaths = EarlyDeaths(5)
    deaths.note(1.0, words="ImportError: no module 'a'")
    deaths.note(1.0, words="ImportError: no module 'b'")
    assert not deaths.too_many
    deaths.note(1.0, words="ImportError: no module 'b'")
    assert deaths.too_many
    assert deaths.hopeless


@pytest.mark.parametrize("between", [{"lived": 1.0, "words": ""}, {"lived": EARLY + 1, "words": "same"}])
def test_deaths_without_words_or_after_a_while_count_as_before(between):
    deaths = EarlyDeaths(5)
    for _ in range(2):
        deaths.note(1.0, words="same")
        deaths.note(**between)
        assert not deaths.too_many


def test_forgiven_words_are_forgotten():
    deaths = EarlyDeaths(5)
    deaths.note(1.0, words="same")
    deaths.forgive()
    deaths.note(1.0, words="same")
    assert not deaths.too_many
