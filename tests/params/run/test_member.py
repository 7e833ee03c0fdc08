"""What the coordinator thinks of a server that others do not hear."""

from __future__ import annotations

from adam_mp.params.run.member import Member
from adam_mp.params.run.statements import SERVER


def waits(losses):
    """Lose a server at these times; return how many seconds after the last it may take copies, if it lives."""
    member = Member(1, 1, SERVER, "s", "s:1", 0.0, 0.0)
    for when in losses:
        member.lose(when)
    for seconds in range(200):
        member.seen = losses[-1] + seconds
        if seconds and member.may_take_copies(member.seen):
            return seconds
    return None


def test_a_server_that_several_others_found_silent_at_once_was_lost_once():
    assert waits([10.0]) == waits([10.0, 10.1, 10.1, 10.3]) == 4


def test_a_server_that_is_lost_soon_after_it_got_copies_waits_longer_each_time():
    losses = [10.0]
    for expected in (4, 7, 13, 25, 49, 97, 97):
        assert waits(losses) == expected
        losses.append(losses[-1] + expected)


def test_a_server_that_was_well_for_long_is_trusted_again():
    assert waits([10.0, 14.0, 21.0]) == 13
    assert waits([10.0, 14.0, 21.0, 70.0]) == 4
