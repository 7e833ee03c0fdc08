"""Activations and errors: what the servers multiply is what the workers did to their own weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adam_mp.errors import SettingsError
from adam_mp.memory.exchange import PUSHED
from adam_mp.memory.layout import Layout
from adam_mp.memory.segment import Segment
from adam_mp.network import Conv, Dense, Flatten, MaxPool, Network, ReLU, Softmax
from adam_mp.params.factors import FactorShape, Inboxes, Outbox, make_outboxes, outbox_slots
from adam_mp.params.protocols import choose_protocols, factor_tensors
from adam_mp.transport.local import LocalChannel
from adam_mp.transport.sim import Weather
from tests.params.test_exchange import LAYOUT, Cluster

MATRIX = 1  # the index of the matrix in LAYOUT
ROWS, COLUMNS = LAYOUT.tensors[MATRIX].shape
SHAPE = FactorShape.of(LAYOUT, [MATRIX], 8)


class Worker:
    """Trains a replica's matrix by plain descent, and tells of it in its outbox."""

    def __init__(self, weights, seed, slots=16):
        size = LocalChannel.bytes_needed(slots, SHAPE.numbers)
        self.segment = Segment.create("test", size)
        (channel,) = make_outboxes(self.segment, 1, slots, SHAPE)
        self.matrix = LAYOUT.views(weights)["dense.weight"]
        self.outbox = Outbox(channel.handle)
        self.inboxes = Inboxes([channel.handle], SHAPE)
        self.random = np.random.default_rng(seed)

    def update(self, count=8, rate=0.25, decay=0.0):
        x = self.random.integers(0, 2, (count, ROWS)).astype(np.float32)
        e = self.random.integers(-1, 2, (count, COLUMNS)).astype(np.float32)
        self.matrix *= np.float32(1 - rate * decay)
        self.matrix -= np.float32(rate) * (x.T @ e)
        self.outbox.put([(x, e)], rate, decay)


@pytest.fixture
def run(request):
    made = []

    def make(weather, replicas=1, slots=16):
        cluster = Cluster(5, weather, replicas=replicas)
        cluster.workers = [Worker(weights, index, slots) for index, weights in enumerate(cluster.weights)]
        made.append(cluster)
        cluster.round()
        return cluster

    yield make
    for cluster in made:
        cluster.close()
        for worker in cluster.workers:
            worker.segment.close()


def exchange_round(cluster):
    for exchange, worker in zip(cluster.exchanges, cluster.workers, strict=True):
        exchange.begin(worker.inboxes.gather())
    for _ in range(4000):
        cluster.turn()
        if all(exchange.done for exchange in cluster.exchanges):
            return
    raise AssertionError("the round does not end")


def products(cluster):
    return sum(server.table.statistics().products for server in cluster.servers.values())


@pytest.mark.parametrize("weather", [Weather(), Weather(loss=0.15, doubling=0.15, delay=0.5)], ids=["fair", "storm"])
def test_the_servers_multiply_what_the_workers_did(run, weather):
    cluster = run(weather, replicas=2)
    expected = cluster.first.copy()
    for _ in range(3):
        for index, worker in enumerate(cluster.workers):
            before = cluster.weights[index].copy()
            worker.update(8)
            worker.update(3)
            cluster.weights[index][-COLUMNS:] += 1  # another tensor goes as a delta
            expected += cluster.weights[index] - before
        exchange_round(cluster)
    exchange_round(cluster)
    assert products(cluster) > 0
    assert np.abs(cluster.served() - expected).max() < 1e-3
    for weights in cluster.weights:
        assert np.array_equal(weights, cluster.served())


def test_weight_decay_arrives(run):
    cluster = run(Weather())
    for _ in range(3):
        cluster.workers[0].update(5, rate=0.1, decay=0.5)
    mine = cluster.weights[0].copy()
    exchange_round(cluster)
    assert np.abs(cluster.served() - mine).max() < 1e-3
    assert np.abs(cluster.served() - cluster.first).max() > 1


def test_a_full_outbox_sends_the_delta_instead(run):
    cluster = run(Weather(), slots=2)
    for _ in range(5):
        cluster.workers[0].update()
    mine = cluster.weights[0].copy()
    exchange_round(cluster)
    assert products(cluster) == 0
    assert np.array_equal(cluster.served(), mine)
    cluster.workers[0].update()
    mine = cluster.weights[0].copy()
    exchange_round(cluster)
    assert products(cluster) > 0
    assert np.abs(cluster.served() - mine).max() < 1e-3


def test_nothing_is_applied_twice_when_the_synchronizer_dies_behind_a_product(run):
    for turns in range(1, 6):
        cluster = run(Weather())
        cluster.workers[0].update()
        mine = cluster.weights[0].copy()
        cluster.exchanges[0].begin(cluster.workers[0].inboxes.gather())
        for _ in range(turns):
            cluster.turn(0.003)
        cluster.exchanges[0] = cluster.start_exchange(0)
        exchange_round(cluster)
        exchange_round(cluster)
        assert np.abs(cluster.served() - mine).max() < 1e-3


def test_a_server_that_lost_its_weights_gets_the_update_as_a_delta(run):
    cluster = run(Weather())
    for index in (0, 1):
        cluster.servers[index].table.close()
        cluster.servers[index] = cluster.start_server(index)
    cluster.workers[0].update()
    mine = cluster.weights[0].copy()
    exchange_round(cluster)
    assert np.abs(cluster.served() - mine).max() < 1e-3
    assert PUSHED not in cluster.memories[0].states


@given(st.lists(st.integers(1, 8), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_what_is_gathered_is_what_was_put(counts, seed):
    weights = np.zeros(LAYOUT.size, np.float32)
    worker = Worker(weights, seed)
    for count in counts:
        worker.update(count, rate=0.5, decay=0.25)
    gathered = worker.inboxes.gather()[MATRIX]
    assert len(gathered.inputs) == sum(counts)
    product = -(gathered.inputs.T @ gathered.errors)
    assert np.allclose(worker.matrix, product, atol=1e-4)
    assert gathered.decay == pytest.approx(0.875 ** len(counts))
    assert len(worker.inboxes.gather()[MATRIX].inputs) == 0
    worker.segment.close()


def network(units):
    return Network.build([Conv(8, 3), MaxPool(2), ReLU(), Flatten(), Dense(units), ReLU(), Dense(), Softmax()],
                         (28, 28, 1), 10)  # fmt: skip


def test_the_cheaper_protocol_is_chosen_for_each_layer():
    big = network(4096)
    chosen = {each.layer: each for each in choose_protocols(big, 64, 1, "auto", True)}
    assert {name: each.protocol for name, each in chosen.items()} == {
        "conv1": "deltas", "dense1": "activations", "dense2": "deltas"
    }  # fmt: skip
    inputs = 13 * 13 * 8
    assert chosen["dense1"].activations_bytes == 4 * 64 * (inputs + 4096) + 4 * inputs * 4096 + 8 * 4096
    assert chosen["dense1"].deltas_bytes == 8 * (inputs * 4096 + 4096)
    assert all(each.protocol == "deltas" for each in choose_protocols(big, 10**6, 1, "auto", True))
    layout = Layout.of(big.parameters)
    forced = choose_protocols(big, 10**6, 1, "activations", True)
    assert [layout.tensors[index].name for index in factor_tensors(layout, forced)] == [
        "dense1.weight",
        "dense2.weight",
    ]
    assert factor_tensors(layout, choose_protocols(big, 64, 1, "deltas", True)) == ()
    assert factor_tensors(layout, choose_protocols(big, 64, 1, "auto", False)) == ()


def test_activations_need_plain_descent():
    with pytest.raises(SettingsError, match="needs --optimizer sgd"):
        choose_protocols(network(10), 64, 1, "activations", False)
    with pytest.raises(SettingsError, match="did you mean 'deltas'"):
        choose_protocols(network(10), 64, 1, "delta", True)


def test_an_outbox_holds_two_rounds():
    assert outbox_slots(512, 16, 2) * 16 * 2 >= 2 * 512
