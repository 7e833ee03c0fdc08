"""What the controller makes of a bucket map when servers are lost, come back, and take roles."""

from __future__ import annotations

import dataclasses
import random

import pytest

from adam_mp.memory.layout import Layout
from adam_mp.params.run.bucket_map import BucketMap, ServerPlace
from adam_mp.params.run.copy_groups import Swap, promoted, without
from adam_mp.params.run.copy_roles import swapped, with_balance, with_copies, with_new_copies, without_memory

LAYOUT = Layout.of({"w": (500, 700), "b": (700,)})


def make_map(servers=4, copies=3, hosts=4):
    places = tuple(ServerPlace(10 + number, f"host{number % hosts}:{7000 + number}") for number in range(servers))
    return with_copies(BucketMap(5, places), copies)


def test_one_copy_is_the_map_without_groups():
    assert make_map(copies=1).copied == ()


def test_groups_have_all_shards_and_travel_as_plain_values():
    bucket_map = make_map()
    assert BucketMap.from_dict(bucket_map.as_dict()) == bucket_map
    shards = sorted(shard for server in bucket_map.servers for shard in bucket_map.shards_of(LAYOUT, server.identity))
    assert shards == list(range(len(bucket_map.cut(LAYOUT).shards)))


def test_a_group_on_no_server_is_malformed():
    facts = make_map().as_dict()
    facts["groups"][0][1] = 9
    with pytest.raises(ValueError, match="not in the map"):
        BucketMap.from_dict(facts)


def test_a_swap_moves_only_its_group():
    before = make_map()
    after = swapped(
        before, Swap(3, before.copied[3].in_sync[0], promoted(before.copied[3], before.copied[3].in_sync[0]))
    )
    assert after.epoch == 6
    changed = [number for number, (a, b) in enumerate(zip(before.copied, after.copied, strict=True)) if a != b]
    assert changed == [3]
    assert after.copied[3].epoch == 6
    moved = [a != b for a, b in zip(before.owners(LAYOUT), after.owners(LAYOUT), strict=True)]
    assert moved == [group == 3 for group in before.groups_of(LAYOUT)]


@pytest.mark.parametrize("number", [-1, 12, 99])
def test_a_swap_of_no_group_is_refused(number):
    bucket_map = make_map()
    assert swapped(bucket_map, Swap(number, 0, without(bucket_map.copied[0], 1))) is None


def test_a_server_without_its_memory_has_no_role_and_is_given_new_ones():
    before = make_map()
    bereft = without_memory(before, 2)
    assert bereft.epoch == 6
    assert all(2 not in group.holders and len(group.holders) == 2 for group in bereft.copied if 2 in group.holders)
    again = with_new_copies(bereft, 3, range(4))
    assert all(len(group.holders) == 3 for group in again.copied)
    assert {group.joining for group in again.copied} <= {(), (2,)}
    assert with_new_copies(again, 3, range(4)) is again


def test_what_a_server_kept_it_keeps():
    before = make_map()
    held = [number for number, group in enumerate(before.copied) if 2 in group.holders]
    assert without_memory(before, 2, held) is before
    after = without_memory(before, 2, held[1:])
    assert 2 not in after.copied[held[0]].holders


@pytest.mark.parametrize("seed", range(20))
def test_roles_stay_whole_whatever_servers_are_lost(seed):
    generator, bucket_map = random.Random(seed), make_map(5, 3, 3)
    for _ in range(50):
        before = bucket_map
        if generator.random() < 0.5:
            bucket_map = without_memory(bucket_map, generator.randrange(5))
        else:
            bucket_map = with_new_copies(bucket_map, 3, generator.sample(range(5), 4))
        assert bucket_map.epoch == before.epoch + (bucket_map is not before)
        for group, earlier in zip(bucket_map.copied, before.copied, strict=True):
            assert len(set(group.holders)) == len(group.holders) <= 3
            assert group == earlier or group.epoch == bucket_map.epoch
            assert set(group.in_sync) <= set(earlier.in_sync)


def ready(bucket_map):
    """The map once all copies that were being made are in sync."""
    groups = tuple(
        dataclasses.replace(group, in_sync=(*group.in_sync, *group.joining), joining=()) for group in bucket_map.copied
    )
    return dataclasses.replace(bucket_map, copied=groups)


def counts(bucket_map):
    """How many groups each server has, and of how many it is primary."""
    places = range(len(bucket_map.servers))
    held = [sum(place in group.holders for group in bucket_map.copied) for place in places]
    return held, [sum(group.primary == place for group in bucket_map.copied) for place in places]


@pytest.mark.parametrize(
    ("servers", "copies", "hosts"), [(4, 3, 4), (3, 3, 3), (2, 2, 2), (6, 2, 3), (8, 3, 4), (5, 4, 1)]
)
def test_work_is_equal_again_some_steps_after_a_server_came_back(servers, copies, hosts):
    bucket_map = without_memory(make_map(servers, copies, hosts), 1)
    bucket_map = ready(with_new_copies(bucket_map, copies, [place for place in range(servers) if place != 1]))
    bucket_map, steps = ready(with_new_copies(bucket_map, copies, range(servers))), 0
    while (after := with_balance(bucket_map, copies, range(servers))) is not bucket_map:
        for group, earlier in zip(after.copied, bucket_map.copied, strict=True):
            assert len(set(group.holders)) == len(group.holders) >= min(copies, len(earlier.holders))
            assert group.primary in (earlier.primary, *earlier.in_sync)
            assert set(group.in_sync) <= {earlier.primary, *earlier.in_sync}
        bucket_map, steps = ready(after), steps + 1
        assert steps < 100
    held, led = counts(bucket_map)
    assert max(led) - min(led) <= 1
    assert max(held) - min(held) <= 1 + (hosts < servers)  # copies on different hosts come first
    assert all(len(group.holders) == min(copies, servers) for group in bucket_map.copied)
    if hosts >= copies:
        names = [server.address.partition(":")[0] for server in bucket_map.servers]
        assert all(len({names[place] for place in group.holders}) == copies for group in bucket_map.copied)


def test_nothing_is_moved_while_a_copy_is_missing_or_being_made_or_to_a_server_that_is_silent():
    whole = make_map()
    assert with_balance(whole, 3, range(4)) is whole
    bereft = without_memory(whole, 2)
    assert with_balance(bereft, 3, range(4)) is bereft
    being_made = with_new_copies(bereft, 3, [0, 1, 3])
    assert with_balance(being_made, 3, range(4)) is being_made
    moved = with_balance(ready(being_made), 3, [0, 1, 3])
    assert all(2 not in group.holders for group in moved.copied)
