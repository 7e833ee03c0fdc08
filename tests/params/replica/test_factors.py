"""Activations and errors: what the servers multiply is what the workers did to their own weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adam_mp.memory.exchange import PUSHED, SEEN
from adam_mp.memory.segment import Segment
from adam_mp.params.replica.factors import FactorShape, Inboxes, Outbox, fits_message, make_outboxes, outbox_slots
from adam_mp.transport.local import LocalChannel
from adam_mp.transport.messages import LONGEST
from adam_mp.transport.sim import Weather
from tests.params.replica.test_exchange import LAYOUT, Cluster

MATRIX = 1  # the index of the matrix in LAYOUT
ROWS, COLUMNS = LAYOUT.tensors[MATRIX].shape
SHAPE = FactorShape.of(LAYOUT, [MATRIX], 8)


class GapInboxes(Inboxes):
    """Whenever it is asked what waits, as many updates come in behind that as the next number in `gaps` says."""

    def __init__(self, handles, shape, update):
        super().__init__(handles, shape)
        self.update, self.gaps = update, []

    def waiting(self):
        counts = super().waiting()
        for _ in range(self.gaps.pop(0) if self.gaps else 0):
            self.update()
        return counts


class Worker:
    """Trains a replica's matrix by plain descent, and tells of it in its outbox."""

    def __init__(self, weights, seed, slots=16):
        size = LocalChannel.bytes_needed(slots, SHAPE.numbers)
        self.segment = Segment.create("test", size)
        (channel,) = make_outboxes(self.segment, 1, slots, SHAPE)
        self.matrix = LAYOUT.views(weights)["dense.weight"]
        self.handle = channel.handle
        self.outbox = Outbox(channel.handle)
        self.renew()
        self.random = np.random.default_rng(seed)
        self.total = np.zeros_like(self.matrix)  # of all updates, without decay

    def renew(self):
        """Begin another life of the synchronizer's side."""
        self.inboxes = GapInboxes([self.handle], SHAPE, self.update)

    def update(self, count=8, rate=0.25, decay=0.0, share=1.0):
        x = self.random.integers(0, 2, (count, ROWS)).astype(np.float32)
        e = self.random.integers(-1, 2, (count, COLUMNS)).astype(np.float32)
        self.matrix *= np.float32(1 - rate * decay)
        step = np.float32(rate * share) * (x.T @ e)
        self.matrix -= step
        self.total -= step
        self.outbox.put([(x, e)], rate, decay, share)


@pytest.fixture
def run(request):
    made = []

    def make(weather, replicas=1, slots=16):
        cluster = Matrices(5, weather, replicas=replicas)
        cluster.workers = [Worker(weights, index, slots) for index, weights in enumerate(cluster.weights)]
        made.append(cluster)
        cluster.round()
        return cluster

    yield make
    for cluster in made:
        cluster.close()
        for worker in cluster.workers:
            worker.segment.close()


class Matrices(Cluster):
    """A cluster whose exchanges have activations of workers."""

    def succeed(self, index):
        successor(self, index)
        self.exchanges[index].begin_from(self.workers[index].inboxes)


def exchange_round(cluster):
    for exchange, worker in zip(cluster.exchanges, cluster.workers, strict=True):
        exchange.begin_from(worker.inboxes)
    for _ in range(4000):
        cluster.turn()
        if all(exchange.done for exchange in cluster.exchanges):
            return
    raise AssertionError("the round does not end")


def successor(cluster, index=0):
    """Have a replica's synchronizer die, and another take its place."""
    cluster.exchanges[index] = cluster.start_exchange(index)
    cluster.workers[index].renew()


def replace_servers(cluster):
    """Have all servers die, without snapshots, and others take their places."""
    for index in (0, 1):
        cluster.restart_server(index)
    cluster.tell(cluster.servers[0])


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


def test_weight_decay_and_clipping_arrive(run):
    cluster = run(Weather())
    for _ in range(3):
        cluster.workers[0].update(5, rate=0.1, decay=0.5, share=0.25)
    mine = cluster.weights[0].copy()
    exchange_round(cluster)
    assert np.abs(cluster.served() - mine).max() < 1e-3
    assert np.abs(cluster.served() - cluster.first).max() > 0.5


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
        cluster.exchanges[0].begin_from(cluster.workers[0].inboxes)
        for _ in range(turns):
            cluster.turn(0.003)
        successor(cluster)
        exchange_round(cluster)
        exchange_round(cluster)
        assert np.abs(cluster.served() - mine).max() < 1e-3


def test_a_server_that_lost_its_weights_gets_the_update_as_a_delta(run):
    cluster = run(Weather())
    replace_servers(cluster)
    cluster.workers[0].update()
    mine = cluster.weights[0].copy()
    exchange_round(cluster)
    assert np.abs(cluster.served() - mine).max() < 1e-3
    assert PUSHED not in cluster.memories[0].states


def expect_all_updates(cluster):
    """After some quiet rounds, servers and replicas have the sum of all updates, which are exact in float32."""
    for worker in cluster.workers:
        worker.inboxes.gaps = []
    for _ in range(3):
        exchange_round(cluster)
    expected = cluster.first.copy()
    for worker in cluster.workers:
        LAYOUT.views(expected)["dense.weight"][...] += worker.total
    for flat in (cluster.served(), *cluster.weights):
        assert np.array_equal(flat, expected)


def test_an_outbox_that_overflows_while_the_synchronizer_is_away_is_not_taken_for_whole(run):
    cluster = run(Weather(), slots=2)
    for _ in range(5):
        cluster.workers[0].update()
    successor(cluster)
    expect_all_updates(cluster)
    assert products(cluster) == 0


def test_what_was_lost_while_a_round_began_is_known_to_a_successor(run):
    cluster = run(Weather(), slots=2)
    worker = cluster.workers[0]
    worker.update()
    worker.inboxes.gaps = [0, 3]
    exchange_round(cluster)
    assert worker.inboxes.waiting() == (1,)
    successor(cluster)
    expect_all_updates(cluster)


def test_an_outbox_that_is_whole_is_multiplied_by_a_successor(run):
    cluster = run(Weather())
    cluster.workers[0].update()
    successor(cluster)
    expect_all_updates(cluster)
    assert products(cluster) > 0


def test_what_comes_in_behind_a_lost_push_goes_with_the_next(run):
    cluster = run(Weather())
    worker = cluster.workers[0]
    worker.update()
    cluster.exchanges[0].begin_from(worker.inboxes)
    worker.update()
    successor(cluster)
    exchange_round(cluster)
    worker.update()
    expect_all_updates(cluster)


@pytest.mark.parametrize("gaps", [[1], [0, 1], [1, 1, 1], [4]])
def test_updates_that_come_in_while_a_round_begins_survive_an_overflow(run, gaps):
    cluster = run(Weather(), slots=4)
    worker = cluster.workers[0]
    worker.update()
    worker.inboxes.gaps = list(gaps)
    exchange_round(cluster)
    for _ in range(6):
        worker.update()
    expect_all_updates(cluster)


def test_a_server_that_is_lost_between_product_and_pull_gets_the_delta(run):
    cluster = run(Weather())
    worker, exchange = cluster.workers[0], cluster.exchanges[0]
    worker.update()
    exchange.begin_from(worker.inboxes)
    while not exchange.matrices.multiplied:
        cluster.turn(0.003)
    replace_servers(cluster)
    while not cluster.exchanges[0].done:
        cluster.turn()
    expect_all_updates(cluster)


def test_more_activations_than_a_message_holds_go_as_a_delta(run, monkeypatch):
    cluster = run(Weather())
    monkeypatch.setattr("adam_mp.params.replica.factors.LONGEST", 4 * (16 + 8 * (ROWS + COLUMNS)))
    cluster.workers[0].update()
    exchange_round(cluster)
    before = products(cluster)
    assert before > 0
    cluster.workers[0].update()
    cluster.workers[0].update()
    cluster.workers[0].inboxes.gaps = [1, 0, 1]
    exchange_round(cluster)
    assert products(cluster) == before
    assert cluster.memories[0].statistics().overflows == 1
    expect_all_updates(cluster)


def test_a_message_holds_what_is_said_to_fit():
    most = (LONGEST // 4 - 16) // (3000 + 5000)
    assert fits_message(most, 3000, 5000)
    assert not fits_message(most + 1, 3000, 5000)


def test_deltas_in_place_of_products_are_not_rounded(run):
    cluster = run(Weather(), slots=2)
    cluster.exchanges[0] = cluster.start_exchange(0, "bfloat16")
    for rate in (64.0, 0.25, 64.0, 0.25):  # too many digits for 16 bits
        cluster.workers[0].update(rate=rate)
    exchange_round(cluster)
    cluster.workers[0].update()
    expect_all_updates(cluster)


class DeathError(Exception):
    """What a synchronizer dies of."""


def die_while_it_begins(cluster, moment):
    """Begin a round of the first replica, whose synchronizer dies at its `moment`-th word in shared memory."""
    memory, left = cluster.memories[0], [moment]

    def counted(name):
        method = getattr(type(memory), name)

        def call(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise DeathError
            return method(memory, *arguments)

        return call

    memory.add, memory.note = counted("add"), counted("note")
    try:
        cluster.exchanges[0].begin_from(cluster.workers[0].inboxes)
    except DeathError:
        pass
    finally:
        del memory.add, memory.note


def test_a_successor_knows_that_activations_were_dropped(run, monkeypatch):
    cluster = run(Weather())
    cluster.workers[0].update()
    with monkeypatch.context() as patched:
        patched.setattr("adam_mp.params.replica.factors.LONGEST", 4 * (16 + 7 * (ROWS + COLUMNS)))
        die_while_it_begins(cluster, 0)
    successor(cluster)
    expect_all_updates(cluster)


def test_an_update_that_finds_no_room_after_it_was_seen_is_not_lost(run):
    cluster = run(Weather(), slots=1)
    worker = cluster.workers[0]
    worker.update()
    consume = worker.inboxes.consume

    def lose(counts):
        worker.outbox.put(late, 1.0, 0.0)
        worker.inboxes.consume = consume
        consume(counts)

    late = [(np.ones((1, ROWS), np.float32), np.ones((1, COLUMNS), np.float32))]
    worker.matrix -= 1  # it is in the weights, and about to be put into the outbox
    worker.total -= 1
    worker.inboxes.consume = lose
    expect_all_updates(cluster)
    assert worker.inboxes.lost == 1


GAPS = st.lists(st.integers(0, 2), max_size=6)
STEPS = st.one_of(
    st.tuples(st.just("updates"), st.integers(1, 8)),
    st.tuples(st.just("round"), GAPS),
    st.tuples(st.just("dies"), st.integers(0, 8), GAPS),
    st.tuples(st.just("dies beginning"), st.integers(0, 14), GAPS),
    st.tuples(st.just("servers die"), st.integers(0, 8), GAPS),
)


@given(st.lists(STEPS, max_size=12), st.sampled_from(["fair", "storm"]), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_all_updates_arrive_once_whatever_dies(steps, weather, seed):
    storm = weather == "storm"
    cluster = Matrices(seed, Weather(loss=0.1, doubling=0.1, delay=0.3) if storm else Weather(), replicas=1 + storm)
    cluster.workers = [Worker(weights, index, 4) for index, weights in enumerate(cluster.weights)]
    cluster.round()
    worker = cluster.workers[0]
    for step, *more in steps:
        worker.inboxes.gaps = list(more[-1]) if step != "updates" else []
        if step == "updates":
            for _ in range(more[0]):
                cluster.workers[int(worker.random.integers(len(cluster.workers)))].update()
        elif step == "round":
            exchange_round(cluster)
        elif step == "dies beginning":
            die_while_it_begins(cluster, more[0])
            successor(cluster)
        else:
            cluster.exchanges[0].begin_from(worker.inboxes)
            for _ in range(more[0]):
                cluster.turn(0.003)
            if step == "dies":
                successor(cluster)
            elif not storm:  # what other replicas pushed last, servers without snapshots may lose
                replace_servers(cluster)
            while not cluster.exchanges[0].done and step != "dies":
                cluster.turn()
    expect_all_updates(cluster)
    assert set(cluster.memories[0].states.tolist()) == {SEEN}
    cluster.close()
    for each in cluster.workers:
        each.segment.close()


@given(st.lists(st.integers(1, 8), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_what_is_gathered_is_what_was_put(counts, seed):
    weights = np.zeros(LAYOUT.size, np.float32)
    worker = Worker(weights, seed)
    for count in counts:
        worker.update(count, rate=0.5, decay=0.25)
    waiting = worker.inboxes.waiting()
    gathered = worker.inboxes.gather((0,), waiting)[MATRIX]
    assert len(gathered.inputs) == sum(counts)
    product = -(gathered.inputs.T @ gathered.errors)
    assert np.allclose(worker.matrix, product, atol=1e-4)
    assert gathered.decay == pytest.approx(0.875 ** len(counts))
    worker.inboxes.consume(waiting)
    assert worker.inboxes.waiting() == (0,)
    worker.segment.close()


def test_an_outbox_holds_two_rounds():
    assert outbox_slots(512, 16, 2) * 16 * 2 >= 2 * 512
