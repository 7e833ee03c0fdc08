"""Replicas that are cut off when the run ends: the servers stay for them, as long as they may come back."""

from __future__ import annotations

import pytest

from adam_mp.params.run.roster import RETURNING
from adam_mp.transport.refusal import RefusedError
from tests.params.run.test_coordinator import begin, facts, listen, restored

ENDS = 30.0  # when the run is done; replica 2 was heard 20 s before


def stay_for(coordinator):
    """For how many replicas a parameter server is told to stay."""
    return coordinator.report(101, coordinator.roster.members[101].sequence + 1, {}, ENDS)["replicas"]


def end(coordinator):
    """Have replica 1 train the only epoch, and leave."""
    coordinator.report(1, 1000, {"epoch": 0, "trained": list(range(10))}, ENDS)
    assert coordinator.phase == "done"
    coordinator.leave(1)


@pytest.fixture
def run():
    """A run that ends with the next epoch; replica 2 was silent for 20 s."""
    coordinator = begin(servers=2, epochs=1)
    listen(coordinator, 0.0, 10.0, heard=(1, 2, 100, 101))
    assert listen(coordinator, 10.0, ENDS, heard=(1, 100, 101)) == [2]
    return coordinator


def test_servers_stay_for_a_replica_that_is_cut_off_while_the_run_ends(run):
    end(run)
    assert stay_for(run) == 1
    assert "replica, which is silent" in run.awaited
    listen(run, ENDS, 60.0, heard=(100, 101))
    assert stay_for(run) == 1
    news = run.join(2, {**facts(epochs=1), "run": 5, "epoch": 0}, 60.0, 1)
    assert (news["phase"], news["epoch"], [entry["epoch"] for entry in news["finished"]]) == ("done", 1, [0])
    assert news["leader"]
    listen(run, 60.0, 200.0, heard=(2, 100, 101))  # it has much to push
    assert stay_for(run) == 1
    run.leave(2)
    assert stay_for(run) == 0
    assert run.awaited is None


def test_servers_do_not_stay_for_ever(run):
    end(run)
    listen(run, ENDS, 10.0 + RETURNING - 1, heard=(100, 101))
    assert stay_for(run) == 1
    listen(run, 10.0 + RETURNING - 1, 10.0 + RETURNING + 1, heard=(100, 101))
    assert stay_for(run) == 0
    assert run.awaited is None


def test_a_replica_that_is_silent_for_a_moment_when_the_run_ends_is_waited_for_as_long():
    coordinator = begin(servers=2, epochs=1)
    coordinator.report(2, 1, {"epoch": 0}, ENDS)
    end(coordinator)
    assert listen(coordinator, ENDS, ENDS + 20, heard=(100, 101)) == [2]
    assert stay_for(coordinator) == 1
    listen(coordinator, ENDS + 20, ENDS + RETURNING + 1, heard=(100, 101))
    assert stay_for(coordinator) == 0


@pytest.mark.parametrize("who", [2, 100])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_replica_that_left_or_is_said_to_be_dead_is_not_waited_for(run, who, when):
    if when == "before":
        run.leave(who, {"member": 2})
    end(run)
    if when == "after":
        assert stay_for(run) == 1
        run.leave(who, {"member": 2})
    assert stay_for(run) == 0


def test_after_a_restart_replicas_of_before_may_be_cut_off_too():
    again = restored(begin(servers=2, replicas=3, epochs=1))
    again.step(0.0)
    for identity in (100, 101):
        again.join(identity, {"role": "params", "address": f"127.0.0.1:{6900 + identity}"}, 0.0, 1)
    again.join(1, {**facts(epochs=1), "run": 5}, 0.0, 1)
    again.leave(3)
    end(again)
    assert stay_for(again) == 1
    listen(again, 0.0, RETURNING + 1, heard=(100, 101))
    assert stay_for(again) == 0


def test_the_identity_of_a_missing_server_is_no_replicas():
    coordinator = begin(servers=2)
    coordinator.leave(101)
    with pytest.raises(RefusedError, match="has the role params, and joins as replica"):
        coordinator.join(101, facts(), 0.0, 1)
