"""Which roles a server wants: to be rid of silent copies, to admit those that have everything, to replace a primary."""

from __future__ import annotations

from adam_mp.params.run.copy_groups import CopyGroup
from adam_mp.params.server.takeover import Wish, find_wish

GROUP = CopyGroup(7, 0, (1, 2), (3,))


def wish(me, silences=None, ready=None):
    return find_wish(GROUP, me, lambda place: (silences or {}).get(place, 0.0), 0.5, ready)


def test_nobody_wants_anything_while_all_live():
    assert [wish(me, {0: 0.5, 1: 0.5, 2: 0.5, 3: 0.5}) for me in range(5)] == [None] * 5


def test_a_primary_drops_silent_copies_one_by_one_and_admits_what_is_ready():
    assert wish(0, {2: 0.6, 3: 0.7}, ready=3) == Wish(CopyGroup(7, 0, (1,), (3,)), 2)
    assert wish(0, {3: 0.7}) == Wish(CopyGroup(7, 0, (1, 2), ()), 3)
    assert wish(0, ready=3) == Wish(CopyGroup(7, 0, (1, 2, 3), ()), 3, silent=False)


def test_in_sync_copies_replace_a_silent_primary_one_after_the_other():
    assert wish(1, {0: 0.55}) == Wish(CopyGroup(7, 1, (2,), (3,)), 0)
    assert wish(2, {0: 0.55}) is None
    assert wish(2, {0: 0.65}) == Wish(CopyGroup(7, 2, (1,), (3,)), 0)


def test_a_copy_that_is_being_made_and_others_never_want_to_be_primary():
    assert wish(3, {0: 9.0}) is None
    assert wish(4, {0: 9.0}) is None
