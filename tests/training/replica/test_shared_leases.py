"""A replica's leases, with a coordinator that says what the test wants: what is kept, what counts as getting on."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from adam_mp.errors import TransportError
from adam_mp.memory.board import DATA, EXCHANGE, LEASES
from adam_mp.memory.ledger import ELSEWHERE, FREE, HELD, LEASED, SKIPPED, TRAINED, Ledger
from adam_mp.memory.segment import Segment
from adam_mp.params.run.bucket_map import LayoutFacts
from adam_mp.params.run.news import News
from adam_mp.params.run.run_facts import RunFacts
from adam_mp.params.run.statements import Joining
from adam_mp.training.folder.figures import Sums
from adam_mp.training.replica.leases import OwnLeases
from adam_mp.training.replica.rounds import OwnRounds
from adam_mp.training.replica.shared_leases import SharedLeases
from adam_mp.transport.forms import read, write

BATCHES = 6
MAP = {"epoch": 1, "servers": [[7, "127.0.0.1:7700"]]}
NEWS = {
    "epoch": 0,
    "phase": "training",
    "trained": 0,
    "failed": 0,
    "finished": [],
    "leader": True,
    "updates": 0,
    "map": MAP,
}
JOINING = Joining("replica", "r", facts=RunFacts(LayoutFacts((("w", (3,)),)), 96, 16, 3, 1.0, {}))
BROUGHT = 100  # updates that the replica's checkpoint had
ENDED = {"epoch": 0, "trained": 90, "skipped": 5, "failed": 3, "twice": 0}


class Link:
    """A line on which `said` comes next: news, or "rejoin" where the coordinator does not know the replica."""

    address, run, silence, is_elected, who = "127.0.0.1:7700", 5, 0.0, False, "the coordinator"

    def __init__(self):
        self.said, self.reports, self.joins, self.left = [], [], [], 0

    def report(self, make, joining, interval):
        self.reports.append(make())
        said = self.said.pop(0) if self.said else None
        if said == "rejoin":
            self.joins.append(joining())
            return None
        return said and read(News, said, TransportError)

    def leave(self):
        self.left += 1


class Exchange:
    """The words of an exchange that does nothing."""

    def __init__(self):
        self.silences, self.maps, self.held = np.zeros(1, np.int64), [], SimpleNamespace(servers=1)
        self.words = dict.fromkeys(("round_begun", "round_done", "rounds", "sequence"), 0)

    def read(self, name):
        return self.words[name]

    def note_map(self, text):
        self.maps.append(json.loads(text))

    def is_done(self, number):
        return self.words["round_done"] >= number

    def next_round(self):
        return self.words["round_begun"] + 1

    want_round = next_round


def failed_in(batches):
    """Of every batch as many images as its number says could not be had."""
    return {batch: batch for batch in batches.tolist() if batch}


@pytest.fixture
def replica():
    """Leases of an epoch that is open, and what they stand on."""
    segment = Segment.create("test", Ledger.bytes_needed(BATCHES))
    ledger = Ledger(segment, 0, BATCHES)
    memory = SimpleNamespace(ledger=ledger, shape=SimpleNamespace(workers=1))
    link, exchange = Link(), Exchange()
    store = SimpleNamespace(elsewhere=0)
    store.set_elsewhere = partial(setattr, store, "elsewhere")
    news = read(News, NEWS, TransportError)
    rounds = OwnRounds(exchange)
    leases = SharedLeases(memory, store, rounds, link, write(JOINING), write(news), 0.1, dict, BROUGHT, failed_in)
    leases.open(0, np.zeros(BATCHES, np.uint8))
    yield SimpleNamespace(leases=leases, link=link, exchange=exchange, ledger=ledger, store=store)
    del ledger, memory.ledger
    segment.close()


def test_an_epochs_figures_outlive_a_coordinator_that_is_lost_while_it_is_closed(replica):
    leases, link = replica.leases, replica.link
    link.said = [{**NEWS, "epoch": 1, "finished": [ENDED]}, "rejoin", {**NEWS, "epoch": 1}, {**NEWS, "epoch": 1}]
    for _ in range(4):
        leases.step()
    assert link.joins[0]["epoch"] == 1
    assert link.joins[0]["finished"] == [ENDED]
    assert leases.sums(replica.ledger.states()) == Sums(87, 5, 3)
    assert leases.missed() == []
    leases.open(1, np.zeros(BATCHES, np.uint8))
    link.said = [{**NEWS, "epoch": 3, "finished": [{**ENDED, "epoch": 1}, {**ENDED, "epoch": 2}]}]
    leases.step()
    assert leases.missed() == [(2, Sums(87, 5, 3))]


def test_images_of_all_count_once_though_a_restarted_coordinator_is_told_them_again(replica):
    counted = []
    for trained in (10, 30, 5, 20, 45):
        replica.link.said = [{**NEWS, "trained": trained}]
        replica.leases.step()
        counted.append(replica.leases.images_of_all(7))
    replica.link.said = [{**NEWS, "epoch": 1, "trained": 8, "finished": [ENDED]}]
    replica.leases.step()
    assert [*counted, replica.leases.images_of_all(7)] == [10, 30, 30, 30, 45, 45 + (87 - 45) + 8]


def test_what_workers_wait_for_follows_from_where_the_batches_are(replica):
    def lack(state):
        return replica.leases.lack(np.full(BATCHES, state, np.uint8))

    assert [lack(state) for state in (FREE, HELD, LEASED, ELSEWHERE)] == [DATA, DATA, LEASES, LEASES]
    replica.leases.over(np.full(BATCHES, TRAINED, np.uint8))
    assert lack(TRAINED) == EXCHANGE
    replica.link.silence = 5.0
    assert lack(TRAINED) == LEASES  # the coordinator is silent


def test_updates_that_a_checkpoint_brings_are_the_runs_already(replica):
    for updates, elsewhere in ((130, 30), (120, 30), (160, 60)):  # a restarted coordinator may know of fewer
        replica.link.said = [{**NEWS, "updates": updates}]
        replica.leases.step()
        assert replica.store.elsewhere == elsewhere


def test_a_replica_that_never_opened_an_epoch_leaves_without_a_report(replica):
    memory, store = SimpleNamespace(), SimpleNamespace()
    news = read(News, NEWS, TransportError)
    leases = SharedLeases(
        memory, store, OwnRounds(replica.exchange), replica.link, write(JOINING), write(news), 0.1, dict, 0, failed_in
    )
    leases.leave()
    assert replica.link.left == 1
    leases.step()
    assert not replica.link.reports


def test_the_synchronizer_is_told_each_newer_map_once(replica):
    newer = {"epoch": 2, "servers": [[8, "127.0.0.1:7701"]]}
    for bucket_map in (MAP, newer, newer):
        replica.link.said = [{**NEWS, "map": bucket_map}]
        replica.leases.step()
    assert replica.exchange.maps == [MAP, newer]


def test_answers_without_news_are_no_progress(replica):
    leases, link = replica.leases, replica.link
    moves = []
    for news in (NEWS, NEWS, {**NEWS, "trained": 16}, {**NEWS, "trained": 16}, {**NEWS, "trained": 16, "updates": 1}):
        link.said = [news]
        leases.step()
        moves.append(leases.moved())
    assert moves == [True, False, True, False, True]
    granted = {**NEWS, "trained": 16, "updates": 1, "granted": [2]}
    for expected in (True, False):  # the second time it is here already
        link.said = [granted]
        leases.step()
        assert leases.moved() == expected
    assert replica.ledger.states()[2] == FREE
    replica.exchange.words["sequence"] += 1
    assert leases.moved()


def test_another_number_of_servers_than_the_run_began_with_is_told(replica):
    servers = [*MAP["servers"], [8, "127.0.0.1:7701"]]
    replica.link.said = [{**NEWS, "map": {"epoch": 2, "servers": servers}}]
    with pytest.raises(TransportError, match="the run began with 1 parameter server and has 2 now; start it again"):
        replica.leases.step()


@pytest.mark.parametrize("granted", [[BATCHES], [-1], ["x"], [10**30], [1.5]])
def test_batches_that_the_epoch_does_not_have_are_not_admitted(replica, granted):
    replica.link.said = [{**NEWS, "granted": [0, *granted]}]
    with pytest.raises(TransportError, match=r"leases batches beyond the 6|granted are no batches"):
        replica.leases.step()
    assert not (replica.ledger.states() == FREE).any()


def test_what_is_never_exchanged_is_not_waited_for_without_end(replica):
    with pytest.raises(TransportError, match=r"no weights were exchanged for 0\.1 s.*127\.0\.0\.1:7700"):
        replica.leases.settle(replica.leases.step)


def test_a_slow_exchange_is_waited_for(replica):
    words, ticks = replica.exchange.words, []

    def step():
        ticks.append(1)
        words["sequence"] += len(ticks) % 5 == 0
        words["round_done"] = len(ticks) // 100

    replica.leases.settle(step)
    assert len(ticks) == 100


def test_a_replica_that_joins_again_tells_what_it_did_and_goes_on_meanwhile(replica):
    leases, link, ledger = replica.leases, replica.link, replica.ledger
    link.said = [{**NEWS, "granted": [0, 1, 2]}]
    leases.over(ledger.states())
    for batch in (0, 1):
        assert ledger.claim(0, 1) == batch
        assert ledger.lease(0, batch, 1, 0)
        assert ledger.finish(0, batch, 0)
    leases.over(ledger.states())
    replica.exchange.words["round_done"] = 1  # the servers have them
    link.said = ["rejoin", None, None, {**NEWS, "trained": 32}]
    for _ in range(4):
        assert not leases.over(ledger.states())
    assert (link.joins[0]["trained"], link.joins[0]["leased"]) == ([0, 1], [2])
    assert leases.trained(ledger.states()) == 32


def train(ledger, *batches):
    for batch in batches:
        assert ledger.claim(0, 1) == batch
        assert ledger.lease(0, batch, 1, 0)
        assert ledger.finish(0, batch, 0)


def test_images_that_could_not_be_had_are_told_with_their_batches(replica):
    leases, link, ledger = replica.leases, replica.link, replica.ledger
    link.said = [{**NEWS, "granted": [0, 1, 2, 3]}]
    leases.over(ledger.states())
    train(ledger, 0, 1, 2)
    leases.over(ledger.states())
    assert link.reports[-1]["failed"] == []
    replica.exchange.words.update(round_begun=1, round_done=1)
    link.said = [None]
    leases.over(ledger.states())
    assert (link.reports[-1]["trained"], link.reports[-1]["failed"]) == ([0, 1, 2], [[1, 1], [2, 2]])
    train(ledger, 3)
    link.said = ["rejoin", {**NEWS, "trained": 48, "failed": 7, "done": "e0", "failed_in": [[1, 1], [2, 2], [5, 4]]}]
    leases.over(ledger.states())
    assert (link.joins[0]["trained"], link.joins[0]["failed"]) == ([0, 1, 2], [[1, 1], [2, 2]])
    leases.step()
    assert leases.failed_in(ledger.states()) == {1: 1, 2: 2, 3: 3, 5: 4}
    assert leases.sums(ledger.states()) == Sums(41, 0, 7)


def test_alone_too_what_could_not_be_had_is_not_trained():
    segment = Segment.create("test", Ledger.bytes_needed(BATCHES))
    ledger = Ledger(segment, 0, BATCHES)
    leases = OwnLeases(SimpleNamespace(ledger=ledger), 10, 55, 1.0, failed_in, {4: 7})
    leases.open(0, np.array([FREE, FREE, FREE, SKIPPED, TRAINED, FREE], np.uint8))
    train(ledger, 0, 1, 2)
    assert leases.failed_in(ledger.states()) == {1: 1, 2: 2, 4: 4}
    assert leases.sums(ledger.states()) == Sums(33, 10, 7)
    leases.open(1, np.zeros(BATCHES, np.uint8))
    assert leases.sums(ledger.states()) == Sums()
    del ledger, leases
    segment.close()


def test_what_another_machine_could_not_have_of_a_cut_epoch_stays_counted():
    ledger = SimpleNamespace(open=lambda *_: None)
    leases = OwnLeases(SimpleNamespace(ledger=ledger), 10, 60, 1.0, lambda batches: {}, {4: 7})
    states = np.array([TRAINED] * 6, np.uint8)
    leases.open(0, states)
    assert leases.sums(states) == Sums(53, 0, 7)
    leases.open(1, states)
    assert leases.sums(states) == Sums(60, 0, 0)


def test_the_first_server_is_the_coordinator_too_and_silent_as_whichever_is(replica):
    leases, link, exchange = replica.leases, replica.link, replica.exchange
    servers = [[7, "127.0.0.1:7700"], [8, "127.0.0.1:7701"]]
    link.said = [{**NEWS, "map": {"epoch": 2, "servers": servers}}]
    exchange.silences, exchange.held.servers = np.array([1500, 2500]), 2
    leases.step()
    link.silence = 0.05
    one, other = "the coordinator at 127.0.0.1:7700", "the parameter server at 127.0.0.1:7701"
    assert leases.silences() == {one: 1.5, other: 2.5}
    link.silence = 3.0
    assert leases.silences() == {one: 3.0, other: 2.5}
    link.is_elected = True
    server = one.replace("coordinator", "parameter server")
    assert leases.silences() == {"the coordinator": 3.0, server: 1.5, other: 2.5}


def test_a_replica_that_was_stopped_gives_up_on_nobody(replica, monkeypatch):
    """All that it waits for comes late by its clock, after a minute in which it was stopped."""
    leases, words, clock = replica.leases, replica.exchange.words, [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    looks = []

    def step():
        looks.append(1)
        clock[0] += 60.0 if len(looks) == 2 else 0.01
        words["round_done"] = len(looks) // 4

    leases._patience = 2.0
    leases.settle(step)
    assert len(looks) == 4
