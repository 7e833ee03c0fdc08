"""The lines about changes of roles that the coordinator makes by itself."""

from __future__ import annotations

import dataclasses

from adam_mp.params.run.bucket_map import BucketMap, ServerPlace
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.copy_groups import CopyGroup, handed_over, with_joining
from adam_mp.params.run.copy_roles import without_memory
from adam_mp.params.run.member import LIFE
from adam_mp.params.run.role_lines import role_lines
from tests.params.run.test_coordinator import facts

PLACES = tuple(ServerPlace(10 + number, f"s{number}", f"c{number}") for number in range(4))
MAP = BucketMap(5, PLACES, (CopyGroup(3, 0, (1, 2)), CopyGroup(5, 0, (1, 3)), CopyGroup(2, 2, (0,), (3,))))


def test_a_server_that_has_lost_its_memory_makes_a_line_for_each_other_that_has_its_roles_now():
    assert role_lines(MAP, without_memory(MAP, 0), "why") == [
        "s1 is primary of 2 bucket groups (0, 1) now, instead of s0, why",
        "s2 goes on without the copy of 1 bucket group (2) on s0, why",
    ]


def test_weights_without_a_copy_in_sync_are_said_to_begin_anew():
    alone = dataclasses.replace(MAP, copied=(CopyGroup(3, 2, (), (1,)),))
    assert role_lines(alone, without_memory(alone, 2), "why") == [
        "s2, why, begins 1 bucket group (0) anew: no copy was in sync"
    ]


def test_copies_that_change_places_make_one_line_and_a_copy_that_is_being_made_none():
    swapped = dataclasses.replace(MAP, copied=(handed_over(MAP.copied[0], 2), with_joining(MAP.copied[1], 2)))
    before = dataclasses.replace(MAP, copied=MAP.copied[:2])
    assert role_lines(before, swapped, "why") == ["s2 is primary of 1 bucket group (0) now, instead of s0, why"]
    assert role_lines(MAP, MAP, "why") == []


def test_the_coordinator_tells_of_a_server_that_was_started_again_and_of_equal_work():
    coordinator = Coordinator(run=5, expected=3, copies=3)
    server = {"role": "params", "address": "h:7001", "copies": "h:8001"}
    for number in range(3):
        own = {**server, "address": f"h:{7000 + number}", "copies": f"h:{8000 + number}"}
        coordinator.join(100 + number, own, 0.0, 1 << LIFE)
    coordinator.join(1, facts(), 0.0)
    assert list(coordinator.role_notices) == []
    coordinator.join(101, server, 0.0, 2 << LIFE)
    told = list(coordinator.role_notices)
    assert all(line.endswith(" h:7001, which was started again without its memory") for line in told)
    assert sum(" is primary of 1 bucket group (" in line for line in told) == 2
    assert sum(" goes on without the copy of 2 bucket groups (" in line for line in told) == 2
