"""The loop of a parameter server's process: each message goes to whom it concerns, on any clock."""

from __future__ import annotations

import pytest

from adam_mp.errors import TransportError
from adam_mp.memory.layout import Layout
from adam_mp.params.run.bucket_map import LayoutFacts
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.membership import CoordinatorLink
from adam_mp.params.server.loop import ALONE, DONE, make_loop
from adam_mp.transport.addresses import Address
from adam_mp.transport.messages import Kind, Message, with_facts
from adam_mp.transport.sim import Network, Weather

FACTS = {"layout": LayoutFacts.of(Layout.of({"a": (30, 7)})).as_list(), "images": 95, "batch_size": 10, "epochs": 1,
         "quorum": 1.0, "agreed": {}}  # fmt: skip
JOIN = {"role": "replica", "facts": FACTS}


class Elsewhere:
    """A dialer that reaches nobody."""

    dial = send = receive = staticmethod(lambda *_: None)
    trouble = staticmethod(lambda *_: "nobody answers there")


class Clock:
    """Each look takes a tenth of a second."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 0.1
        return self.now


def ask(network, peer, loop, message):
    peer.send("server", message)
    network.advance(0.1)
    loop.step(0)
    network.advance(0.1)
    return peer.receive(0)[1]


@pytest.mark.parametrize("kind", [Kind.JOIN, Kind.REPORT, Kind.LEAVE, Kind.STATUS])
def test_a_server_without_the_coordinator_says_where_it_is(kind):
    network = Network(1, Weather(delay=0.0))
    link = CoordinatorLink(Elsewhere(), Address("127.0.0.1", 7), 9)
    loop = make_loop(network.endpoint("server"), "s", 9, link, None, lambda text: None, Clock())
    answer = ask(network, network.endpoint("peer"), loop, with_facts(kind, {}, sender=3, sequence=8))
    assert (answer.kind, answer.sequence, answer.sender) == (Kind.REFUSED, 8, 9)
    assert answer.facts()["reason"] == "the coordinator of this run is at 127.0.0.1:7"
    assert loop.server.figures(1.0)["refused"] == 1


@pytest.mark.parametrize("kind", [Kind.FRESH, Kind.FETCH, Kind.WELCOME, Kind.STATE])
def test_what_concerns_nobody_here_is_refused(kind):
    network = Network(1, Weather(delay=0.0))
    loop = make_loop(network.endpoint("server"), "s", 9, Coordinator(5, 1), None, lambda text: None, Clock())
    loop.server.view.join(0.0)
    answer = ask(network, network.endpoint("peer"), loop, Message(kind, b"", sender=3, sequence=8))
    assert answer.facts()["reason"] == f"a parameter server does not take {kind.name}"
    loop.close()


def test_a_join_and_what_follows_it_in_one_turn_are_taken_in_their_order():
    network = Network(1, Weather(delay=0.0))
    loop = make_loop(network.endpoint("server"), "s", 9, Coordinator(5, 1), None, lambda text: None, Clock())
    loop.server.view.join(0.0)
    peer, kinds = network.endpoint("peer"), []
    peer.send("server", Message(Kind.PULL, run=5, sender=3, map_epoch=1, sequence=1))
    peer.send("server", with_facts(Kind.JOIN, JOIN, sender=3, sequence=2))
    peer.send("server", Message(Kind.PULL, run=5, sender=3, map_epoch=1, sequence=3))
    network.advance(0.1)
    assert loop.step(0) == 3
    network.advance(0.1)
    while received := peer.receive(0):
        kinds.append((received[1].sequence, received[1].kind))
    assert kinds == [(1, Kind.REFUSED), (2, Kind.WELCOME), (3, Kind.EMPTY)]
    loop.close()


def test_a_process_ends_by_its_own_clock():
    network, clock = Network(1, Weather(delay=0.0)), Clock()
    coordinator = Coordinator(5, 1)
    loop = make_loop(network.endpoint("server"), "s", 9, coordinator, None, lambda text: None, clock)
    assert loop.run(lambda: False, wait=100.0) == ALONE
    assert 100.0 < clock.now < 102.0
    coordinator.join(7, JOIN, clock.now)
    coordinator.join(8, {"role": "params", "address": "other:1"}, clock.now)
    assert coordinator.roster.members.keys() == {7, 9}  # the run has its server
    coordinator.report(7, 1, {"epoch": 0, "trained": list(range(10))}, clock.now)
    coordinator.leave(7)
    assert loop.run(lambda: False, wait=100.0) == DONE
    loop.close()


def test_the_coordinators_process_stays_until_the_other_servers_have_heard_that_the_run_is_done():
    network, clock, coordinator = Network(1, Weather(delay=0.0)), Clock(), Coordinator(5, 2)
    loop = make_loop(network.endpoint("server"), "s", 9, coordinator, None, lambda text: None, clock)
    loop.server.view.join(0.0)
    coordinator.join(8, {"role": "params", "address": "other:1"}, 0.0)
    coordinator.join(7, JOIN, 0.0)
    coordinator.report(7, 1, {"epoch": 0, "trained": list(range(10))}, 0.0)
    coordinator.leave(7)
    assert loop.run(lambda: False) == DONE
    assert 3.0 < clock.now < 4.0
    loop.close()


def test_a_disk_that_is_full_is_tried_again():
    class Folder:
        """Refuses the first two."""

        outdated, noted = False, 0

        def note(self, facts):
            self.noted += 1
            self.facts = facts
            return self.noted > 2

    network, clock, folder = Network(1, Weather(delay=0.0)), Clock(), Folder()
    coordinator = Coordinator(5, 1)
    loop = make_loop(network.endpoint("server"), "s", 9, coordinator, None, lambda text: None, clock)
    loop.service._folder = folder
    loop.server.view.join(0.0)
    coordinator.join(7, JOIN, 0.0)
    for _ in range(30):
        loop.step(0)
    assert folder.noted == 3
    assert folder.facts["identity"] == 9
    assert Coordinator.restored(folder.facts["coordinator"]).course.facts == coordinator.course.facts
    folder.outdated = True  # the disk refused what was noted
    for _ in range(10):
        loop.step(0)
    assert folder.noted > 4
    loop.close()


def test_a_run_that_cannot_be_joined_is_an_error():
    link = CoordinatorLink(Elsewhere(), Address("127.0.0.1", 7), 9)
    loop = make_loop(Network(1, Weather()).endpoint("server"), "s", 9, link, None, lambda text: None)
    with pytest.raises(TransportError, match="does not answer"):
        loop.run(lambda: False, seconds_to_join=0.1)
