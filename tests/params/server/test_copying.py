"""Copies that servers send each other: in which messages shards go, how many at once, and when they are saved."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from adam_mp.memory.layout import Layout
from adam_mp.params.run.bucket_map import BucketMap, LayoutFacts, ServerPlace, shards_of_groups
from adam_mp.params.run.copy_groups import first_groups
from adam_mp.params.server import copying
from adam_mp.params.server.copy_bundles import unpack_copies
from adam_mp.params.server.copying import Copying, CopySettings
from adam_mp.params.server.shard_table import Delta, ShardTable
from adam_mp.params.server.waits import Wait
from adam_mp.transport.messages import Kind, Message, encode

FACTS = LayoutFacts.of(Layout.of({f"w{number}": (64, 256) for number in range(24)}))
SERVERS = tuple(ServerPlace(50 + place, f"s{place}", f"c{place}") for place in range(4))
MAP = BucketMap(1, SERVERS, first_groups("abcd", 3))
SHARDS = shards_of_groups(FACTS, 4, len(MAP.copied))
LAYOUT = MAP.cut(FACTS.layout)
RUN, SENDER = 7, 1000


class Path:
    """The path of one server's copies: what is posted waits until the test carries it."""

    bytes_sent = 0

    def __init__(self):
        self.posted, self.came, self.silences, self.renewed = [], collections.deque(), {}, 0

    def connect(self, others, header):
        pass

    def post(self, address, message):
        encode(message)
        self.posted.append((address, message))
        return True

    def renew(self):
        self.renewed += 1

    def take(self):
        return self.came.popleft() if self.came else None

    def silence(self, address):
        return self.silences.get(address, 0.0)

    unheard = silence


class Servers:
    def __init__(self):
        self.mute = set()  # places of servers whose answers are lost
        self.paths = [Path() for _ in SERVERS]
        self.tables = [ShardTable(LAYOUT, {}) for _ in SERVERS]
        self.all = [
            Copying(path, table, 50 + place, CopySettings(0.05, 0.5))
            for place, (path, table) in enumerate(zip(self.paths, self.tables, strict=True))
        ]
        for each in self.all:
            each.learn(MAP, RUN, SHARDS)

    def carry(self, now):
        """Carry messages until there is none; return how many COPYs each server sent."""
        counts = [0] * len(SERVERS)
        while True:
            for each in self.all:
                each.step(now)
            posted = [(place, *one) for place, path in enumerate(self.paths) for one in path.posted]
            if not posted:
                return counts
            for path in self.paths:
                path.posted = []
            for place, address, message in posted:
                counts[place] += message.kind == Kind.COPY
                if message.kind != Kind.COPIED or place not in self.mute:
                    self.paths[int(address[1:])].came.append(message)

    def update(self, place, now, sequence):
        """Apply an update to all shards of which a server is primary, and have it wait for them."""
        numbers = [number for group in self.all[place].leads() for number in SHARDS[group]]
        for number in numbers:
            entry = self.tables[place].entries[number]
            ones = np.ones(entry.shard.size, np.float32)
            self.tables[place].fill(number, ones)
            self.tables[place].apply_deltas(number, [Delta(SENDER, sequence, ones)])
            self.all[place].changed(entry, now)
        groups = frozenset(self.all[place].leads())
        wait = Wait(groups, SENDER, tuple((number, sequence) for number in numbers), lambda: None, now)
        assert not self.all[place].is_stable(wait)
        self.all[place].await_stable(wait, now, has_sent_all=True)
        return wait


@pytest.fixture
def servers():
    made = Servers()
    made.carry(0.0)
    yield made
    for table in made.tables:
        table.close()


def test_a_server_whose_answers_are_lost_is_asked_for_new_connections(servers):
    asked = next(place for place in range(4) if place != 1 and servers.all[1].leads())
    servers.mute = {asked}
    for turn in range(30):  # each turn changes all shards, so that no COPY repeats one
        servers.update(1, float(turn), turn + 1)
        servers.carry(float(turn))
    assert servers.paths[1].renewed >= 1
    assert servers.paths[asked].renewed >= 1
    others = set(range(4)) - {1, asked}
    assert [servers.paths[place].renewed for place in others] == [0, 0]
    servers.mute = set()
    wait = servers.update(1, 31.0, 31)
    servers.carry(31.0)
    assert servers.all[1].is_stable(wait)


def test_all_shards_of_a_round_go_in_one_message_to_each_server(servers):
    assert len(servers.all[1].leads()) == 3
    wait = servers.update(1, 1.0, 5)
    assert servers.carry(1.0) == [0, 3, 0, 0]
    assert servers.all[1].is_stable(wait)
    for group in servers.all[1].leads():
        for place in MAP.copied[group].in_sync:
            for number in SHARDS[group]:
                ours, theirs = (servers.tables[each].entries[number] for each in (1, place))
                assert (theirs.version, theirs.applied) == (ours.version, {SENDER: 5})
                assert np.array_equal(theirs.weights, ours.weights)


def test_messages_are_bounded_and_few_are_on_their_way(servers, monkeypatch):
    monkeypatch.setattr(copying, "_BUNDLE", 100_000)  # a shard
    wait = servers.update(0, 1.0, 5)
    servers.all[0].step(1.0)
    sent = collections.Counter(address for address, _ in servers.paths[0].posted)
    assert set(sent.values()) == {2}
    assert all(message.length < 100_000 for _, message in servers.paths[0].posted)
    assert all(len(unpack_copies(message, LAYOUT)) == 1 for _, message in servers.paths[0].posted)
    servers.paths[0].posted = []  # they are lost
    servers.all[0].step(1.5)
    assert servers.paths[0].posted == []
    assert not servers.all[0].is_stable(wait)
    assert sum(servers.carry(2.1)) > 3 * 2
    assert servers.all[0].is_stable(wait)


def test_malformed_messages_change_nothing(servers):
    servers.update(0, 1.0, 5)
    servers.all[0].step(1.0)
    for _, message in servers.paths[0].posted:
        for kind in (Kind.COPY, Kind.COPIED, Kind.MOVED):
            servers.paths[2].came.append(
                Message(kind, message.payload[:-4], run=RUN, sender=50, sequence=message.sequence)
            )
    servers.all[2].step(1.0)
    assert servers.paths[2].posted == []
    assert all(not entry.version for entry in servers.tables[2].entries.values())


def test_copies_are_saved_every_three_seconds(servers):
    servers.update(0, 1.0, 5)
    servers.carry(1.0)
    assert servers.tables[1].changed, "the first at once"
    servers.tables[1].changed.clear()
    servers.update(0, 2.0, 6)
    servers.carry(2.0)
    assert not servers.tables[1].changed
    servers.all[1].step(3.9)
    assert not servers.tables[1].changed
    servers.all[1].step(4.1)
    copied = {
        number
        for group, each in enumerate(MAP.copied)
        if each.primary == 0 and 1 in each.in_sync
        for number in SHARDS[group]
    }
    assert servers.tables[1].changed == copied


def test_a_silent_server_is_wished_away(servers):
    assert servers.all[1].wishes(1.0) == ()
    servers.paths[1].silences["c0"] = 0.6
    assert {wish.about for wish in servers.all[1].wishes(2.0)} == {0}


def test_a_server_asks_for_a_newer_map_once_when_another_falls_silent(servers):
    """The one that fell silent may have got roles shortly before, of which this server does not know yet."""
    one = servers.all[1]
    one.wishes(1.0)
    assert not one.outdated
    servers.paths[1].silences["c0"] = 0.6
    one.wishes(2.0)
    assert one.outdated
    one.learn(MAP, RUN, SHARDS)
    one.wishes(3.0)
    assert not one.outdated
