"""Who is to blame for silence: the silent servers, or the one that hears nobody."""

from __future__ import annotations

import pytest

from adam_mp.params.server.blame import Blame


def test_one_silent_server_of_two_is_to_blame():
    assert Blame(0.5).falls_on_others([0.1, 9.0], 10.0)


def test_a_server_that_hears_none_of_two_blames_nobody():
    assert not Blame(0.5).falls_on_others([0.6, 0.6], 10.0)


def test_a_server_that_was_lonely_blames_nobody_for_three_seconds():
    blame = Blame(0.5)
    blame.falls_on_others([0.6, 0.6], 10.0)
    assert [blame.falls_on_others([0.1, 0.9], now) for now in (10.1, 13.0, 13.1)] == [False, False, True]


@pytest.mark.parametrize(("gap", "blames"), [(0.1, True), (1.5, False)])
def test_a_server_that_replicas_speak_to_all_the_time_blames_all_others_in_the_end(gap, blames):
    blame, told = Blame(0.5), False
    for step in range(round(6.0 / gap)):
        now = 10.0 + gap * step
        blame.hear(now)
        told = blame.falls_on_others([now - 10.0] * 2, now)
    assert told == blames


def test_the_only_other_server_is_to_blame_if_anybody_spoke_lately():
    blame = Blame(0.5)
    blame.hear(10.0)
    assert blame.falls_on_others([0.6], 10.1)
    assert not blame.falls_on_others([0.6], 11.0)
