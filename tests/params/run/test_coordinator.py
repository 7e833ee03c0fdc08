"""The coordinator without a network: every batch counts once, whoever dies, and whatever arrives twice."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adam_mp.memory.ledger import FREE, LEASED, TRAINED
from adam_mp.params.run import update_counts
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.member import MEMBER_DEADLINE
from adam_mp.params.run.news import ENDED, EndedEpoch
from adam_mp.report.cluster_text import cluster_text
from adam_mp.transport.refusal import RefusedError

LAYOUT = [["w", [10, 10]], ["b", [10]]]


def facts(**more):
    run = {"layout": LAYOUT, "images": 95, "batch_size": 10, "epochs": 3, "quorum": 1.0, "agreed": {"lr": 0.1}}
    return {"role": "replica", "facts": {**run, **more}}


def begin(servers=1, replicas=2, **more):
    coordinator = Coordinator(run=5, expected=servers)
    coordinator.step(0.0)
    for number in range(servers):
        coordinator.join(100 + number, {"role": "params", "address": f"127.0.0.1:{7000 + number}"}, 0.0)
    for number in range(replicas):
        coordinator.join(1 + number, facts(**more), 0.0)
    return coordinator


def restored(coordinator):
    """Another process takes up the coordinator's snapshot."""
    return Coordinator.restored(json.loads(json.dumps(coordinator.snapshot())))


def listen(coordinator, since, until, heard=()):
    """Let the coordinator look for messages from `since` until `until`, each second, and hear these members each time.

    Return who was taken for dead.
    """
    silent = []
    for now in np.arange(since, until + 0.25, 0.5):
        silent += [member.identity for member in coordinator.step(float(now))]
        for identity in heard:
            member = coordinator.roster.members[identity]
            coordinator.report(identity, member.sequence + 1, {"epoch": member.epoch}, float(now))
    return silent


def test_a_replica_waits_for_the_servers():
    coordinator = Coordinator(run=5, expected=2)
    assert "0 of 2" in coordinator.join(1, facts(), 0.0)["waiting"]
    coordinator.join(100, {"role": "params", "address": "127.0.0.1:1"}, 0.0)
    assert "1 of 2" in coordinator.join(1, facts(), 0.0)["waiting"]
    coordinator.join(101, {"role": "params", "address": "127.0.0.1:2"}, 0.0)
    welcome = coordinator.join(1, facts(), 0.0)
    assert welcome["run"] == 5
    assert [address for _, address in welcome["map"]["servers"]] == ["127.0.0.1:1", "127.0.0.1:2"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"agreed": {"lr": 0.2}}, "lr 0.2, the run has 0.1"),
        ({"epochs": 9}, "epochs 9, the run has 3"),
        ({"layout": [["w", [10, 11]], ["b", [10]]]}, "another network: w 10x11, the run has w 10x10"),
        ({"layout": [*LAYOUT, ["c", [3]]]}, "another network: c 3, the run has no more"),
        ({"images": "many"}, "malformed"),
        ({"layout": [["w", [0]]]}, "empty tensor"),
        ({"layout": "w"}, "malformed"),
    ],
)
def test_a_replica_that_differs_is_refused(more, message):
    coordinator = begin(replicas=1)
    with pytest.raises(Exception, match=message):
        coordinator.join(2, facts(**more), 0.0)
    assert len(coordinator.roster.members) == 2


def done(news):
    """The batches that an answer says are trained."""
    return np.flatnonzero(np.unpackbits(np.frombuffer(bytes.fromhex(news["done"]), np.uint8))[:10]).tolist()


def test_a_replica_that_asks_learns_what_is_trained():
    coordinator = begin()
    coordinator.report(2, 1, {"epoch": 0, "trained": [0, 8], "wanted": 2}, 0.0)
    news = coordinator.report(1, 1, {"epoch": 0, "trained": [9], "states": True}, 0.0)
    assert done(news) == [0, 8, 9]
    assert news["trained"] == 25
    for facts_given in ({"epoch": 0}, {"epoch": 1, "states": True}, {"epoch": 0, "states": "yes"}):
        sequence = coordinator.roster.members[1].sequence + 1
        assert "done" not in coordinator.report(1, sequence, facts_given, 0.0)
    assert "done" not in coordinator.report(100, 1, {"states": True}, 0.0)
    last = coordinator.report(2, 2, {"epoch": 0, "trained": [1, 2, 3, 4, 5, 6, 7], "states": True}, 0.0)
    assert (last["epoch"], "done" in last) == (1, False)


def test_the_first_replica_brings_what_its_checkpoint_has():
    coordinator = begin(replicas=0)
    coordinator.report(100, 1, {}, 0.0)
    news = coordinator.join(1, {**facts(), "epoch": 2, "trained": [0, 1, 9]}, 0.0, 1)
    assert (news["run"], news["epoch"], news["trained"]) == (5, 2, 25)
    other = {**facts(), "epoch": 2, "trained": [0, 5]}  # it resumes too, but the servers have not its weights
    assert coordinator.join(2, other, 0.0, 1)["trained"] == 25
    granted = coordinator.report(2, 2, {"epoch": 2, "wanted": 10, "states": True}, 0.0)
    assert done(granted) == [0, 1, 9]
    assert granted["granted"] == [2, 3, 4, 5]
    coordinator.report(1, 2, {"epoch": 2, "trained": [2, 3, 4, 5, 6, 7, 8]}, 0.0)
    assert coordinator.course.finished == [EndedEpoch(epoch=2, trained=95)]


def test_an_epoch_that_a_checkpoint_has_whole_is_ended_by_a_replica_that_opened_it():
    coordinator = begin(replicas=0)
    news = coordinator.join(1, {**facts(), "epoch": 0, "trained": list(range(10))}, 0.0, 1)
    assert (news["epoch"], news["trained"], news["finished"]) == (0, 95, [])
    coordinator.report(100, 1, {}, 0.0)  # a parameter server's
    assert coordinator.course.finished == []
    news = coordinator.report(1, 2, {"epoch": 0}, 0.0)
    assert (news["epoch"], news["finished"]) == (
        1,
        [{"epoch": 0, "trained": 95, "skipped": 0, "failed": 0, "twice": 0}],
    )


def test_who_was_in_a_run_that_is_done_may_come_back_to_it():
    coordinator = begin(replicas=2, epochs=1)
    coordinator.report(1, 1, {"epoch": 0, "trained": list(range(10))}, 1.0)
    coordinator.leave(2)  # it was silent, say
    back = {**facts(epochs=1), "run": coordinator.run, "epoch": 1}
    news = coordinator.join(2, back, 2.0)
    assert (news["phase"], news["epoch"]) == ("done", 1)
    with pytest.raises(RefusedError, match="the run is done"):
        coordinator.join(3, facts(epochs=1), 2.0)


def test_a_report_that_comes_twice_counts_once():
    coordinator = begin()
    first = coordinator.report(1, 1, {"epoch": 0, "wanted": 2}, 1.0)
    assert coordinator.report(1, 1, {"epoch": 0, "wanted": 2}, 1.5) == first
    assert np.count_nonzero(coordinator.course.batches.states == LEASED) == len(first["granted"]) == 2


def test_what_a_silent_replica_leased_is_free_again():
    coordinator = begin()
    granted = coordinator.report(1, 1, {"epoch": 0, "wanted": 2}, 1.0)["granted"]
    assert listen(coordinator, 1.0, 2.0 + MEMBER_DEADLINE, heard=(2, 100)) == [1]
    assert all(coordinator.course.batches.states[batch] == FREE for batch in granted)
    with pytest.raises(RefusedError) as refused:
        coordinator.report(1, 2, {"epoch": 0, "trained": granted}, 20.0)
    assert refused.value.rejoin
    news = coordinator.join(1, {**facts(), "run": 5, "epoch": 0, "trained": granted, "leased": []}, 21.0)
    assert news["trained"] == 20


def test_the_oldest_replica_leads():
    coordinator = begin()
    assert coordinator.report(1, 1, {"epoch": 0}, 0.0)["leader"]
    assert not coordinator.report(2, 1, {"epoch": 0}, 0.0)["leader"]
    coordinator.leave(1)
    assert coordinator.report(2, 2, {"epoch": 0}, 0.0)["leader"]


def test_the_epoch_ends_at_the_quorum():
    coordinator = begin(quorum=0.5)
    coordinator.report(1, 1, {"epoch": 0, "trained": [0, 1, 2, 3]}, 0.0)
    assert coordinator.course.epoch == 0
    news = coordinator.report(2, 1, {"epoch": 0, "trained": [9]}, 0.0)  # the last batch has 5 images
    assert coordinator.course.epoch == 0
    news = coordinator.report(2, 2, {"epoch": 0, "trained": [4], "wanted": 3}, 0.0)
    assert (news["epoch"], news["granted"]) == (1, [])
    assert news["finished"] == [{"epoch": 0, "trained": 55, "skipped": 40, "failed": 0, "twice": 0}]
    late = coordinator.report(1, 2, {"epoch": 0, "trained": [5]}, 0.0)
    assert late["epoch"] == 1
    assert coordinator.course.batches.images_in(TRAINED) == 0


@pytest.mark.parametrize("batches", [[10], [-1], ["a"], [True], "all", {"0": 1}, [0.5]])
def test_batches_that_are_none_are_refused(batches):
    coordinator = begin()
    with pytest.raises(RefusedError, match="no batches"):
        coordinator.report(1, 1, {"epoch": 0, "trained": batches}, 0.0)


def test_others_updates_are_told_and_outlive_their_replica():
    coordinator = begin()
    coordinator.report(1, 1, {"epoch": 0, "statistics": {"updates": 7}}, 0.0)
    assert coordinator.report(2, 1, {"epoch": 0, "statistics": {"updates": 3}}, 0.0)["updates"] == 7
    coordinator.leave(1)
    assert coordinator.report(2, 2, {"epoch": 0, "statistics": {"updates": 4}}, 0.0)["updates"] == 7


def test_a_replica_taken_for_dead_that_comes_back_counts_its_updates_once():
    coordinator = begin()
    coordinator.report(1, 1, {"epoch": 0, "statistics": {"updates": 7}}, 0.0)
    coordinator.leave(1)
    coordinator = Coordinator.restored(json.loads(json.dumps(coordinator.snapshot())))
    coordinator.join(2, {**facts(), "run": 5}, 1.0)
    assert coordinator.report(2, 1, {"epoch": 0}, 1.0)["updates"] == 7
    coordinator.join(1, {**facts(), "run": 5}, 2.0)
    coordinator.report(1, 1, {"epoch": 0, "statistics": {"updates": 8}}, 3.0)
    assert coordinator.report(2, 2, {"epoch": 0}, 3.0)["updates"] == 8


def test_a_server_that_moves_makes_a_new_map():
    coordinator = begin(servers=2)
    assert coordinator.map.epoch == 1
    moved = {"role": "params", "address": "127.0.0.1:9999"}
    assert "heard at 127.0.0.1:7001 less than 3 s ago" in coordinator.join(101, moved, 1.0, 9)["waiting"]
    assert coordinator.map.epoch == 1
    listen(coordinator, 1.0, 3.5)
    assert coordinator.join(101, moved, 3.5, 10)["map"]["servers"][1] == [101, "127.0.0.1:9999"]
    assert coordinator.map.epoch == 2
    assert coordinator.map.servers[1].address == "127.0.0.1:9999"


def test_a_second_server_with_the_identity_of_a_living_one_is_refused():
    for servers in (2, 3):  # with a map, and before there is one
        coordinator = begin(servers=2, replicas=0)
        coordinator.places.expected = servers
        if servers == 2:
            coordinator.join(1, facts(), 0.0)
        second = {"role": "params", "address": "127.0.0.1:9999"}
        assert "waiting" in coordinator.join(101, second, 0.5, 9)
        assert "waiting" in coordinator.join(101, second, 0.6, 10)
        coordinator.step(0.65)
        coordinator.report(101, 1, {}, 0.7)
        with pytest.raises(RefusedError, match=r"127\.0\.0\.1:9999 has the identity of the one at 127\.0\.0\.1:7001"):
            coordinator.join(101, second, 0.8, 11)
        assert coordinator.roster.members[101].address == "127.0.0.1:7001"
        coordinator.report(101, 2, {}, 0.9)


LIFE = 1 << 32  # of a sequence: that of another process than the one that joined


@pytest.mark.parametrize(("sender", "sequence"), [(7, 0), (7, LIFE), (2, LIFE), (100, LIFE + 1)])
def test_who_is_no_member_says_of_nobody_that_it_goes(sender, sequence):
    """Names of members are shown to who asks for the status; the life that their sequences have is not."""
    coordinator = begin(servers=2)
    for named in ({"member": 1}, {"member": 2}, {}):
        with pytest.raises(RefusedError, match="no member itself"):
            coordinator.leave(sender, named, sequence)
    assert {1, 2, 100, 101} <= set(coordinator.roster.members)
    coordinator.leave(2, {"member": 1})
    assert 1 not in coordinator.roster.members


def test_servers_are_told_who_the_replicas_are():
    coordinator = begin(servers=2)
    assert sorted(coordinator.report(101, 1, {}, 1.0)["senders"]) == [1, 2]
    coordinator.leave(1)
    assert coordinator.report(101, 2, {}, 1.0)["senders"] == [2]
    assert coordinator.report(2, 1, {"epoch": 0}, 1.0)["senders"] == []
    assert [coordinator.is_replica(identity) for identity in (1, 2, 100, 7)] == [False, True, False, False]


def test_lines_tell_how_the_run_goes():
    coordinator = begin(servers=2, replicas=0, epochs=1)
    assert Coordinator(run=5, expected=2).awaited == "2 more parameter servers"
    assert Coordinator(run=5, expected=1).awaited == "1 more parameter server"
    assert coordinator.awaited == "the first replica"
    for identity in (1, 2):
        coordinator.join(identity, {**facts(epochs=1), "name": f"replica {identity}"}, 2.0)
    assert coordinator.awaited is None
    coordinator.leave(2, {"member": 1})
    assert coordinator.awaited is None
    coordinator.report(2, 1, {"epoch": 0, "trained": list(range(10))}, 4.5)
    listen(coordinator, 4.5, 22.0, heard=(100, 101))
    assert coordinator.awaited == "replica 2, which is silent: it may be back within 60 s of its last word"
    coordinator.leave(100)
    coordinator.leave(101, {"member": 2})
    assert list(coordinator.notices)[2:] == [
        "replica 1 joined",
        "replica 2 joined",
        "replica 1 died",
        "epoch 1 of 1: 95 images in 2.5 s",
        "the run is done",
        "replica 2 is silent: what it had leased is free again",
        "params left",
        "replica 2 died",
    ]
    assert coordinator.awaited is None


def test_weights_that_the_machine_cannot_hold_are_refused():
    coordinator = Coordinator(run=5, expected=2, room=lambda: 1 << 20)
    for number in range(2):
        coordinator.join(100 + number, {"role": "params", "address": f"127.0.0.1:{number}"}, 0.0)
    with pytest.raises(RefusedError, match=r"2\.0 MB for each of 2 parameter servers, and the first has 1\.0 MB free"):
        coordinator.join(1, facts(layout=[["w", [1000, 1000]]]), 0.0)
    assert coordinator.phase == "waiting"
    coordinator.join(1, facts(layout=[["w", [500, 1000]]]), 0.0)
    with pytest.raises(RefusedError, match="longer rows than a message holds"):
        coordinator.join(1, facts(layout=[["w", [1, 1 << 30]]]), 0.0)


def test_of_replicas_that_left_long_ago_only_the_sum_is_kept(monkeypatch):
    monkeypatch.setattr(update_counts, "_MOST_DEPARTED", 5)
    coordinator = begin(replicas=1)
    for identity in range(10, 20):
        coordinator.join(identity, facts(), 0.0, 1)
        coordinator.report(identity, 2, {"epoch": 0, "statistics": {"updates": identity}}, 0.0)
        coordinator.leave(identity)
    assert coordinator.updates.departed == {0: 10 + 11 + 12 + 13 + 14, 15: 15, 16: 16, 17: 17, 18: 18, 19: 19}
    assert coordinator.report(1, 1, {"epoch": 0}, 0.0)["updates"] == sum(range(10, 20))


def test_a_restarted_coordinator_goes_on_where_the_snapshot_and_the_replicas_say():
    coordinator = begin()
    granted = coordinator.report(1, 1, {"epoch": 0, "wanted": 2}, 0.0)["granted"]
    coordinator.report(2, 1, {"epoch": 0, "trained": [5, 6]}, 0.0)
    again = Coordinator.restored(json.loads(json.dumps(coordinator.snapshot())))
    assert (again.run, again.course.epoch, again.course.batches.images_in(TRAINED)) == (5, 0, 20)
    with pytest.raises(RefusedError) as refused:
        again.report(1, 2, {"epoch": 0}, 1.0)
    assert refused.value.rejoin
    again.join(1, {**facts(), "run": 5, "epoch": 0, "trained": [7], "leased": granted}, 1.0)
    assert again.course.batches.images_in(TRAINED) == 30
    assert np.count_nonzero(again.course.batches.states == LEASED) == 2
    ahead = Coordinator.restored(json.loads(json.dumps(coordinator.snapshot())))
    over = [{"epoch": epoch, "trained": 95, "skipped": 0, "failed": 0, "twice": 0} for epoch in range(2)]
    ahead.join(2, {**facts(), "run": 5, "epoch": 2, "trained": [0], "leased": [], "finished": over}, 1.0)
    assert (ahead.course.epoch, ahead.course.batches.images_in(TRAINED)) == (2, 10)
    assert ENDED.write(ahead.course.finished) == over
    assert ahead.join(1, {**facts(), "run": 5, "epoch": 1}, 1.0)["finished"] == over[1:]


def test_no_batch_is_leased_again_before_all_replicas_have_told_what_they_have():
    again = restored(begin())
    again.step(0.0)
    again.join(1, {**facts(), "run": 5, "leased": [0]}, 0.1, 1)
    assert again.report(1, 2, {"epoch": 0, "wanted": 2}, 0.1)["granted"] == []
    again.join(2, {**facts(), "run": 5, "trained": [1, 2], "leased": [3]}, 0.2, 1)
    assert again.report(1, 3, {"epoch": 0, "wanted": 2}, 0.2)["granted"] == [4, 5]
    assert again.course.batches.twice == 0


def test_batches_of_a_replica_that_does_not_come_back_are_leased_after_some_seconds():
    again = restored(begin())
    again.step(0.0)
    again.join(1, {**facts(), "run": 5}, 0.1, 1)
    assert again.report(1, 2, {"epoch": 0, "wanted": 2}, 0.1)["granted"] == []
    listen(again, 0.5, 6.0, heard=[1])
    assert again.report(1, 100, {"epoch": 0, "wanted": 2}, 6.0)["granted"] == [0, 1]


def test_a_coordinator_restarted_in_the_last_epoch_is_told_that_the_run_is_done():
    coordinator = begin()
    epochs = coordinator.course.facts.epochs
    for epoch in range(epochs - 1):
        coordinator.report(1, epoch + 1, {"epoch": epoch, "trained": list(range(10))}, 0.0)
    again = Coordinator.restored(json.loads(json.dumps(coordinator.snapshot())))
    assert again.phase == "training"
    over = [{"epoch": epochs - 1, "trained": 95, "skipped": 0, "failed": 0, "twice": 0}]
    news = again.join(1, {**facts(), "run": 5, "epoch": epochs, "finished": over}, 1.0)
    assert (news["epoch"], again.phase, again.changed) == (epochs, "done", True)
    assert [entry.epoch for entry in again.course.finished] == list(range(epochs))


def test_another_leads_at_the_end_of_a_run_whose_leader_is_not_back():
    coordinator = begin()
    last = coordinator.course.facts.epochs - 1
    for epoch in range(last):
        coordinator.report(1, epoch + 1, {"epoch": epoch, "trained": list(range(10))}, 0.0)
    again = Coordinator.restored(json.loads(json.dumps(coordinator.snapshot())))
    for identity in (3, 4):
        assert not again.join(identity, {**facts(), "epoch": last}, 1.0, 1)["leader"]
    assert again.report(3, 2, {"epoch": last, "trained": list(range(10))}, 1.0)["leader"]
    assert not again.report(4, 2, {"epoch": last}, 1.0)["leader"]
    assert again.join(1, {**facts(), "run": 5, "epoch": last + 1}, 1.0, 1)["leader"]  # it has the model too


def test_updates_that_a_checkpoint_counts_are_the_runs_once():
    coordinator = begin(replicas=0)
    resumed = {**facts(), "epoch": 1, "updates": 500}
    for _ in range(2):  # the second time, the answer was lost
        assert coordinator.join(1, resumed, 0.0, 1)["updates"] == 500
    assert coordinator.join(2, facts(), 0.0, 1)["updates"] == 500
    assert coordinator.report(1, 2, {"epoch": 1, "statistics": {"updates": 20}}, 0.0)["updates"] == 500
    assert coordinator.report(2, 2, {"epoch": 1, "statistics": {"updates": 10}}, 0.0)["updates"] == 520
    assert coordinator.join(3, {**resumed, "updates": 525}, 0.0, 1)["updates"] == 530  # made before it was stopped
    ahead = {**resumed, "epoch": 2, "updates": 900}  # of weights that the servers do not have
    assert coordinator.join(4, ahead, 0.0, 1)["updates"] == 530


def test_a_restarted_coordinator_knows_the_updates_of_all():
    coordinator = begin()
    coordinator.report(1, 1, {"epoch": 0, "statistics": {"updates": 300}}, 0.0)
    coordinator.report(2, 1, {"epoch": 0, "statistics": {"updates": 200}}, 0.0)
    again = Coordinator.restored(json.loads(json.dumps(coordinator.snapshot())))
    assert again.join(3, {**facts(), "updates": 450}, 1.0)["updates"] == 500  # whether they come back or not
    back = again.join(1, {**facts(), "run": 5, "updates": 100}, 1.0)  # what it came with, when it came first
    assert back["updates"] == 200
    assert again.join(4, {**facts(), "updates": 470}, 1.0)["updates"] == 500
    assert again.report(3, 1, {"epoch": 0}, 1.0)["updates"] == 500


@pytest.mark.parametrize("finished", [[5], [{"epoch": -1}], [{"epoch": 0, "trained": "all"}], [{"epoch": 0.5}]])
def test_epochs_that_are_none_are_refused(finished):
    coordinator = begin()
    with pytest.raises(RefusedError):
        coordinator.join(1, {**facts(), "run": 5, "epoch": 1, "finished": finished}, 1.0)


def test_a_replica_that_was_away_learns_of_every_epoch_that_ended():
    coordinator = begin(quorum=0.5)
    for epoch in range(2):
        coordinator.report(1, epoch + 1, {"epoch": epoch, "trained": [0, 1, 2, 3, 4]}, 0.0)
    assert [entry["epoch"] for entry in coordinator.report(2, 1, {"epoch": 0}, 0.0)["finished"]] == [0, 1]
    assert [entry["epoch"] for entry in coordinator.report(2, 2, {"epoch": 1}, 0.0)["finished"]] == [1]


def test_a_leader_keeps_its_place_while_the_coordinator_is_restarted():
    coordinator = begin()
    again = Coordinator.restored(json.loads(json.dumps(coordinator.snapshot())))
    again.step(50.0)
    assert not again.join(2, {**facts(), "run": 5, "epoch": 0}, 51.0)["leader"]  # first, but it did not lead
    assert again.join(1, {**facts(), "run": 5, "epoch": 0}, 52.0)["leader"]
    lost = Coordinator.restored(json.loads(json.dumps(coordinator.snapshot())))
    lost.step(50.0)
    lost.join(2, {**facts(), "run": 5, "epoch": 0}, 51.0)
    listen(lost, 51.0, 50.5 + MEMBER_DEADLINE, heard=(2,))
    assert lost.report(2, 1, {"epoch": 0}, 66.0)["leader"]


@given(st.integers(0, 2**32 - 1), st.floats(0.3, 1.0))
@settings(max_examples=60)
def test_every_image_is_counted_once_whatever_happens(seed, quorum):
    random = np.random.default_rng(seed)
    coordinator = begin(replicas=3, quorum=quorum)
    held = {identity: [] for identity in (1, 2, 3)}
    epochs, sequences, now = dict.fromkeys(held, 0), dict.fromkeys(held, 0), 0.0
    for _ in range(2000):
        if coordinator.phase == "done":
            break
        now += float(random.exponential(0.3))
        coordinator.report(100, coordinator.roster.members[100].sequence + 1, {}, now)
        identity = int(random.integers(1, 4))
        if random.random() < 0.02:  # it dies, and another comes in its place
            coordinator.leave(identity)
            held[identity], sequences[identity] = [], 0
            epochs[identity] = coordinator.join(identity, facts(quorum=quorum), now)["epoch"]
            continue
        coordinator.step(now)
        trained = [batch for batch in held[identity] if random.random() < 0.5]
        report = {"epoch": epochs[identity], "trained": trained, "wanted": int(random.integers(0, 4))}
        sequences[identity] += 1
        try:
            news = coordinator.report(identity, sequences[identity], report, now)
            if random.random() < 0.3:
                assert coordinator.report(identity, sequences[identity], report, now) == news
        except RefusedError:
            held[identity], sequences[identity] = [], 0
            epochs[identity] = coordinator.join(identity, facts(quorum=quorum), now)["epoch"]
            continue
        held[identity] = [batch for batch in held[identity] if batch not in trained] + news["granted"]
        if news["epoch"] != epochs[identity]:
            epochs[identity], held[identity] = news["epoch"], []
        leased = [batch for batches in held.values() for batch in batches]
        current = [b for i, batches in held.items() if epochs[i] == coordinator.course.epoch for b in batches]
        assert len(current) == len(set(current)), leased
    assert coordinator.phase == "done"
    for entry in coordinator.course.finished:
        assert entry.trained + entry.skipped == 95
        assert entry.trained >= quorum * 95
        assert entry.twice == 0


def test_a_join_that_comes_twice_has_no_effect():
    coordinator = begin()
    coordinator.join(1, facts(), 1.0, 5)
    granted = coordinator.report(1, 6, {"epoch": 0, "wanted": 2}, 1.0)["granted"]
    coordinator.join(1, facts(), 1.0, 5)
    assert coordinator.report(1, 6, {"epoch": 0, "wanted": 2}, 1.0)["granted"] == granted
    assert [batch for batch in range(10) if coordinator.course.batches.states[batch] == LEASED] == granted


def test_another_process_with_the_same_identity_has_sequences_of_its_own():
    coordinator = begin()
    before, after = 9 << 32, 3 << 32
    coordinator.join(1, facts(), 1.0, before + 1)
    coordinator.report(1, before + 900, {"epoch": 0, "wanted": 2}, 1.0)
    coordinator.join(1, facts(), 2.0, after + 1)
    assert not (coordinator.course.batches.states == LEASED).any()  # it knows of no batches
    with pytest.raises(RefusedError) as refused:
        coordinator.report(1, before + 901, {"epoch": 0, "wanted": 2}, 2.0)
    assert refused.value.rejoin
    assert len(coordinator.report(1, after + 2, {"epoch": 0, "wanted": 2}, 2.0)["granted"]) == 2


def test_what_a_replica_trained_is_not_twice_trained_because_it_says_so_twice():
    coordinator = begin()
    coordinator.report(1, 1, {"epoch": 0, "trained": [0, 1]}, 0.0)
    coordinator.report(2, 1, {"epoch": 0, "trained": [2]}, 0.0)
    again = Coordinator.restored(json.loads(json.dumps(coordinator.snapshot())))
    for each in (coordinator, again):
        each.join(1, {**facts(), "run": 5, "trained": [0, 1]}, 1.0)
        each.join(2, {**facts(), "run": 5, "trained": [2]}, 1.0)
        assert each.course.batches.twice == 0
        each.report(2, 9, {"epoch": 0, "trained": [1]}, 1.0)
        assert each.course.batches.twice == 1


def test_images_that_could_not_be_had_are_summed_up_over_all_replicas_and_outlive_a_restart():
    coordinator = begin()
    coordinator.report(1, 1, {"epoch": 0, "trained": [0, 1], "failed": [[1, 3]]}, 0.0)
    coordinator.report(2, 1, {"epoch": 0, "trained": [1, 9], "failed": [[1, 2], [9, 5]]}, 0.0)  # 1 is trained twice
    for each in (coordinator, Coordinator.restored(json.loads(json.dumps(coordinator.snapshot())))):
        each.join(1, {**facts(), "run": 5, "trained": [0, 1, 2], "failed": [[1, 3], [2, 1]]}, 1.0)
        news = each.join(2, {**facts(), "run": 5, "trained": [1, 9], "failed": [[1, 2], [9, 5]]}, 1.0)
        assert (news["trained"], news["failed"]) == (35, 3 + 5 + 1)
        told = each.report(1, 9, {"epoch": 0, "trained": [3, 4, 5], "failed": [[7, 1]], "states": True}, 1.0)
        assert told["failed_in"] == [[1, 3], [2, 1], [9, 5]]  # 7 is not trained
        each.report(2, 9, {"epoch": 0, "trained": [6, 7, 8], "failed": [[8, 10]]}, 1.0)
        assert ENDED.write(each.course.finished) == [
            {"epoch": 0, "trained": 95, "skipped": 0, "failed": 19, "twice": each.course.finished[0].twice}
        ]
        assert each.report(1, 10, {"epoch": 1}, 1.0)["failed"] == 0


@pytest.mark.parametrize(
    "failed",
    ["x", {}, [1], [[1]], [[1, 2, 3]], [[10, 1]], [[-1, 1]], [[0, 0]], [[0, 11]], [[9, 6]], [[0, True]], [["0", 1]]],
)
def test_images_that_no_batch_holds_are_refused(failed):
    coordinator = begin()
    with pytest.raises(RefusedError, match="is malformed"):
        coordinator.report(1, 1, {"epoch": 0, "trained": [0], "failed": failed}, 0.0)
    assert coordinator.course.batches.images_in(TRAINED) == 0


def test_a_snapshot_of_before_knows_of_no_images_that_could_not_be_had():
    coordinator = begin()
    coordinator.report(1, 1, {"epoch": 0, "trained": list(range(10))}, 0.0)
    kept = json.loads(json.dumps(coordinator.snapshot()))
    del kept["failed"], kept["finished"][0]["failed"]
    assert Coordinator.restored(kept).course.finished == coordinator.course.finished


def test_a_member_keeps_its_role():
    coordinator = begin()
    with pytest.raises(RefusedError, match="has the role replica"):
        coordinator.join(1, {"role": "params", "address": "127.0.0.1:1"}, 1.0)


def test_what_is_refused_changes_nothing():
    coordinator = Coordinator(run=5, expected=1)
    coordinator.join(100, {"role": "params", "address": "127.0.0.1:7000"}, 0.0)
    for more in ({"quorum": math.nan}, {"epoch": -1}, {"trained": [10]}, {"finished": [{}, 5]}):
        with pytest.raises(RefusedError):
            coordinator.join(1, {**facts(**more), **more}, 0.0)
        assert (coordinator.course.facts, coordinator.map, coordinator.phase) == (None, None, "waiting")


HARD = [
    1e999, math.nan, 1e15, 10**15, 2**64, -1, 0.5, 10**30, True, None, "", "\ud800", "\x1b[2J", [], {}, [[]],
]  # fmt: skip
ANYTHING = st.recursive(
    st.sampled_from(HARD) | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3),
    max_leaves=5,
)


def maybe(*good):
    """Mostly what is meant to stand there, sometimes anything."""
    return st.one_of(*(st.sampled_from(good) for _ in range(7)), ANYTHING)


def spoilt(**fields):
    """Objects with these fields, one of which may be missing."""
    return st.builds(
        lambda whole, lost: {name: value for name, value in whole.items() if name != lost},
        st.fixed_dictionaries(fields),
        st.sampled_from([None] * 20 + list(fields)),
    )


MAP = spoilt(epoch=maybe(1), servers=maybe([[100, "127.0.0.1:7000"]])) | ANYTHING
BATCHES = st.lists(st.integers(0, 9), max_size=4) | st.lists(maybe(3), max_size=2) | ANYTHING
FAILED = st.lists(st.tuples(st.integers(0, 10), st.integers(0, 11)), max_size=3) | ANYTHING
ENTRIES = st.lists(
    spoilt(epoch=maybe(0, 1), trained=maybe(95), skipped=maybe(0), failed=maybe(0, 3), twice=maybe(0)) | ANYTHING,
    max_size=3,
)
RUN = spoilt(
    layout=maybe(LAYOUT), images=maybe(95), batch_size=maybe(10), epochs=maybe(3), quorum=maybe(1.0),
    agreed=maybe({"lr": 0.1}) | st.dictionaries(st.text(max_size=5), ANYTHING, max_size=2),
)  # fmt: skip
JOIN = spoilt(
    role=maybe("replica", "replica", "params", "data"), name=maybe("a name"), address=maybe("127.0.0.1:1"),
    facts=RUN | st.just(facts()["facts"]) | ANYTHING, run=maybe(5, 0), epoch=maybe(0, 1), trained=BATCHES,
    failed=FAILED, leased=BATCHES, finished=ENTRIES, map=MAP,
)  # fmt: skip
REPORT = spoilt(
    epoch=maybe(0, 1), wanted=maybe(0, 3), trained=BATCHES, failed=FAILED,
    statistics=st.dictionaries(st.sampled_from(["updates", "bytes_in", "name", "role", "x"]), ANYTHING) | ANYTHING,
)  # fmt: skip
LEAVE = spoilt(member=maybe(1, 2, 100)) | st.just({})
MESSAGES = st.tuples(st.just("join"), JOIN) | st.tuples(st.just("report"), REPORT) | st.tuples(st.just("leave"), LEAVE)
SENDERS = st.sampled_from([0, 1, 2, 3, 100, 2**64 - 1])
SEQUENCES = st.integers(0, 5) | st.just(2**64 - 1)


@given(st.lists(st.tuples(SENDERS, SEQUENCES, MESSAGES), min_size=1, max_size=30), st.booleans())
@settings(max_examples=150, deadline=None)
def test_whatever_is_said_is_answered_or_refused(messages, began):
    coordinator = begin(replicas=2 if began else 0)
    for now, (sender, sequence, (kind, facts_given)) in enumerate(messages):
        before = (
            json.dumps(coordinator.snapshot()),
            coordinator.course.batches.states.tobytes(),
            coordinator.course.batches.holders.tobytes(),
        )
        said = json.loads(json.dumps(facts_given))
        try:
            if kind == "join":
                answer = coordinator.join(sender, said, now / 100, sequence)
            elif kind == "report":
                answer = coordinator.report(sender, sequence, said, now / 100)
            else:
                answer = coordinator.leave(sender, said)
            json.dumps(answer, allow_nan=False)
        except RefusedError:
            after = (
                json.dumps(coordinator.snapshot()),
                coordinator.course.batches.states.tobytes(),
                coordinator.course.batches.holders.tobytes(),
            )
            assert after == before
        leased = coordinator.course.batches.holders[coordinator.course.batches.states == LEASED]
        assert set(leased.tolist()) <= {m.identity for m in coordinator.roster.members.values() if m.role == "replica"}
        assert all(member.name.isprintable() for member in coordinator.roster.members.values())
    text = json.dumps(coordinator.state(1.0), allow_nan=False)
    cluster_text(json.loads(text)).encode("ascii")
    Coordinator.restored(json.loads(json.dumps(coordinator.snapshot())))


def test_a_coordinator_that_was_stopped_takes_nobody_for_dead_whose_words_it_has_not_read():
    coordinator = begin()
    granted = coordinator.report(1, 1, {"epoch": 0, "wanted": 2}, 0.0)["granted"]
    assert listen(coordinator, 0.0, 5.0, heard=(1, 2, 100)) == []
    assert not coordinator.step(65.0)  # it was stopped for a minute
    for number in range(100):  # and has much to read
        assert not coordinator.step(65.0 + number, behind=True)
    assert coordinator.report(1, 99, {"epoch": 0, "trained": granted}, 165.0)["trained"] == 20
    assert sorted(listen(coordinator, 165.0, 182.0, heard=(1,))) == [2, 100]  # those that are silent for it


def test_a_restarted_coordinator_that_is_stopped_keeps_places_for_those_who_come_back():
    again = restored(begin(servers=2))
    again.step(0.0)
    again.step(600.0)
    assert "waiting" in again.join(201, {"role": "params", "address": "127.0.0.1:7001"}, 600.0, 1)
    assert not again.join(2, {**facts(), "run": 5}, 600.0, 1)["leader"]
    assert "waiting" not in again.join(101, {"role": "params", "address": "127.0.0.1:7001"}, 600.0, 1)
    assert again.join(1, {**facts(), "run": 5}, 600.0, 1)["leader"]


def test_status_tells_which_servers_are_missing_and_who_is_silent():
    coordinator = begin(servers=2)
    listen(coordinator, 0.0, 10.0, heard=(1, 100))
    assert [m["identity"] for m in coordinator.state(10.0)["members"] if m["silent"]] == [101, 2]
    assert cluster_text(coordinator.state(10.0)).count("10.0 s ago, silent") == 2
    listen(coordinator, 10.0, 20.0, heard=(1, 100))
    coordinator.leave(2)
    state = json.loads(json.dumps(coordinator.state(20.0)))
    assert [(m["role"], m["address"], m["silent_seconds"]) for m in state["missing"]] == [
        ("params", "127.0.0.1:7001", 20.0)
    ]
    assert "missing for 20.0 s" in cluster_text(state)
    coordinator.join(101, {"role": "params", "address": "127.0.0.1:7001"}, 20.0, 1)
    assert coordinator.state(20.0)["missing"] == []
    again = restored(coordinator)
    assert [member["identity"] for member in again.state(0.0)["missing"]] == [100, 101, 1]


LIFE = 7 << 32  # of a member, in its sequences


def test_a_restarted_coordinator_knows_the_lives_of_those_that_leave_before_they_join_again():
    coordinator = begin(replicas=0)
    coordinator.join(1, facts(), 0.0, LIFE)
    coordinator.report(1, LIFE + 1, {"epoch": 0}, 0.0)
    again = restored(coordinator)
    again.step(0.0)
    with pytest.raises(RefusedError, match="is no member itself"):
        again.leave(1, None, 3)
    again.leave(1, None, LIFE + 2)
    assert [member["identity"] for member in again.state(0.0)["missing"]] == [100]


def test_addresses_are_passed_on_letter_for_letter():
    for address in ("unix:/tmp/jürgen/server-0", "unix:/" + "x" * 4000):
        coordinator = Coordinator(run=5, expected=1)
        coordinator.join(100, {"role": "params", "address": address}, 0.0)
        assert coordinator.join(1, facts(), 0.0)["map"]["servers"] == [[100, address]]
        told = {**facts(), "run": 5, "map": {"epoch": 2, "servers": [[100, address]]}}
        assert coordinator.join(2, told, 0.0)["map"]["servers"] == [[100, address]]


@pytest.mark.parametrize("address", ["a\x1bb", "x" * 5000, 7, ["a"]])
def test_what_cannot_be_an_address_is_refused(address):
    coordinator = begin(servers=1)
    with pytest.raises(RefusedError, match=r"address is .*; expected a printable text"):
        coordinator.join(101, {"role": "params", "address": address}, 0.0)
    if isinstance(address, str):
        with pytest.raises(RefusedError, match="address is"):
            coordinator.join(3, {**facts(), "map": {"epoch": 2, "servers": [[100, address]]}}, 0.0)


def test_the_maps_epoch_does_not_go_back_for_anybody_when_the_coordinator_lost_its_snapshot():
    lost = Coordinator(run=6, expected=1)
    lost.step(0.0)
    lost.join(100, {"role": "params", "address": "127.0.0.1:7000"}, 0.0)
    older = {"epoch": 3, "servers": [[90, "127.0.0.1:7000"]]}
    newer = {"epoch": 5, "servers": [[99, "127.0.0.1:7000"]]}
    assert lost.join(1, {**facts(), "run": 5, "map": older}, 0.0)["map"]["epoch"] == 4
    assert lost.join(2, {**facts(), "run": 5, "map": newer}, 0.0)["map"]["epoch"] == 6
    assert lost.join(2, {**facts(), "run": 5, "map": newer}, 0.0)["map"]["epoch"] == 6
    assert lost.join(3, {**facts(), "run": 99, "map": {**newer, "epoch": 50}}, 0.0)["map"]["epoch"] == 6
    equal = {"epoch": 6, "servers": [[98, "127.0.0.1:7000"]]}
    assert lost.join(4, {**facts(), "run": 5, "map": equal}, 0.0)["map"]["epoch"] == 7


def test_a_coordinator_that_is_restarted_for_another_number_of_servers_says_which():
    lost = Coordinator(run=6, expected=1)
    lost.join(100, {"role": "params", "address": "127.0.0.1:7000"}, 0.0)
    told = {"epoch": 3, "servers": [[90, "127.0.0.1:7000"], [91, "127.0.0.1:7001"]]}
    waiting = lost.join(1, {**facts(), "run": 5, "map": told}, 0.0)["waiting"]
    assert waiting == (
        "the run has 2 parameter servers, and this coordinator was started for 1; start it again with --servers 2"
    )


def test_servers_without_a_place_are_not_missed():
    coordinator = Coordinator(run=5, expected=3)
    coordinator.step(0.0)
    coordinator.join(100, {"role": "params", "address": "127.0.0.1:7000"}, 0.0)
    assert listen(coordinator, 0.0, 20.0) == [100]
    assert coordinator.state(20.0)["missing"] == []
