"""What the coordinator grants of the changes of roles that servers want, and what it says of them."""

from __future__ import annotations

from adam_mp.params.run.bucket_map import BucketMap, ServerPlace
from adam_mp.params.run.copy_groups import CopyGroup
from adam_mp.params.run.wishes import RoleWish, grant_wishes

PLACES = tuple(ServerPlace(10 + number, f"s{number}", f"c{number}") for number in range(4))
MAP = BucketMap(5, PLACES, (CopyGroup(3, 0, (1, 2)), CopyGroup(5, 0, (1, 3)), CopyGroup(2, 2, (0,), (3,))))


def test_wishes_for_the_same_reason_are_granted_together_and_said_in_a_line():
    wishes = [
        RoleWish(0, 3, 1, [2], about=0, silent=True, unheard=0.61),
        RoleWish(1, 5, 1, [3], about=0, silent=True, unheard=0.62),
    ]
    granted, lines, silent = grant_wishes(MAP, 1, wishes)
    assert granted.epoch == 7
    assert granted.copied == (CopyGroup(6, 1, (2,), since=6), CopyGroup(7, 1, (3,), since=7), MAP.copied[2])
    assert lines == ["s1 is primary of 2 bucket groups (0, 1) now, 0.62 s after s0 was last heard"]
    assert silent == {10}


def test_what_another_has_changed_meanwhile_is_not_granted():
    stale = [RoleWish(0, 2, 1, [2], about=0, silent=True), RoleWish(9, 1, 1, [], about=0, silent=True)]
    assert grant_wishes(MAP, 1, stale) == (MAP, [], frozenset())
    assert grant_wishes(MAP, 3, [RoleWish(0, 3, 3, [1], about=0, silent=True)])[0] is MAP, "it is no in-sync copy"
    assert grant_wishes(MAP, 1, [RoleWish(0, 3, 1, [2, 7], about=0, silent=True)])[0] is MAP, "there is no such server"


def test_a_copy_that_is_silent_and_one_that_has_caught_up():
    granted, lines, silent = grant_wishes(MAP, 0, [RoleWish(1, 5, 0, [1], about=3, silent=True, unheard=0.02)])
    assert granted.copied[1] == CopyGroup(6, 0, (1,))
    assert lines == ["s0 goes on without the copy of 1 bucket group (1) there, 0.02 s after s3 was last heard"]
    assert silent == {13}
    granted, lines, silent = grant_wishes(MAP, 2, [RoleWish(2, 2, 2, [0, 3], about=3)])
    assert granted.copied[2] == CopyGroup(6, 2, (0, 3))
    assert lines == ["s3 has a copy of 1 bucket group (2) of s2 now, in sync"]
    assert silent == frozenset()
