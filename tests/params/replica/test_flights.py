"""A replica's questions: as many on their way to each server, whichever of them are slow or dead."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from adam_mp.errors import TransportError
from adam_mp.memory.exchange import SEEN, UNSEEN, ExchangeMemory
from adam_mp.memory.layout import Held, Layout
from adam_mp.params.replica.exchange import Exchange
from adam_mp.params.run.bucket_map import BucketMap, ServerPlace
from adam_mp.params.server.buffers import WINDOW
from adam_mp.transport.messages import Kind, Message

LAYOUT = Layout.of({f"w{number}": (64, 64) for number in range(50)}).for_servers(3)  # a shard each
SERVERS = ("server0", "server1", "server2")
MAP = BucketMap(1, tuple(ServerPlace(number, name) for number, name in enumerate(SERVERS)))
OWNERS = [SERVERS[owner] for owner in MAP.owners(LAYOUT)]


class Copy:
    """A question that leaves when the test says so."""

    def __init__(self, message, done):
        self.message, self.done = message, done


class Servers:
    """An endpoint: servers answer at once, but for those in `dead`, to whom nothing leaves."""

    def __init__(self, dead=()):
        self.dead, self.asked = set(dead), collections.defaultdict(list)
        self._answers = collections.deque()

    def send(self, peer, message):
        self.asked[peer].append(Copy(message, done=peer not in self.dead))
        if peer not in self.dead:
            echo = {"shard": message.shard, "sequence": message.sequence, "map_epoch": message.map_epoch}
            if message.version:
                self._answers.append((peer, Message(Kind.UNCHANGED, version=message.version + 1, **echo)))
            else:
                self._answers.append((peer, Message(Kind.FRESH, np.zeros(64 * 64, np.float32), version=7, **echo)))
        return self.asked[peer][-1]

    def receive(self, seconds):
        return self._answers.popleft() if self._answers else None


@pytest.fixture
def memory():
    made = ExchangeMemory.create(Held.all_of(LAYOUT))
    yield made
    made.close()


def exchange_with(servers, memory, weights):
    exchange = Exchange(servers, memory, weights, list(SERVERS), MAP, run=5, identity=9)
    exchange.begin()
    return exchange


def states_of(memory, server):
    return {int(state) for state, owner in zip(memory.states, OWNERS, strict=True) if owner == server}


def test_a_dead_server_does_not_hold_up_the_exchange_with_the_others(memory):
    weights, dead = np.zeros(LAYOUT.size, np.float32), Servers(dead=["server0"])
    assert min(collections.Counter(OWNERS).values()) > 2 * WINDOW
    exchange = exchange_with(dead, memory, weights)
    for _ in range(100):
        exchange.step(0.0, 0)
    assert [states_of(memory, server) for server in SERVERS] == [{UNSEEN}, {SEEN}, {SEEN}]
    assert not exchange.done
    assert exchange.unanswered() == {"server0": ""}
    assert len(dead.asked["server0"]) == WINDOW
    exchange = exchange_with(Servers(), memory, weights)
    while not exchange.done:
        exchange.step(0.0, 0)
    weights += 1  # now with payloads in buffers, which a dead server's queue does not let go of
    exchange = exchange_with(dead, memory, weights)
    before = memory.read("pushes")
    for _ in range(100):
        exchange.step(0.0, 0)
    assert exchange.unanswered() == {"server0": ""}
    assert memory.read("pushes") - before == len(OWNERS) - OWNERS.count("server0") + WINDOW


def test_another_number_of_servers_is_refused(memory):
    two = BucketMap(2, MAP.servers[:2])
    with pytest.raises(TransportError, match="the run began with 3 parameter servers and has 2 now"):
        Exchange(Servers(), memory, np.zeros(LAYOUT.size, np.float32), list(SERVERS[:2]), two, run=5, identity=9)


def test_each_server_is_asked_in_turn(memory):
    servers = Servers(dead=SERVERS)
    order, send = [], servers.send
    servers.send = lambda peer, message: order.append(peer) or send(peer, message)
    exchange = exchange_with(servers, memory, np.zeros(LAYOUT.size, np.float32))
    exchange.step(0.0, 0)
    assert order == list(SERVERS) * WINDOW


def test_a_question_that_has_not_left_is_not_sent_again(memory):
    servers = Servers(dead=["server1"])
    exchange = exchange_with(servers, memory, np.zeros(LAYOUT.size, np.float32))
    for now in np.arange(0.0, 5.0, 0.25):
        exchange.step(float(now), 0)
    assert len(servers.asked["server1"]) == WINDOW
    for copy in servers.asked["server1"]:
        copy.done = True
    asked = []
    for now in (5.0, 5.25, 5.5, 5.75, 6.0):  # a second from when it was last seen waiting
        exchange.step(now, 0)
        asked.append(len(servers.asked["server1"]))
    assert asked == [WINDOW, WINDOW, WINDOW, 2 * WINDOW, 2 * WINDOW]
