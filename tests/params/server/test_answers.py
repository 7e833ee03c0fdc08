"""What a server owes its replicas leaves as soon as it can, whoever else is slow."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
import pytest

from adam_mp.memory.layout import Layout
from adam_mp.params.run.bucket_map import LayoutFacts
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.server.answers import BUFFERS, Answers
from adam_mp.params.server.buffers import WINDOW, BufferPool
from adam_mp.params.server.loop import make_loop
from adam_mp.params.server.shard_table import ShardTable
from adam_mp.transport.endpoint import TransportStatistics
from adam_mp.transport.messages import Kind, Message, with_facts

SIZE = 64 * 64
LAYOUT = Layout.of({f"w{number}": (64, 64) for number in range(WINDOW)})  # a shard each
PEERS = [f"replica{number}" for number in range(7)]
FACTS = {"layout": LayoutFacts.of(LAYOUT).as_list(), "images": 95, "batch_size": 10, "epochs": 3, "quorum": 1.0,
         "agreed": {}}  # fmt: skip


@dataclasses.dataclass
class Held:
    """A message that leaves when the test says so."""

    peer: str
    message: Message
    done: bool = False

    def weights(self):
        return self.message.array().copy()


class SlowEndpoint:
    """Receives what a test puts into `arrived`. Payloads stay on their way until `leave`; queues of `full` are full."""

    def __init__(self):
        self.arrived, self.sent, self.full = collections.deque(), [], set()

    def send(self, peer, message):
        if peer in self.full:
            return None
        self.sent.append(Held(peer, message, done=not message.length))
        return self.sent[-1]

    def receive(self, seconds):
        return self.arrived.popleft() if self.arrived else None

    def leave(self, *peers):
        """Let all leave that is on its way to these peers; return what it was."""
        gone = [held for held in self.sent if held.peer in peers]
        left = [(held.message.shard, held.message.sequence, held.message.version) for held in gone]
        for held in gone:
            held.done = True
            if held.message.length:
                held.message.payload.fill(255)  # whoever reads it afterwards sees it
            self.sent.remove(held)
        return left

    def statistics(self):
        return TransportStatistics()


class Run:
    """A server whose shards are filled with 0, and replicas that are names."""

    def __init__(self):
        self.endpoint = SlowEndpoint()
        self.host = Coordinator(run=5, expected=1)
        self.time = 0.0
        self.loop = make_loop(self.endpoint, "server", 100, self.host, None, lambda text: None, lambda: self.time)
        self.server = self.loop.server
        self.server.view.join(self.time)
        self.host.join(7, {"role": "replica", "facts": FACTS}, self.time)
        self.report()
        assert [shard.size for shard in LAYOUT.shards] == [SIZE] * WINDOW
        for number in range(WINDOW):
            self.server.table.fill(number, np.zeros(SIZE, np.float32))

    def report(self):
        """Let the server hear the coordinator's news."""
        self.time += 1.0
        self.server.step(self.time)

    def ask(self, kind, peer, shard, sequence, version=0):
        payload = np.ones(SIZE, np.float32) if kind == Kind.DELTA else b""
        sender = 1000 + int(peer[7:])
        if not self.host.is_replica(sender):
            self.host.join(sender, {"role": "replica", "facts": FACTS}, self.time)
        message = Message(kind, payload, run=5, sender=sender, map_epoch=self.host.map.epoch, shard=shard,
                          sequence=sequence, version=version)  # fmt: skip
        self.endpoint.arrived.append((peer, message))

    def turns(self):
        while self.endpoint.arrived or self.loop.step(0):
            self.loop.step(0)


@pytest.fixture
def run():
    made = Run()
    yield made
    made.server.close()


def push_all(run, peers=PEERS, sequence=1):
    for peer in peers:
        for shard in range(WINDOW):
            run.ask(Kind.DELTA, peer, shard, sequence)
    run.turns()


def test_no_answer_is_dropped_for_want_of_a_buffer(run):
    push_all(run)
    assert len(PEERS) * WINDOW > BUFFERS
    assert all((entry.weights == len(PEERS)).all() for entry in run.server.table.entries.values())  # applied at once
    answered = []
    while run.endpoint.sent:
        newest = {shard: entry.version for shard, entry in run.server.table.entries.items()}
        for held in run.endpoint.sent:
            assert (held.weights() == held.message.version - newest[held.message.shard] + len(PEERS)).all()
        answered += [(peer, *gone) for peer in PEERS for gone in run.endpoint.leave(peer)]
        run.turns()
    assert sorted((peer, shard) for peer, shard, *_ in answered) == [(p, s) for p in PEERS for s in range(WINDOW)]
    figures = run.server.table.statistics()
    assert (figures.deltas, figures.repeated, run.server.figures(run.time)["unsent"]) == (len(PEERS) * WINDOW, 0, 0)


def test_an_owed_answer_has_the_weights_of_the_moment_when_it_leaves(run):
    push_all(run)
    owed = {(p, s) for p in PEERS for s in range(WINDOW)} - {(h.peer, h.message.shard) for h in run.endpoint.sent}
    assert owed
    run.ask(Kind.DELTA, "replica9", 0, 1)
    run.turns()
    run.endpoint.leave(*PEERS, "replica9")
    run.turns()
    assert {(h.peer, h.message.shard) for h in run.endpoint.sent} == owed
    assert all((h.weights() == len(PEERS) + (h.message.shard == 0)).all() for h in run.endpoint.sent)


def test_a_question_that_comes_again_is_answered_once(run):
    for _ in range(3):
        push_all(run)
    seen = 0
    while run.endpoint.sent:
        seen += len(run.endpoint.leave(*PEERS))
        run.turns()
    assert seen == len(PEERS) * WINDOW
    assert run.server.table.statistics().repeated == 2 * seen
    push_all(run, PEERS[:1])  # as if that answer was lost on the way
    assert len(run.endpoint.sent) == WINDOW


def test_a_question_that_is_late_takes_no_other_answers_place(run):
    run.endpoint.full.add("replica0")
    for sequence in (8, 5):
        run.ask(Kind.PULL, "replica0", 0, sequence)
        run.turns()
    run.ask(Kind.PULL, "replica0", 1, 6)
    run.ask(Kind.PULL, "replica0", 1, 9)
    run.turns()
    run.endpoint.full.clear()
    run.turns()
    assert sorted(gone[:2] for gone in run.endpoint.leave("replica0")) == [(0, 8), (1, 9)]


def test_a_peer_has_as_many_buffers_as_a_replica_asks_for(run):
    for number, peer in enumerate(PEERS):
        for shard in range(WINDOW):
            run.ask(Kind.PULL, peer, shard, 1)
        run.turns()
        held = collections.Counter(each.peer for each in run.endpoint.sent)
        assert held[peer] == min(WINDOW, max(1, BUFFERS - number * WINDOW))


def test_peers_whose_answers_do_not_leave_starve_no_other(run):
    stuck, good = PEERS[:-1], PEERS[-1]
    push_all(run, stuck)
    assert len(run.endpoint.sent) == BUFFERS
    for sequence in range(1, 4):
        push_all(run, [good], sequence)
        answered = []
        for _ in range(WINDOW):
            answered += run.endpoint.leave(good)
            run.turns()
        assert sorted(shard for shard, *_ in answered) == list(range(WINDOW))
    run.ask(Kind.PULL, "replica8", 0, 1)  # so does a late comer
    run.turns()
    assert run.endpoint.leave("replica8")


def test_peers_take_turns(run):
    push_all(run, PEERS[:-1])
    for peer in ("replica7", "replica8"):
        push_all(run, [peer])
    run.endpoint.leave("replica0")
    run.turns()
    held = collections.Counter(each.peer for each in run.endpoint.sent)
    assert (held["replica7"], held["replica8"]) == (2, 2)  # the spare one, and one more: two are given up


def test_control_messages_are_answered_while_answers_are_owed(run):
    push_all(run)
    run.endpoint.arrived.append(("status", with_facts(Kind.STATUS, {}, sender=9, sequence=1)))
    run.turns()
    (answer,) = [held for held in run.endpoint.sent if held.peer == "status"]
    assert answer.message.kind == Kind.STATE


def test_what_a_full_queue_does_not_take_leaves_once_there_is_room(run):
    run.endpoint.full.add("replica0")
    version = run.server.table.entries[0].version
    run.ask(Kind.DELTA, "replica0", 0, 1, version)
    run.ask(Kind.PULL, "replica0", 1, 2)
    run.turns()
    run.ask(Kind.DELTA, "replica1", 0, 1, version)
    run.turns()
    assert [held.peer for held in run.endpoint.sent] == ["replica1"]
    run.ask(Kind.DELTA, "replica0", 0, 1, version)  # sent again: that it was alone stays true
    run.turns()
    run.endpoint.full.clear()
    run.turns()
    kinds = {h.message.shard: (h.message.kind, h.message.version) for h in run.endpoint.sent if h.peer == "replica0"}
    assert kinds[0] == (Kind.UNCHANGED, version + 1)
    assert kinds[1][0] == Kind.FRESH
    assert run.server.figures(run.time)["unsent"] == 0


def test_what_nobody_asks_for_any_more_is_forgotten():
    table, endpoint = ShardTable(LAYOUT, {0: range(WINDOW)}), SlowEndpoint()
    answers = Answers(endpoint, table, 4 * max(shard.size for shard in LAYOUT.shards))
    endpoint.full.add("gone")
    questions = [Message(Kind.PULL, shard=shard, sequence=1) for shard in range(2)]
    for question in questions:
        answers.owe("gone", question, None, 100.0)
    answers.settle({})
    answers.owe("gone", questions[0], None, 104.0)
    assert [answers.tidy(now) for now in (104.5, 106.0, 108.0, 110.0)] == [0, 1, 0, 1]
    assert answers.count == 0
    answers.settle({})
    table.close()


def test_answers_about_other_shards_are_none_of_a_new_tables(run):
    push_all(run)
    assert run.server._answers.count
    run.host.run = 6
    run.report()
    run.endpoint.leave(*PEERS)
    run.turns()
    assert run.endpoint.sent == []


def test_spare_buffers_are_given_up():
    pool, held = BufferPool(2, 64), [Held("", Message(Kind.FRESH)) for _ in range(5)]
    for sent in held:
        pool.give_back(pool.take(spare=True), sent)
    assert pool.take() is None
    for sent in held:
        sent.done = True
    assert [pool.take() is None for _ in range(3)] == [False, False, True]


def test_a_peer_that_asks_on_and_on_about_one_shard_holds_no_more_buffers_than_others(run):
    for sequence in range(1, 4 * WINDOW):
        run.ask(Kind.PULL, "replica0", 0, sequence)
        run.turns()
    assert len(run.endpoint.sent) == WINDOW
    run.endpoint.leave("replica0")
    run.turns()
    assert [held.message.sequence for held in run.endpoint.sent] == [4 * WINDOW - 1]
