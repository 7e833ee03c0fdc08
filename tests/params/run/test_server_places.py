"""Parameter servers that come again under another identity, and in which order whatever: the map has whom it should."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from adam_mp.params.run.bucket_map import BucketMap, ServerPlace
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.member import MEMBER_DEADLINE
from adam_mp.transport.refusal import RefusedError
from tests.params.run.test_coordinator import begin, facts, listen, restored

BEFORE = 30.0  # when the other servers were last heard


def server(number, port=None):
    return {"role": "params", "address": f"127.0.0.1:{7000 + number if port is None else port}"}


def places(coordinator):
    return [(place.identity, place.address[-4:]) for place in coordinator.map.servers]


@pytest.fixture
def run():
    """A run of three servers, of which the second and third are silent from now on."""
    coordinator = begin(servers=3)
    listen(coordinator, 0.0, BEFORE, heard=(100, 101, 102, 1, 2))
    coordinator.notices.clear()
    return coordinator


def go_on(coordinator, since, seconds, heard=(100, 1, 2)):
    listen(coordinator, since, since + seconds, heard)


def test_a_server_that_lost_its_identity_takes_the_place_at_its_address(run):
    assert "127.0.0.1:7001 less than 3 s ago" in run.join(201, server(1), BEFORE, 9)["waiting"]
    assert run.map.epoch == 1
    go_on(run, BEFORE, 3.5)
    news = run.join(201, server(1), BEFORE + 3.5, 10)
    assert news["map"] == {
        "epoch": 2,
        "servers": [[100, "127.0.0.1:7000"], [201, "127.0.0.1:7001"], [102, "127.0.0.1:7002"]],
    }
    assert news["layout"]
    assert 101 not in run.roster.members
    assert run.changed
    assert any("127.0.0.1:7001 takes the place of params" in line for line in run.notices)
    assert run.report(1, run.roster.members[1].sequence + 1, {"epoch": 0}, BEFORE + 4)["map"]["epoch"] == 2


def test_a_server_at_an_address_where_one_is_heard_is_refused(run):
    assert "waiting" in run.join(201, server(0), BEFORE, 9)
    go_on(run, BEFORE, 1.0)
    with pytest.raises(RefusedError, match=r"another server runs at 127\.0\.0\.1:7000; give each an address"):
        run.join(201, server(0), BEFORE + 1, 10)
    assert places(run)[0] == (100, "7000")


def test_a_server_at_another_address_takes_the_place_of_one_that_is_taken_for_dead(run):
    for seconds in range(15):
        assert "heard less than 15 s ago" in run.join(202, server(0, 9999), BEFORE + seconds, 9 + seconds)["waiting"]
        go_on(run, BEFORE + seconds, 1.0)
    go_on(run, BEFORE + 15, 1.0)
    assert "waiting" not in run.join(202, server(0, 9999), BEFORE + 16, 99)
    assert places(run) == [(100, "7000"), (202, "9999"), (102, "7002")]
    assert "waiting" not in run.join(203, server(0, 8888), BEFORE + 16, 99)  # the other one is dead too
    assert places(run) == [(100, "7000"), (202, "9999"), (203, "8888")]
    assert run.map.epoch == 3


def test_one_more_server_than_places_is_refused_once_all_are_heard(run):
    everybody = (100, 101, 102)
    assert "waiting" in run.join(203, server(3), BEFORE, 9)
    go_on(run, BEFORE, 1.0, everybody)
    with pytest.raises(RefusedError, match="3 parameter servers already"):
        run.join(203, server(3), BEFORE + 1, 10)
    assert "waiting" in run.join(203, server(3), BEFORE + 1, 11)  # another attempt
    assert run.map.epoch == 1


@pytest.mark.parametrize("port", [7001, 9999])
@pytest.mark.parametrize("again", [False, True])
def test_a_server_that_was_replaced_is_refused_for_good(run, port, again):
    go_on(run, BEFORE, MEMBER_DEADLINE + 1)
    run.join(201, server(1, port), BEFORE + 16, 9)
    if again:  # the coordinator has another life
        run = restored(run)
        run.step(0.0)
        for identity, number in ((100, 0), (201, port - 7000)):
            run.join(identity, server(number), BEFORE + 17, 10)
    with pytest.raises(RefusedError) as refused:
        run.report(101, 10, {}, BEFORE + 17)
    assert refused.value.rejoin
    for _ in range(2):
        with pytest.raises(RefusedError, match=rf"127\.0\.0\.1:{port} took its place; .* --snapshots folder"):
            run.join(101, server(1), BEFORE + 17, 11)
    assert places(run)[1] == (201, str(port))


def test_two_servers_are_replaced_in_any_order(run):
    go_on(run, BEFORE, 4)
    run.join(202, server(2), BEFORE + 4, 9)
    run.join(201, server(1), BEFORE + 4, 9)
    assert places(run) == [(100, "7000"), (201, "7001"), (202, "7002")]
    go_on(run, BEFORE + 4, 4)
    run.join(301, server(1), BEFORE + 8, 9)  # and once more
    assert places(run) == [(100, "7000"), (301, "7001"), (202, "7002")]
    assert run.map.epoch == 4
    for identity in (101, 102, 201):
        with pytest.raises(RefusedError, match="took its place"):
            run.join(identity, server(1), BEFORE + 8, 20)


def test_a_server_with_its_identity_comes_back_to_its_place_whenever_nobody_took_it(run):
    go_on(run, BEFORE, MEMBER_DEADLINE + 1)
    assert 101 not in run.roster.members
    assert run.join(101, server(1), BEFORE + 16, 9)["map"]["epoch"] == 1
    assert "waiting" not in run.join(102, server(0, 9999), BEFORE + 16, 9)  # at a new port
    assert places(run) == [(100, "7000"), (101, "7001"), (102, "9999")]


def test_a_coordinator_with_its_snapshot_gives_servers_the_time_to_come_back(run):
    again = restored(run)
    again.step(500.0)
    assert "waiting" not in again.join(100, server(0), 500.0, 9)
    assert "waiting" in again.join(201, server(1), 500.0, 9)
    assert "waiting" in again.join(203, server(3), 500.0, 9)
    listen(again, 500.0, 503.5, heard=(100,))
    assert "waiting" not in again.join(201, server(1), 503.5, 10)
    assert "waiting" in again.join(203, server(3), 503.5, 10)
    assert places(again) == [(100, "7000"), (201, "7001"), (102, "7002")]
    assert "waiting" not in again.join(102, server(2), 504.0, 9)


def test_a_coordinator_without_its_snapshot_learns_who_had_which_place():
    told = {"epoch": 4, "servers": [[100, "127.0.0.1:7000"], [101, "127.0.0.1:7001"], [102, "127.0.0.1:7002"]]}
    again = Coordinator(run=8, expected=3)
    again.step(0.0)
    again.join(200, server(0), 0.0, 1)  # the first server is another one at the same address
    again.join(102, server(2), 0.0, 1)
    assert "2 of 3" in again.join(1, {**facts(), "run": 5, "map": told}, 0.0, 1)["waiting"]
    again.join(301, server(1, 9999), 0.0, 1)  # was killed too, and comes at a new port
    news = again.join(1, {**facts(), "run": 5, "epoch": 1, "map": told}, 0.0, 1)
    assert (news["run"], news["epoch"]) == (5, 1)
    assert places(again) == [(200, "7000"), (301, "9999"), (102, "7002")]
    assert again.map.epoch == 5  # who asks with the map of before is told that it has changed


def test_a_map_of_another_run_does_not_count():
    told = {"epoch": 4, "servers": [[0, "127.0.0.1:0"]]}
    coordinator = begin(replicas=0)
    coordinator.join(1, {**facts(), "run": 0, "map": told}, 0.0, 1)
    assert places(coordinator) == [(100, "7000")]
    assert coordinator.map.epoch == 1


@pytest.mark.parametrize("told", [5, [], {}, {"epoch": 0, "servers": []}, {"epoch": 1 << 32, "servers": []},
                                  {"epoch": 1, "servers": [5]}, {"epoch": 1, "servers": [["x", "y"]]}])  # fmt: skip
def test_a_map_that_is_none_is_refused(told):
    with pytest.raises(RefusedError, match="map is"):
        begin(replicas=0).join(1, {**facts(), "run": 5, "map": told}, 0.0, 1)


def test_before_the_map_is_made_a_run_has_no_more_servers_than_it_expects():
    coordinator = begin(servers=2, replicas=0)
    assert "waiting" in coordinator.join(201, server(1), 0.0, 9)  # the second, started again
    assert "waiting" in coordinator.join(203, server(3), 0.0, 9)
    listen(coordinator, 0.0, 3.5, heard=(100,))
    assert "waiting" not in coordinator.join(201, server(1), 3.5, 10)
    assert "waiting" in coordinator.join(203, server(3), 3.5, 10)
    listen(coordinator, 3.5, 4.5, heard=(100, 201))
    with pytest.raises(RefusedError, match="2 parameter servers already"):
        coordinator.join(203, server(3), 4.5, 11)
    coordinator.join(1, facts(), 4.5)
    assert places(coordinator) == [(100, "7000"), (201, "7001")]


def test_a_server_that_left_keeps_its_place_for_a_while(run):
    run.leave(101)
    assert [member["identity"] for member in run.state(BEFORE)["missing"]] == [101]
    assert "waiting" in run.join(203, server(3), BEFORE, 9)
    go_on(run, BEFORE, MEMBER_DEADLINE + 1, (100, 102, 1, 2))
    assert "waiting" not in run.join(203, server(3), BEFORE + 16, 10)
    assert run.state(BEFORE + 16)["missing"] == []


@pytest.mark.parametrize("seed", range(40))
def test_whoever_is_killed_and_started_again_the_map_ends_with_the_living(seed):
    random = np.random.default_rng(seed)
    coordinator, ports = begin(servers=3, replicas=1), itertools.count(8000)
    living = {0: (100, 7000), 1: (101, 7001), 2: (102, 7002)}  # place in the test's mind -> identity, port
    ended, replaced, refused, sequence, fresh = set(), set(), [], 10, 200
    for now in np.arange(0, 240, 0.5):
        coordinator.step(float(now))
        if now < 150 and random.random() < 0.08:  # killed, and started again: with its identity, or as another
            victim = int(random.integers(1, 3))
            identity, port = living[victim]
            port = port if random.random() < 0.6 else next(ports)
            if random.random() < 0.6:
                ended.add(identity)
                identity = fresh = fresh + 1
            living[victim] = (identity, port)
        for identity, port in (*living.values(), *((each, 7001) for each in ended & replaced)):
            sequence += 1
            member = coordinator.roster.members.get(identity)
            try:
                if member is None or member.address != f"127.0.0.1:{port}":
                    coordinator.join(identity, server(0, port), float(now), sequence << 32)
                else:
                    coordinator.report(identity, member.sequence + 1, {}, float(now))
            except RefusedError as error:
                refused.append((identity, str(error)))
        member = coordinator.roster.members[1]
        coordinator.report(1, member.sequence + 1, {"epoch": 0}, float(now))
        replaced |= coordinator.places.replaced.keys()
    assert sorted(places(coordinator)) == sorted((identity, str(port)) for identity, port in living.values())
    assert not coordinator.roster.missing
    assert {identity for identity, _ in refused} <= ended, refused


def test_places_are_kept_in_a_snapshot(run):
    go_on(run, BEFORE, 4)
    run.join(201, server(1), BEFORE + 4, 9)
    again = restored(run)
    assert (
        again.map
        == run.map
        == BucketMap(
            2,
            tuple(
                ServerPlace(*place)
                for place in ((100, "127.0.0.1:7000"), (201, "127.0.0.1:7001"), (102, "127.0.0.1:7002"))
            ),
        )
    )
    assert again.places.replaced == {101: "127.0.0.1:7001"}
