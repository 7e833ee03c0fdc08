"""The leader's lines to the other partitions and theirs to it: they join, read and write, are lost, hear of the end."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest

from adam_mp import __version__
from adam_mp.errors import JoinError, StoppedError, TransportError
from adam_mp.params.run.bucket_map import BucketMap, ServerPlace
from adam_mp.partitions import leader_side, own_side
from adam_mp.partitions.leader_side import PartitionLostError, Partitions
from adam_mp.partitions.own_side import LeaderLine, LeaderLostError
from adam_mp.partitions.statements import (
    BEGINS_AGAIN,
    GOES_ON,
    IS_DONE,
    Exchanged,
    PartJoining,
    PartReport,
    ToExchange,
)
from adam_mp.transport.places import parse_place

TASK = {"settings": {"lr": "0.1"}}


class OwnSpaces:
    """Two flat spaces of one partition."""

    def __init__(self, size: int = 10) -> None:
        self.spaces = [np.arange(size, dtype=np.float32), np.zeros(size, np.float32)]
        self.averages: list[float] = []
        self.updates = 0

    def read(self, space, begin, end):
        return self.spaces[space][begin:end]

    def write(self, space, begin, values):
        self.spaces[space][begin : begin + len(values)] = values

    def are_finite(self):
        return bool(np.isfinite(self.spaces[0]).all())

    def average(self, share):
        self.averages.append(share)

    def note_updates(self, updates):
        self.updates = updates


class Follower(threading.Thread):
    """A partition that joins and then does what it is asked, until it is stopped or the run ends."""

    def __init__(self, place: str, joining: PartJoining, fault: str = "", leaves: bool = False, ready: bool = True):
        super().__init__(daemon=True)
        self.place, self.joining, self.spaces = place, joining, OwnSpaces()
        self.report = PartReport(ready=ready, fault=fault)
        self.said: list[str] = []
        self.leaves = leaves
        self.outcome: object = None
        self.silent, self.welcome, self.orders = threading.Event(), None, None
        self.start()

    def run(self) -> None:
        line = LeaderLine(parse_place(self.place, "the place"), None, self.joining)
        try:
            self.welcome = line.join(20, self.silent.is_set, self.said.append)
            while not self.silent.is_set():
                self.orders = line.step(self.report, self.spaces, 0.01)
                if self.orders.state != GOES_ON:
                    break
            if self.leaves:
                line.leave()
        except TransportError as error:
            self.outcome = error
        finally:
            line.close()


def joining(number: int, of: int = 3, **changes) -> PartJoining:
    made = PartJoining(number, of, __version__, f"host{number}", f"unix:/tmp/courier{number}")
    return dataclasses.replace(made, **changes)


@pytest.fixture
def place(tmp_path):
    return f"unix:{tmp_path}/leader"


@pytest.fixture
def leader(place):
    made = Partitions(parse_place(place, "the place"), None, 3, TASK, "unix:/tmp/courier1", ("weights", "velocity"))
    yield made
    made.close()


def gather(leader: Partitions) -> list[str]:
    said: list[str] = []
    leader.gather(20, lambda: False, said.append)
    return said


def step_for_long(leader: Partitions) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        leader._look(0.01)
        leader.step()


def test_partitions_join_and_hear_where_all_couriers_are(leader, place):
    followers = [Follower(place, joining(number)) for number in (2, 3)]
    said = gather(leader)
    assert "waiting for partitions 2/3, 3/3" in said[0]
    assert f"adam-mp train --join {place} --partition K/3" in said[0]
    assert leader.places == tuple(f"unix:/tmp/courier{number}" for number in (1, 2, 3))
    leader.end(IS_DONE, "")
    for follower in followers:
        follower.join(10)
        assert follower.outcome is None
        assert follower.welcome.task == TASK
        assert follower.orders.state == IS_DONE
        assert follower.orders.places == leader.places


def test_the_leader_reads_and_writes_the_weights_of_others(leader, place, monkeypatch):
    monkeypatch.setattr(leader_side, "_PIECE", 3)
    followers = [Follower(place, joining(number)) for number in (2, 3)]
    gather(leader)
    assert leader.read(1, "weights", 2, 9).tolist() == [2, 3, 4, 5, 6, 7, 8]
    leader.write(2, "velocity", 1, np.array([5, 6, 7, 8, 9], np.float32))
    assert leader.read(2, "velocity", 0, 7).tolist() == [0, 5, 6, 7, 8, 9, 0]
    assert leader.are_finite()
    leader.write(2, "weights", 3, np.array([np.nan], np.float32))
    assert not leader.are_finite()
    leader.average(0.25)
    leader.note_updates(1 << 40)
    assert [follower.spaces.averages for follower in followers] == [[0.25], [0.25]]
    assert [follower.spaces.updates for follower in followers] == [1 << 40] * 2
    leader.end(IS_DONE, "")


def test_rounds_of_the_exchange_are_told_at_once_and_their_ends_too(leader, place, monkeypatch):
    followers = [Follower(place, joining(number)) for number in (2, 3)]
    gather(leader)
    monkeypatch.setattr(own_side, "_AGAIN", 60.0)  # reports that say nothing new do not count here
    assert leader.exchanged == [None, None]
    told = ToExchange(5, 6, BucketMap(1, (ServerPlace(3, "127.0.0.1:7700"),)), 9)
    leader.exchange(told)
    follow(leader, lambda: all(each.orders and each.orders.exchange == told for each in followers))
    done = Exchanged(9, 8, 7, 6, 5, 4, (3,))
    for follower in followers:
        follower.report = dataclasses.replace(follower.report, exchanged=done)
    follow(leader, lambda: leader.exchanged == [done, done])
    leader.end(IS_DONE, "")


def follow(leader: Partitions, condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        leader._look(0.01)
        leader.step()


def test_a_request_that_is_repeated_is_done_once(leader, place, monkeypatch):
    monkeypatch.setattr(leader_side, "_AGAIN", -1.0)  # each look sends it again
    followers = [Follower(place, joining(number)) for number in (2, 3)]
    gather(leader)
    for share in (0.5, 0.25):
        leader.average(share)
    assert [follower.spaces.averages for follower in followers] == [[0.5, 0.25]] * 2
    leader.end(IS_DONE, "")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (joining(2, 4), "the run has 3 partitions; give partition=2/3"),
        (joining(1), "partition 1/3 is the leader itself"),
        (joining(3, version="0.0.1"), "is of adam_mp 0.0.1, the leader of"),
    ],
)
def test_who_does_not_fit_is_refused_with_what_fits(leader, place, asked, says):
    follower = Follower(place, asked)
    while follower.is_alive():
        leader._look(0.01)
    assert isinstance(follower.outcome, JoinError)
    assert says in str(follower.outcome)


def test_a_partition_that_is_given_twice_is_refused_while_the_first_lives(leader, place):
    followers = [Follower(place, joining(number)) for number in (2, 3)]
    gather(leader)
    second = Follower(place, joining(2, name="another"))
    while second.is_alive():
        leader.step()
    assert "partition 2/3 is taken by host2" in str(second.outcome)
    assert all(follower.is_alive() for follower in followers)
    leader.end(IS_DONE, "")


@pytest.mark.parametrize("leaves", [True, False])
def test_while_partitions_gather_a_successor_takes_the_place_of_one_that_is_gone(leader, place, monkeypatch, leaves):
    monkeypatch.setattr(leader_side, "_STALE", 0.3)
    first = Follower(place, joining(2), leaves=leaves, ready=False)
    while not leader._lines:
        leader._look(0.01)
    first.silent.set()
    first.join(10)
    successor, third = Follower(place, joining(2, name="successor")), Follower(place, joining(3))
    gather(leader)
    leader.end(IS_DONE, "")
    for follower in (successor, third):
        follower.join(10)
        assert follower.outcome is None
        assert follower.orders.state == IS_DONE


def test_a_missing_partition_is_named_with_the_deadline(leader, place):
    Follower(place, joining(3))
    with pytest.raises(
        TransportError, match="partition 2/3 did not come within 1 s; on its machine: adam-mp train --join"
    ):
        leader.gather(1, lambda: False, lambda _: None)
    with pytest.raises(StoppedError):
        leader.gather(1, lambda: True, lambda _: None)


def test_a_partition_that_falls_silent_is_lost_and_its_successor_begins_again(leader, place, monkeypatch):
    monkeypatch.setattr(leader_side, "_SILENT", 1.0)
    monkeypatch.setattr(leader_side, "_STALE", 0.2)
    followers = [Follower(place, joining(number)) for number in (2, 3)]
    gather(leader)
    followers[0].silent.set()
    with pytest.raises(PartitionLostError, match=r"partition 2/3 \(host2\) is gone"):
        step_for_long(leader)
    leader.end(BEGINS_AGAIN, "a partition is gone")
    followers[1].join(10)
    assert followers[1].orders.state == BEGINS_AGAIN


def test_a_successor_that_joins_before_the_silence_is_noticed_says_that_the_first_is_gone(leader, place, monkeypatch):
    monkeypatch.setattr(leader_side, "_STALE", 0.3)
    followers = [Follower(place, joining(number)) for number in (2, 3)]
    gather(leader)
    followers[0].silent.set()
    followers[0].join(10)
    successor = Follower(place, joining(2, name="successor"))
    with pytest.raises(PartitionLostError, match="host2"):
        step_for_long(leader)
    successor.silent.set()


def test_a_partition_that_cannot_go_on_ends_the_run_with_its_reason(leader, place):
    Follower(place, joining(2), "worker 0 died 5 times")
    Follower(place, joining(3))
    with pytest.raises(TransportError, match=r"partition 2/3 \(host2\): worker 0 died 5 times"):
        gather(leader)


def test_a_leader_that_is_gone_is_noticed(place, monkeypatch):
    monkeypatch.setattr(own_side, "_SILENT", 1.0)
    leader = Partitions(parse_place(place, "the place"), None, 2, TASK, "unix:/tmp/courier1", ("weights",))
    follower = Follower(place, joining(2, 2))
    gather(leader)
    leader.close()
    follower.join(20)
    assert isinstance(follower.outcome, LeaderLostError)


def test_a_leader_that_began_anew_sends_who_it_does_not_know_back_to_join(place):
    leader = Partitions(parse_place(place, "the place"), None, 2, TASK, "unix:/tmp/courier1", ("weights",))
    follower = Follower(place, joining(2, 2))
    gather(leader)
    leader.close()
    leader = Partitions(parse_place(place, "the place"), None, 2, TASK, "unix:/tmp/courier1", ("weights",))
    while follower.is_alive():
        leader._look(0.01)
    assert isinstance(follower.outcome, LeaderLostError)
    assert "does not know the partition" in str(follower.outcome)
    leader.close()
