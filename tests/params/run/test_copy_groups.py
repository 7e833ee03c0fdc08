"""Who has copies of which buckets at first, and which swaps the controller grants."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.params.run.copy_groups import (
    CopyGroup,
    Swap,
    admitted,
    choose_copies,
    first_groups,
    grant,
    promoted,
    with_joining,
    without,
)

GROUP = CopyGroup(7, 0, (1, 2), (3,))


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=9), st.integers(1, 5))
def test_every_server_is_first_primary_of_as_many_groups_with_copies_elsewhere(hosts, copies):
    groups = first_groups(hosts, copies)
    assert set(Counter(group.primary for group in groups).values()) == {len(groups) // len(hosts)}
    for group in groups:
        assert len(set(group.holders)) == len(group.holders) == min(copies, len(hosts))
        assert len({hosts[place] for place in group.holders}) >= min(len(set(hosts)), len(group.holders))


def test_the_groups_of_a_lost_server_go_to_all_others():
    groups = first_groups(["a", "b", "c", "d"], 3)
    heirs = Counter(group.in_sync[0] for group in groups if group.primary == 2)
    assert heirs == {0: 1, 1: 1, 3: 1}


def test_a_copy_is_made_on_a_host_without_one_if_there_is_one():
    assert choose_copies(["a", "a", "b"], [0], [1, 2], 1) == [2]
    assert choose_copies(["a", "a", "a"], [0], [1, 2], 3) == [1, 2]


@pytest.mark.parametrize(
    ("by", "wanted", "granted"),
    [
        (1, promoted(GROUP, 1), True),  # an in-sync copy takes over
        (3, promoted(GROUP, 3), False),  # a joining one may not
        (1, admitted(promoted(GROUP, 1), 3), False),  # nor may a new primary vouch for one
        (0, admitted(GROUP, 3), True),  # only the primary knows that it is in sync
        (1, admitted(GROUP, 3), False),
        (0, without(GROUP, 2), True),
        (0, with_joining(GROUP, 4), True),
        (0, dataclasses.replace(GROUP, in_sync=(1, 2, 4)), False),  # in sync out of nowhere
        (0, dataclasses.replace(GROUP, in_sync=(1, 1)), False),
        (0, dataclasses.replace(without(GROUP, 2), epoch=6), False),  # of an earlier epoch
        (2, without(GROUP, 1), False),  # asked by another than the primary
    ],
)
def test_a_swap_is_granted_only_if_it_is_safe(by, wanted, granted):
    after = grant(GROUP, Swap(0, by, wanted), 12)
    since = 0 if wanted.primary == GROUP.primary else 12
    assert after == (dataclasses.replace(wanted, epoch=12, since=since) if granted else None)
