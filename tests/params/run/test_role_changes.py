"""Nobody is told a bucket map before it is stored, and what others have stored comes before what was decided."""

from __future__ import annotations

import dataclasses

import pytest

from adam_mp.memory.layout import Layout
from adam_mp.params.run.bucket_map import BucketMap, LayoutFacts, ServerPlace
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.copy_groups import without
from adam_mp.params.run.copy_roles import with_copies

FACTS = {"layout": LayoutFacts.of(Layout.of({"a": (30, 7)})).as_list(), "images": 95, "batch_size": 10, "epochs": 1,
         "quorum": 1.0, "agreed": {}}  # fmt: skip


def serve(coordinator, place, sequence, **facts):
    address = {"address": f"10.0.0.{place}:77", "copies": f"10.0.0.{place}:78"}
    return coordinator.join(1 + place, {"role": "params", **address, **facts}, 0.0, sequence)


class Case:
    """A coordinator of three servers with copies, whose maps are stored if `stores` is true."""

    def __init__(self):
        self.coordinator, self.stores, self.asked = Coordinator(5, 3, copies=2), True, []
        self.roles = self.coordinator.roles
        self.roles.store = self.store
        for place in range(3):
            serve(self.coordinator, place, (place + 1) << 32)

    def store(self, before, after):
        self.asked.append((before, after))
        return self.stores

    def join_replica(self, sequence=(9 << 32)):
        return self.coordinator.join(99, {"role": "replica", "facts": FACTS}, 0.0, sequence)


def test_a_replica_waits_until_its_map_is_stored():
    case = Case()
    case.stores = False
    told = case.join_replica()
    assert "has to write the bucket map" in told["waiting"]
    assert case.coordinator.map is not None
    assert case.coordinator.state(0.0)["map"] is None
    other = case.coordinator.join(98, {"role": "replica", "facts": FACTS}, 0.0, 8 << 32)
    assert "has to write the bucket map" in other["waiting"], "no replica joins without a map"
    case.stores = True
    assert case.join_replica((9 << 32) + 1)["map"]["epoch"] == 1
    assert case.asked[-1] == (None, case.coordinator.map)


def test_members_that_change_nothing_do_not_wait_while_a_map_cannot_be_stored():
    case = Case()
    case.join_replica()
    before, case.stores = case.coordinator.map, False
    assert "waiting" in serve(case.coordinator, 2, 30 << 32), "it was started again, without its memory"
    assert case.coordinator.map.epoch > before.epoch
    again = case.coordinator.join(99, {"role": "replica", "facts": FACTS, "run": 5}, 0.0, 50 << 32)
    assert again["map"]["epoch"] == before.epoch
    assert case.coordinator.report(99, (50 << 32) + 1, {}, 0.0)["map"]["epoch"] == before.epoch


def test_a_start_without_memory_counts_once_however_often_the_server_asks():
    case = Case()
    case.join_replica()
    case.stores = False
    epochs = set()
    for message in range(5):
        serve(case.coordinator, 2, (30 << 32) + message + 1)
        epochs.add(case.coordinator.map.epoch)
    assert len(epochs) == 1
    case.stores = True
    told = serve(case.coordinator, 2, (30 << 32) + 9)
    assert told["map"]["epoch"] == epochs.pop()


def test_what_others_have_stored_comes_before_what_was_decided():
    case = Case()
    case.join_replica()
    told, case.stores = case.coordinator.map, False
    serve(case.coordinator, 2, 30 << 32)
    group = without(told.copied[0], told.copied[0].in_sync[0])
    copied = (dataclasses.replace(group, epoch=told.epoch + 1), *told.copied[1:])
    stored = dataclasses.replace(told, epoch=told.epoch + 1, copied=copied)
    assert case.roles.stored(stored, 1.0)
    assert case.coordinator.map == case.roles.told() == stored
    assert "waiting" in serve(case.coordinator, 2, 30 << 32), "its start counts anew, asked again or not"
    assert case.coordinator.map.epoch == stored.epoch + 1
    assert not case.roles.stored(told, 2.0), "an older one"


def test_a_server_that_had_lost_its_place_has_it_again_if_that_was_not_stored():
    case = Case()
    case.join_replica()
    told, case.stores = case.coordinator.map, False
    case.coordinator.leave(3, None, (3 << 32) + 1)
    newcomer = {"role": "params", "address": "10.0.0.9:77", "copies": "10.0.0.9:78"}
    case.coordinator.roster.missing[3].seen = -100.0
    assert "waiting" in case.coordinator.join(50, newcomer, 0.0, 60 << 32)
    assert case.coordinator.map.place_of(50) == 2
    stored = dataclasses.replace(told, epoch=told.epoch + 5)
    assert case.roles.stored(stored, 1.0)
    assert case.coordinator.map.place_of(3) == 2
    case.coordinator.roster.missing[3].seen = -100.0
    assert "waiting" in case.coordinator.join(50, newcomer, 0.0, (60 << 32) + 1)
    assert case.coordinator.map.place_of(50) == 2


@pytest.mark.parametrize("elected", [True, False])
def test_an_elected_coordinator_leaves_wishes_to_the_servers(elected):
    case = Case()
    case.join_replica()
    case.roles.elected = elected
    group = case.coordinator.map.copied[0]
    wish = {"group": 0, "epoch": group.epoch, "primary": group.in_sync[0], "about": group.primary, "silent": True}
    identity = 1 + group.in_sync[0]
    sequence = case.coordinator.roster.members[identity].sequence + 1
    told = case.coordinator.report(identity, sequence, {"wishes": [wish]}, 0.0)
    assert (told["map"]["epoch"] == 1) == elected
    assert told["elected"] == elected


def test_a_map_without_copies_is_told_at_once():
    servers = tuple(ServerPlace(1 + place, f"h:{place}") for place in range(2))
    assert not with_copies(BucketMap(1, servers), 1).copied
    coordinator = Coordinator(5, 1)
    coordinator.roles.store = lambda before, after: False
    coordinator.join(1, {"role": "params", "address": "h:1"}, 0.0, 1 << 32)
    assert coordinator.join(9, {"role": "replica", "facts": FACTS}, 0.0, 2 << 32)["map"]["epoch"] == 1
