"""Replicas and servers over a network that loses, doubles and reorders: every delta is applied once."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

from adam_mp.memory.exchange import APPLYING, PUSHED, SEEN, ExchangeMemory
from adam_mp.memory.layout import Held, Layout
from adam_mp.params.replica.exchange import Exchange
from adam_mp.params.run.announcements import Announcements
from adam_mp.params.run.bucket_map import LayoutFacts
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.news import News
from adam_mp.params.run.replies import Replies
from adam_mp.params.server.loop import ServerLoop
from adam_mp.params.server.server import ParameterServer
from adam_mp.transport.messages import Kind, Message
from adam_mp.transport.sim import Network, Weather

LAYOUT = Layout.of({"conv.weight": (3, 3, 1, 8), "dense.weight": (700, 900), "dense.bias": (900,)})
SIZES = {"a": 50_000 * 16, "b": 21_000 * 16}  # what each of two partitions updates
PARTS = Layout.of({name: (size // 16, 16) for name, size in SIZES.items()})
STORM = Weather(loss=0.15, doubling=0.15, delay=0.5)
FAIR = Weather(delay=0.01)


class View:
    """What the servers know of the run; the test tells them all else."""

    run, phase, coordinator = 77, "training", "nowhere"

    def is_replica(self, identity):
        return identity >= 1000

    def report(self, make, interval, now):
        return None


class Cluster:
    """Servers and replicas of one process, on a simulated network."""

    def __init__(self, seed, weather, servers=2, replicas=2, wire="float32"):
        self.network, self.layout = Network(seed, weather), LAYOUT.for_servers(servers)
        self.coordinator = Coordinator(run=77, expected=servers)
        facts = {"layout": LayoutFacts.of(LAYOUT).as_list(), "images": 100, "batch_size": 10, "epochs": 1,
                 "quorum": 1.0, "agreed": {}}  # fmt: skip
        self.identities = list(range(1, servers + 1))
        for index in range(servers):
            self.coordinator.join(index + 1, self.joining(index), 0.0)
        self.coordinator.join(99, {"role": "replica", "facts": facts}, 0.0)
        self.map = self.coordinator.map
        self.loops = {}
        self.servers = {index: self.start_server(index) for index in range(servers)}
        generator = np.random.default_rng(seed)
        first = generator.integers(-50, 50, LAYOUT.size).astype(np.float32)
        self.first = first
        self.weights = [first.copy() for _ in range(replicas)]
        self.memories = [ExchangeMemory.create(Held.all_of(self.layout)) for _ in range(replicas)]
        self.known, self.random = {}, random.Random(seed)  # which map each replica has
        self.exchanges = [self.start_exchange(index, wire) for index in range(replicas)]

    def joining(self, index):
        return {"role": "params", "address": f"server{index}"}

    def start_server(self, index):
        identity = self.identities[index]
        endpoint = self.network.endpoint(f"server{index}")
        replies, announcements = Replies(endpoint), Announcements(lambda text: None)
        server = ParameterServer(endpoint, identity, View(), replies, None, announcements)
        self.tell(server)
        self.loops[index] = ServerLoop(endpoint, server, None, replies, lambda: self.network.now)
        return server

    def tell(self, server):
        """Give a server the coordinator's news."""
        server.learn(News(phase="training", map=self.map, layout=LayoutFacts.of(LAYOUT)))

    def restart_server(self, index):
        """Start a server again without snapshots: under another identity. The others do not learn of it yet."""
        self.servers[index].table.close()
        self.identities[index] = max(self.identities) + 1
        for number in range(8):  # until the one before is silent for long enough
            self.coordinator.step(self.network.now + number / 2)
        self.coordinator.join(self.identities[index], self.joining(index), self.network.now)
        self.map = self.coordinator.map
        assert self.map.servers[index].identity == self.identities[index]
        self.servers[index] = self.start_server(index)

    def start_exchange(self, index, wire="float32"):
        peers = [server.address for server in self.map.servers]
        endpoint = self.network.endpoint(f"replica{index}")
        self.known[index] = self.map
        return Exchange(endpoint, self.memories[index], self.weights[index], peers, self.map, 77, 1000 + index, wire)

    def succeed(self, index):
        """Have a synchronizer turn to the servers of the newest map, as the supervisor tells it."""
        self.exchanges[index] = self.start_exchange(index)
        self.exchanges[index].begin()

    def turn(self, seconds=0.05):
        for index, exchange in enumerate(self.exchanges):
            if self.known[index] != self.map and self.random.random() < 0.3:  # it learns of the map after a while
                self.succeed(index)
            elif not exchange.done:
                exchange.step(self.network.now, 0)
        self.network.advance(seconds)
        for loop in self.loops.values():
            loop.step(0)
        self.network.advance(seconds)

    def round(self, turns=4000):
        for exchange in self.exchanges:
            exchange.begin()
        for _ in range(turns):
            self.turn()
            if all(exchange.done for exchange in self.exchanges):
                return
        raise AssertionError("the round does not end")

    def train(self, step):
        for index in range(len(self.weights)):
            self.weights[index] += step

    def served(self):
        flat = np.zeros(LAYOUT.size, np.float32)
        for server in self.servers.values():
            for number, entry in server.table.entries.items():
                flat[self.layout.shards[number].place] = entry.weights
        return flat

    def close(self):
        for memory in self.memories:
            memory.close()
        for server in self.servers.values():
            server.table.close()


@pytest.fixture
def cluster():
    made = []

    def make(*arguments, **more):
        made.append(Cluster(*arguments, **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("seed", range(25))
def test_every_delta_is_applied_once_in_a_storm(cluster, seed):
    run = cluster(seed, STORM)
    run.round()
    expected, generator = run.first.copy(), np.random.default_rng(seed + 1)
    for _ in range(4):
        for index in range(2):
            step = generator.integers(-3, 4, LAYOUT.size).astype(np.float32)  # whole numbers add up exactly
            run.weights[index] += step
            expected += step
        run.round()
    assert np.array_equal(run.served(), expected)
    run.round()
    for weights in run.weights:
        assert np.array_equal(weights, expected)
    repeated = sum(server.table.statistics().repeated for server in run.servers.values())
    assert repeated > 0  # else the storm was none


class Group:
    """A replica of which each machine has a part of the weights, under one identity. It stands for one exchange."""

    def __init__(self, run, identity, names):
        self.size, self.layout = LAYOUT.size, run.layout
        self.parts = [Held.some_of(run.layout, {name: 16}, 16 + SIZES[name]) for name in names]
        self.memories = [ExchangeMemory.create(held) for held in self.parts]
        self.weights = [np.zeros(held.size, np.float32) for held in self.parts]
        peers = [server.address for server in run.map.servers]
        self.exchanges = [
            Exchange(run.network.endpoint(f"{identity}-{part}"), memory, weights, peers, run.map, 77, identity)
            for part, (memory, weights) in enumerate(zip(self.memories, self.weights, strict=True))
        ]

    def add(self, step):
        """Add to the weights, float32 [layout.size], what each machine has of `step`."""
        for held, weights in zip(self.parts, self.weights, strict=True):
            for number, shard in zip(held.numbers, held.shards, strict=True):
                weights[shard.place] += step[self.layout.shards[number].place]

    def whole(self):
        flat = np.zeros(self.size, np.float32)
        for held, weights in zip(self.parts, self.weights, strict=True):
            for number, shard in zip(held.numbers, held.shards, strict=True):
                flat[self.layout.shards[number].place] = weights[shard.place]
        return flat

    def begin(self):
        for exchange in self.exchanges:
            exchange.begin()

    @property
    def done(self):
        return all(exchange.done for exchange in self.exchanges)

    def step(self, now, seconds):
        for exchange in self.exchanges:
            if not exchange.done:
                exchange.step(now, seconds)


@pytest.mark.parametrize("seed", range(10))
def test_groups_of_machines_with_a_part_each_are_a_replica_each(cluster, monkeypatch, seed):
    monkeypatch.setattr("tests.params.replica.test_exchange.LAYOUT", PARTS)
    run = cluster(seed, STORM, replicas=1)
    groups = [Group(run, 1100, ["a", "b"]), Group(run, 1200, ["b", "a"])]
    for group in groups:
        group.add(run.first)
    run.exchanges += groups
    run.known |= {1: run.map, 2: run.map}
    run.round()
    expected, generator = run.first.copy(), np.random.default_rng(seed + 1)
    for _ in range(4):
        for group in groups:
            step = generator.integers(-3, 4, PARTS.size).astype(np.float32)
            group.add(step)
            expected += step
        run.weights[0] += 1
        expected += 1
        run.round()
    assert np.array_equal(run.served(), expected)
    run.round()
    assert np.array_equal(run.weights[0], expected)
    for group in groups:
        np.testing.assert_array_equal(group.whole(), expected)
        for memory in group.memories:
            memory.close()


@pytest.mark.parametrize("seed", range(10))
def test_a_synchronizer_that_dies_at_any_moment_pushes_nothing_twice(cluster, seed):
    run = cluster(seed, Weather(loss=0.1, doubling=0.1, delay=0.2))
    run.round()
    expected, generator = run.first.copy(), np.random.default_rng(seed)
    for _ in range(6):
        for index in range(2):
            step = generator.integers(-3, 4, LAYOUT.size).astype(np.float32)
            run.weights[index] += step
            expected += step
        for exchange in run.exchanges:
            exchange.begin()
        for _ in range(int(generator.integers(1, 12))):
            run.turn()
        victim = int(generator.integers(2))
        run.exchanges[victim] = run.start_exchange(victim)
        run.round()
    run.round()
    run.round()
    assert np.array_equal(run.served(), expected)
    for weights in run.weights:
        assert np.array_equal(weights, expected)


def test_a_synchronizer_that_dies_while_it_corrects_takes_the_servers_weights(cluster):
    run = cluster(1, FAIR)
    run.round()
    run.memories[0].states[:] = APPLYING
    run.weights[0][:] = 12345.0
    run.exchanges[0] = run.start_exchange(0)
    run.round()
    assert np.array_equal(run.weights[0], run.first)
    assert set(run.memories[0].states.tolist()) == {SEEN}


def test_a_server_that_lost_its_weights_gets_them_from_the_replicas(cluster):
    run = cluster(3, FAIR)
    run.round()
    run.train(1)
    run.round()
    run.round()
    run.restart_server(0)
    run.tell(run.servers[1])
    run.train(1)
    run.round()
    run.round()
    assert np.array_equal(run.served(), run.first + 4)
    assert all(np.array_equal(weights, run.first + 4) for weights in run.weights)


def test_a_delta_to_a_server_that_lost_its_weights_is_not_lost(cluster):
    run = cluster(4, FAIR, replicas=1)
    run.round()
    run.weights[0] += 5
    run.exchanges[0].begin()
    run.exchanges[0].step(run.network.now, 0)
    assert PUSHED in run.memories[0].states
    for index in (0, 1):
        run.restart_server(index)
    run.tell(run.servers[0])
    run.round()
    assert np.array_equal(run.served(), run.first + 5)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("replicas", [1, 2])
def test_servers_that_come_again_as_others_at_any_moment_get_the_weights(cluster, seed, replicas):
    run = cluster(seed, Weather(loss=0.1, doubling=0.1, delay=0.2), replicas=replicas)
    run.round()
    expected, generator = run.first.copy(), np.random.default_rng(seed)
    for _ in range(6):
        for index in range(replicas):
            step = generator.integers(-3, 4, LAYOUT.size).astype(np.float32)
            run.weights[index] += step
            expected += step
        for exchange in run.exchanges:
            exchange.begin()
        for _ in range(int(generator.integers(1, 12))):
            run.turn()
        victim = int(generator.integers(2))
        run.restart_server(victim)
        for _ in range(int(generator.integers(0, 5))):
            run.turn()
        run.tell(run.servers[1 - victim])
        run.round()
    run.round()
    run.round()
    for weights in run.weights:
        assert np.array_equal(weights, run.served())
    if replicas == 1:  # of others' updates, the newest may be lost with a server
        assert np.array_equal(run.served(), expected)


def test_a_cut_network_heals(cluster):
    run = cluster(5, FAIR)
    run.round()
    run.network.cut("replica0")
    run.weights[0] += 1
    for exchange in run.exchanges:
        exchange.begin()
    for _ in range(200):
        run.turn()
    assert run.exchanges[1].done
    assert not run.exchanges[0].done
    run.weights[0] += 1  # its workers go on
    run.network.cut()
    run.round()
    run.round()
    run.round()
    assert np.array_equal(run.served(), run.first + 2)


def test_nothing_is_pulled_that_did_not_change(cluster):
    run = cluster(6, FAIR, replicas=1)
    run.round()
    pulled = run.memories[0].statistics().pulled_bytes
    run.weights[0] += 1
    run.round()
    run.round()
    assert run.memories[0].statistics().pulled_bytes == pulled
    assert np.array_equal(run.served(), run.first + 1)


@pytest.mark.parametrize("wire", ["float16", "bfloat16"])
def test_what_rounding_loses_goes_with_a_later_delta(cluster, wire):
    run = cluster(7, FAIR, replicas=1, wire=wire)
    run.round()
    step = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)
    run.weights[0] += step
    run.round()
    assert np.abs(run.served() - (run.first + step)).max() > 1e-4
    for _ in range(4):
        run.round()
    assert np.abs(run.served() - run.weights[0]).max() < 1e-4
    assert np.abs(run.weights[0] - (run.first + step)).max() < 1e-3


def test_others_updates_are_counted_as_staleness(cluster):
    run = cluster(8, FAIR)
    run.round()
    run.train(1)
    run.round()
    run.round()
    shards = len(run.layout.shards)
    assert sum(memory.statistics().staleness for memory in run.memories) == 2 * shards


@pytest.mark.parametrize("kind", [Kind.FIRST, Kind.FACTORS])
def test_weights_and_activations_in_16_bits_are_refused(cluster, kind):
    run = cluster(9, FAIR, servers=1)
    run.round()
    stranger = run.network.endpoint("stranger")
    payload = np.ones(16 + 700 + 900, np.uint16)
    stranger.send("server0", Message(kind, payload, run=77, sender=1005, map_epoch=1, shard=1, sequence=1, encoding=2))
    for _ in range(3):
        run.turn()
    assert "expected float32" in stranger.receive(0)[1].facts()["reason"]
    assert np.array_equal(run.served(), run.first)


@pytest.mark.parametrize("kind", [Kind.PULL, Kind.FIRST, Kind.DELTA, Kind.FACTORS])
def test_who_is_no_replica_reads_nothing_and_changes_nothing(cluster, kind):
    run = cluster(9, FAIR, servers=1)
    run.round()
    stranger = run.network.endpoint("stranger")
    for shard in range(len(run.layout.shards)):
        payload = b"" if kind == Kind.PULL else np.ones(run.layout.shards[shard].size, np.float32)
        stranger.send("server0", Message(kind, payload, run=77, sender=5, map_epoch=1, shard=shard, sequence=1))
    for _ in range(9):
        run.turn()
    answers = [stranger.receive(0)[1] for _ in run.layout.shards]
    assert {answer.kind for answer in answers} == {Kind.REFUSED}
    assert "no replica of this run" in answers[0].facts()["reason"]
    assert np.array_equal(run.served(), run.first)


def test_a_server_that_does_not_know_the_newest_map_yet_is_asked_again(cluster):
    run = cluster(10, FAIR, replicas=1)
    run.round()
    old, run.map = run.map, dataclasses.replace(run.map, epoch=run.map.epoch + 1)
    run.exchanges[0] = run.start_exchange(0)
    run.weights[0] += 1
    run.exchanges[0].begin()
    for _ in range(30):
        run.turn()
    assert not run.exchanges[0].done
    for server in run.servers.values():
        run.tell(server)
    run.round()
    assert np.array_equal(run.served(), run.first + 1)
    run.map = old
    run.exchanges[0] = run.start_exchange(0)
    run.exchanges[0].begin()
    for _ in range(30):
        run.turn()
    assert not run.exchanges[0].done
    assert all(told.startswith("answers MOVED") for told in run.exchanges[0].unanswered().values())


class Nonsense:
    """An endpoint whose peers answer every question with what is not expected, while `answers` lasts."""

    def __init__(self, endpoint, answers):
        self.endpoint, self.answers, self.asked = endpoint, list(answers), []

    def send(self, peer, message):
        self.asked.append((peer, message))
        return self.endpoint.send(peer, message)

    def receive(self, seconds):
        if self.answers and self.asked:
            peer, message = self.asked[-1]
            kind, payload, more = self.answers.pop(0)
            if payload is None:
                payload = np.ones(LAYOUT.for_servers(2).shards[message.shard].size, np.uint16)
            return peer, Message(kind, payload, shard=message.shard, sequence=message.sequence, **more)
        return self.endpoint.receive(seconds)


def test_answers_that_are_not_expected_change_nothing(cluster):
    run = cluster(11, FAIR, replicas=1)
    run.round()
    run.weights[0] += 1
    exchange = run.exchanges[0]
    short = np.ones(5, np.float32).tobytes()
    answers = [(Kind.REFUSED, b'{"reason": "not\\u001b\\ntoday"}', {}), (Kind.REFUSED, b"no JSON", {}),
               (Kind.FRESH, short, {}), (Kind.FRESH, None, {"encoding": 2}), (Kind.PICTURES, b"", {})]  # fmt: skip
    exchange.flights._endpoint = Nonsense(exchange.flights._endpoint, answers)
    exchange.begin()
    told, answered = [], exchange.answered
    for _ in answers:
        exchange.step(run.network.now, 0)
        told += exchange.unanswered().values()
        assert exchange.answered == answered
    for text in ("refuses: not? today", "refuses, and does not say why", "answers FRESH with 20 bytes", "PICTURES"):
        assert any(text in each for each in told)
    run.round()
    assert np.array_equal(run.served(), run.first + 1)
    assert exchange.answered > answered
    assert exchange.unanswered() == {}


def test_only_servers_that_owe_an_answer_are_named(cluster):
    run = cluster(12, FAIR, replicas=1)
    run.round()
    run.network.cut("server1")
    run.exchanges[0].begin()
    for _ in range(60):
        run.turn()
    assert run.exchanges[0].unanswered() == {"server1": ""}


@pytest.mark.parametrize(("reached", "least", "most"), [(False, 0.0, 0.03), (True, 0.25, 0.3)])
def test_copies_are_asked_about_a_primary_that_does_not_answer_at_once_if_its_connection_broke(reached, least, most):
    coordinator = Coordinator(run=77, expected=3, copies=3)
    names = [f"10.0.0.{index}:7700" for index in range(3)]
    for index, name in enumerate(names):
        joining = {"role": "params", "address": name, "copies": f"10.0.1.{index}:7700"}
        coordinator.join(index + 1, joining, 0.0)
    facts = {"layout": LayoutFacts.of(LAYOUT).as_list(), "images": 100, "batch_size": 10, "epochs": 1,
             "quorum": 1.0, "agreed": {}}  # fmt: skip
    coordinator.join(99, {"role": "replica", "facts": facts}, 0.0)
    network = Network(1, FAIR)
    servers = [network.endpoint(name) for name in names]
    silent = coordinator.map.groups[coordinator.map.groups_of(LAYOUT.for_servers(3))[0]].primary
    memory = ExchangeMemory.create(Held.all_of(LAYOUT.for_servers(3)), keeps=True)
    exchange = Exchange(
        network.endpoint("replica"), memory, np.zeros(LAYOUT.size, np.float32), names, coordinator.map, 77, 1000,
        reaches=lambda peer: reached or peer != names[silent],
    )  # fmt: skip
    exchange.begin()
    asked = None
    while asked is None and network.now < 1.0:
        exchange.step(network.now, 0)
        network.advance(0.005)
        for number, server in enumerate(servers):
            while (received := server.receive(0)) is not None:
                if received[1].kind == Kind.CONFIRM:
                    asked = network.now
                elif number != silent:  # which tells nothing but that it lives
                    server.send(received[0], dataclasses.replace(received[1], kind=Kind.BEAT, payload=b""))
    assert asked is not None
    assert least < asked < most
    memory.close()
