"""The keeper swaps maps and is elected, whatever answers of etcd are lost."""

from __future__ import annotations

import random

import pytest

from adam_mp.params.controller.etcd import Unchanged
from adam_mp.params.controller.keeper import LEASE, Keeper
from adam_mp.params.controller.record import Elected, Record, as_bytes
from adam_mp.params.run.bucket_map import BucketMap, ServerPlace
from adam_mp.params.run.copy_roles import with_copies, with_new_copies
from adam_mp.params.run.wishes import RoleWish
from tests.params.controller.simulated_etcd import SimulatedEtcd

RUN = 7
SERVERS = tuple(ServerPlace(1 + place, f"10.0.0.{place}:77", f"10.0.0.{place}:78") for place in range(3))
MAP = with_copies(BucketMap(1, SERVERS), 2)


class Case:
    """Keepers of three servers and a simulated etcd, whose time the test moves."""

    def __init__(self, seed=0, loss=0.0):
        self.now, chance = 0.0, random.Random(seed)
        self.etcd = SimulatedEtcd(lambda: self.now, lambda: chance.random() < loss)
        self.keepers = [self.start(place) for place in range(3)]

    def start(self, place, run=0):
        server = SERVERS[place]
        return Keeper(self.etcd, Elected(server.identity, server.address), Record(RUN + place, 3, 2, "copied"), run)

    def turn(self, *places, seconds=0.1):
        self.now += seconds
        for place in places or range(3):
            self.keepers[place].turn(self.now)

    def begin(self):
        """Elect the first server, have the others join its run, and store a map."""
        for _ in range(10):
            self.turn(0)
        for keeper in self.keepers:
            keeper.run = RUN
        while not self.keepers[0].is_stored(None, MAP):
            self.turn(0)
        for _ in range(20):
            self.turn()


def wish(group, place, about):
    """Return the wish of the copy at `place` to take over a group from the primary at `about`."""
    return RoleWish(group, MAP.copied[group].epoch, place, about=about, silent=True)


def leaders(case):
    return [place for place, keeper in enumerate(case.keepers) if keeper.leads]


@pytest.mark.parametrize("seed", range(20))
def test_one_server_is_elected_and_begins_the_run_whatever_answers_are_lost(seed):
    case = Case(seed, loss=0.3)
    for _ in range(100):
        case.turn()
        assert len(leaders(case)) <= 1
    assert len(leaders(case)) == 1
    leader = case.keepers[leaders(case)[0]]
    assert {keeper.record for keeper in case.keepers} == {leader.record}
    assert leader.run == leader.record.run == RUN + leaders(case)[0]


def test_a_server_of_the_run_follows_one_that_died_and_a_stranger_does_not():
    case = Case()
    case.begin()
    case.keepers[2].run = 0  # it has just been started, and has not joined
    for _ in range(100):
        case.turn(1, 2)
    assert (leaders(case)[1:], case.keepers[1].elected.identity) == ([1], 2)
    assert case.keepers[1].record.run == RUN


def test_a_coordinator_that_was_stopped_learns_that_another_is_elected():
    case = Case()
    case.begin()
    for _ in range(round((LEASE + 1) / 0.1)):
        case.turn(1)
    assert leaders(case) == [0, 1], "it has not been able to look yet"
    case.turn(0)
    assert leaders(case) == [1]


@pytest.mark.parametrize("seconds", [1, 2, 4, 60])
@pytest.mark.parametrize("seed", range(10))
def test_a_coordinator_goes_on_while_etcd_is_down_and_keeps_its_part_when_etcd_is_back(seed, seconds):
    case, chance = Case(), random.Random(seed)
    case.begin()
    case.keepers[0].state = {"epoch": 3}
    case.turn(0, seconds=chance.random())
    case.etcd.down = True
    for _ in range(round(seconds / 0.1)):
        case.turn()
    assert leaders(case) == [0]
    assert seconds < 2 or "down" in case.keepers[0].trouble
    case.etcd.down = False
    case.etcd.lose = lambda: leaders(case) != [0]  # which the test would see at the end: no answer comes any more
    for _ in range(60):
        case.turn(chance.randrange(3), seconds=0.03)
        assert leaders(case) == [0]
    case.keepers[0].state = {"epoch": 4}
    for _ in range(60):
        case.turn()
    assert (leaders(case), case.keepers[0].trouble) == ([0], "")
    assert case.keepers[1].elected == case.keepers[0].me
    case.now += 100
    for _ in range(60):
        case.turn(1)
    assert case.keepers[1].stored_state() == {"epoch": 4}


def test_a_server_of_the_run_follows_a_coordinator_that_died_while_etcd_was_down():
    case = Case()
    case.begin()
    case.etcd.down = True
    case.turn(1, 2, seconds=10)
    case.etcd.down = False
    for _ in range(50):
        case.turn(1, 2)
    assert len(leaders(case)[1:]) == 1


def test_a_coordinator_is_elected_also_if_etcd_answers_every_other_call():
    case = Case()
    case.begin()
    case.now += LEASE + 10  # in which the coordinator has died
    for number in range(60):
        case.etcd.down = number % 2 == 0
        case.turn(1, 2, seconds=1.5)
    assert len(leaders(case)[1:]) == 1


def test_a_coordinator_that_resigns_while_it_looks_has_resigned():
    case = Case()
    case.begin()
    leader = case.keepers[0]
    leader.look(case.now)
    leader.resign()
    leader.leads = True  # as a look that was under way has found
    for _ in range(5):
        case.turn(0)
    assert leaders(case) == []


def test_a_coordinator_that_was_stopped_while_another_led_and_died_begins_anew():
    case = Case()
    case.begin()
    for _ in range(round((LEASE + 1) / 0.1)):
        case.turn(1)
    assert leaders(case) == [0, 1]
    case.now += LEASE + 1
    case.turn(0)
    assert leaders(case) == [1], "it sees that it does not lead, before it may again"
    for _ in range(40):
        case.turn(0)
    assert leaders(case) == [0, 1]
    case.turn(1)
    assert leaders(case) == [0]


def test_a_wish_is_granted_once_and_all_learn_the_map_and_the_reason():
    case = Case()
    case.begin()
    group = MAP.copied[0]
    case.keepers[group.in_sync[0]].wishes = (wish(0, group.in_sync[0], group.primary),)
    case.turn(group.in_sync[0])
    for _ in range(10):
        case.turn()
    record = case.keepers[0].record
    assert {keeper.record for keeper in case.keepers} == {record}
    assert (record.map.epoch, record.map.copied[0].primary) == (2, group.in_sync[0])
    assert record.map.copied[1:] == MAP.copied[1:]
    assert [(change.epoch, list(change.silent)) for change in record.changes] == [(2, [1 + group.primary])]
    assert "is primary of 1 bucket group (0) now" in record.changes[0].line


@pytest.mark.parametrize("seed", range(20))
def test_of_two_changes_of_one_map_etcd_takes_one_whatever_answers_are_lost(seed):
    case = Case(seed, loss=0.3)
    case.begin()
    epochs = [case.keepers[0].record.map.epoch]
    proposed = with_new_copies(MAP, 3, range(3))
    group = MAP.copied[0]
    case.keepers[group.in_sync[0]].wishes = (wish(0, group.in_sync[0], group.primary),)
    for _ in range(40):
        case.keepers[0].is_stored(MAP, proposed)
        case.turn()
        if (stored := case.keepers[1].record) is not None:
            epochs.append(stored.map.epoch)
    assert sorted(epochs) == epochs
    assert epochs[-1] == 2
    final = case.keepers[0].record.map
    swapped = final.copied[0].primary == group.in_sync[0]
    assert swapped != (final == proposed), "one of the two, whole"


def test_only_the_coordinator_writes_the_state_and_its_successor_reads_it():
    case = Case()
    case.begin()
    case.keepers[0].state = {"epoch": 3}
    case.turn(0)
    for _ in range(60):
        case.turn(1, 2)
    successor = case.keepers[leaders(case)[-1]]
    assert successor.stored_state() == {"epoch": 3}
    case.keepers[0].state = {"epoch": 4}
    case.turn(0)
    successor.look(case.now)
    assert successor.stored_state() == {"epoch": 3}, "a coordinator that another has replaced writes no more"


def test_a_coordinator_that_resigns_leaves_the_election_to_others_for_a_while():
    case = Case()
    case.begin()
    case.keepers[0].resign()
    assert not case.keepers[0].leads
    for _ in range(5):
        case.turn()
    assert leaders(case) == [1]


def test_the_last_server_removes_the_keys():
    case = Case()
    case.begin()
    case.keepers[1].end(forget=True)
    assert "run" in case.etcd.keys, "it is not the coordinator"
    case.keepers[0].end(forget=True)
    assert case.etcd.keys == {}


def test_a_key_that_is_no_record_is_named():
    case = Case()
    case.etcd.swap({"run": b"{}"}, [Unchanged("run", 0)], 1.0)
    case.turn(0)
    assert "run" in case.keepers[0].trouble
    case.etcd.swap({"run": as_bytes(Record(9, 3, 2, "copied"))}, [], 1.0)
    case.turn(0)
    assert (case.keepers[0].trouble, case.keepers[0].record.run) == ("", 9)
