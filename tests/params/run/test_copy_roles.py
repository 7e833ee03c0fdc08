"""What the controller makes of a bucket map when servers are lost, come back, and take roles."""

from __future__ import annotations

import random

import pytest

from adam_mp.memory.layout import Layout
from adam_mp.params.run.bucket_map import BucketMap, ServerPlace
from adam_mp.params.run.copy_groups import Swap, promoted, without
from adam_mp.params.run.copy_roles import swapped, with_copies, with_new_copies, without_memory

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
    after = swapped(before, Swap(3, before.copied[3].in_sync[0], promoted(before.copied[3], before.copied[3].in_sync[0])))
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
