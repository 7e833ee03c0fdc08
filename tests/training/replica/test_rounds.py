"""Rounds of a group on several machines: done when all have done them, and no earlier."""

from __future__ import annotations

import pytest

from adam_mp.memory.exchange import ALONE, ExchangeMemory
from adam_mp.memory.layout import Held, Layout
from adam_mp.params.run.bucket_map import BucketMap, ServerPlace
from adam_mp.partitions.statements import Exchanged
from adam_mp.training.replica.rounds import GroupRounds, OwnRounds

MAP = BucketMap(1, (ServerPlace(7, "127.0.0.1:7700"), ServerPlace(8, "127.0.0.1:7701")))


class Partitions:
    """Two other partitions."""

    def __init__(self):
        self.told, self.exchanged = [], [None, None]

    def exchange(self, told):
        if not self.told or self.told[-1] != told:
            self.told.append(told)


@pytest.fixture
def words():
    made = ExchangeMemory.create(Held.all_of(Layout.of({"w": (3, 4)}).for_servers(2)))
    yield made
    made.close()


def done(round_number, sequence=0, silences=(0, 0)):
    return Exchanged(round_number, round_number, sequence, 100, 10, 1, silences)


def test_a_round_is_done_when_all_machines_have_done_it(words):
    partitions, levels = Partitions(), []
    rounds = GroupRounds(words, partitions, 5, 6, lambda: levels.append(1))
    rounds.step()
    assert not partitions.told, "without a map there is nobody to exchange with"
    rounds.note_map(MAP)
    rounds.step()
    assert [each.round for each in partitions.told] == [0]
    wanted = rounds.want_round()
    rounds.step()
    assert len(partitions.told) == 1, "a round that has not begun here would lack what is trained until it does"
    words.begin_round(follows=False)
    rounds.step()
    assert (partitions.told[-1].round, partitions.told[-1].map) == (wanted, MAP)
    words.note("round_done", wanted)
    assert not rounds.is_done(wanted)
    partitions.exchanged = [done(wanted), None]
    assert not rounds.is_done(wanted)
    partitions.exchanged = [done(wanted), done(wanted + 3)]
    assert rounds.is_done(wanted)
    assert not levels
    rounds.settle()
    assert levels == [1]


def test_what_other_machines_exchange_counts(words):
    partitions = Partitions()
    own, rounds = OwnRounds(words), GroupRounds(words, partitions, 5, 6, lambda: None)
    before = rounds.pulse
    partitions.exchanged = [done(1, 4, (0, 70)), done(2, 5, (3000, 0))]
    assert rounds.pulse != before
    words.silences[:] = (20, 50)
    assert (own.silences, rounds.silences) == ([20, 50], [3000, 70])
    rounds.step()
    assert (words.read("others_done"), words.read("others_silent")) == (1, 3000)
    statistics = rounds.statistics()
    assert (statistics.pushed_bytes, statistics.pulled_bytes, statistics.resent) == (200, 20, 2)
    partitions.exchanged = [done(1, 4, (5, 5, 5)), done(2)]
    assert rounds.silences == [20, 50], "one that knows another map does not count"


def test_a_replica_on_one_machine_waits_for_no_other(words):
    assert words.read("others_done") == ALONE
    rounds = OwnRounds(words)
    wanted = rounds.want_round()
    assert not rounds.is_done(wanted)
    words.note("round_done", words.begin_round(follows=False))
    assert rounds.is_done(wanted)
    assert rounds.servers == 2
