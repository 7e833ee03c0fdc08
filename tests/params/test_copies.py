"""Servers with copies, replicas and the coordinator, on a simulated network: no update is lost or counts twice.

Servers are killed and come back empty, are stopped, and are cut off; the network loses, doubles and delays messages.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from adam_mp.memory.exchange import ExchangeMemory
from adam_mp.memory.layout import Layout
from adam_mp.params.replica.exchange import Exchange
from adam_mp.params.run.announcements import Announcements
from adam_mp.params.run.bucket_map import BucketMap, LayoutFacts
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.news import News
from adam_mp.params.run.replies import Replies
from adam_mp.params.run.statements import REPLICA, SERVER, Joining
from adam_mp.params.server.copy_path import Others
from adam_mp.params.server.copying import CopySettings
from adam_mp.params.server.loop import ServerLoop
from adam_mp.params.server.server import ParameterServer
from adam_mp.transport.forms import read, write
from adam_mp.transport.messages import FrameError, Kind, Message
from adam_mp.transport.refusal import RefusedError
from adam_mp.transport.sim import Network, Weather

LAYOUT = Layout.of({f"w{number}": (4, 8) for number in range(12)})
RUN, SERVERS, REPLICAS, BEAT, PATIENCE = 77, 4, 2, 0.1, 0.5
FACTS = {"layout": LayoutFacts.of(LAYOUT).as_list(), "images": 100, "batch_size": 10, "epochs": 1, "quorum": 1.0,
         "agreed": {}}  # fmt: skip


def copies_of(name):
    """Where a server takes copies; all addresses are checked."""
    return f"{name.partition(chr(58))[0]}:7701"


class SimPath:
    """The path of copies on the simulated network: beats go as everything else."""

    def __init__(self, world, name):
        self.network, self.endpoint = world.network, world.network.endpoint(copies_of(name))
        self.others, self.known, self.header, self.beaten, self.looked = Others(PATIENCE), {}, {}, -1.0, world.now

    bytes_sent = 0

    def connect(self, others, header):
        self.known, self.header = dict(others), dict(header)
        self.others.expect(frozenset(others.values()))

    def post(self, address, message):
        return address in self.known.values() and self.endpoint.send(address, message) is not None

    def take(self):
        while (received := self.endpoint.receive(0)) is not None:
            message = received[1]
            self.others.hear(self.known.get(message.sender, ""))
            if message.kind != Kind.BEAT:
                return message
        return None

    def silence(self, address):
        return self.others.silence(address)

    def unheard(self, address):
        return self.others.unheard(address)

    def step(self):
        now = self.network.now
        self.others.listened += min(now - self.looked, 0.05)
        self.looked = now
        if now - self.beaten >= BEAT:
            self.beaten = now
            for address in self.known.values():
                self.endpoint.send(address, Message(Kind.BEAT, **self.header))


class View:
    """A server's membership of the run: requests to the coordinator take effect at once, unless it is cut off."""

    coordinator = "first"

    def __init__(self, world, server):
        self.world, self.server = world, server
        self.joining = Joining(SERVER, server.name, server.name, copies=copies_of(server.name))
        self.sequence = self.life = world.next_life()
        self.reported, self.is_member = world.now - world.chance.random(), False

    run, phase, over = RUN, "training", False

    def is_replica(self, identity):
        return identity >= 1000

    def has(self, groups, bucket_map):
        self.joining = Joining(
            SERVER, self.joining.name, self.joining.address, copies=self.joining.copies, kept=sorted(groups),
            map=bucket_map, run=RUN,
        )  # fmt: skip

    def report(self, make, interval, now):
        world = self.world
        if self.server.name in world.cut or now - self.reported < interval:
            return None
        self.reported, self.sequence = now, self.sequence + 1
        try:
            if not self.is_member:
                told = world.coordinator.join(self.server.identity, write(self.joining), now, self.sequence)
                self.is_member = "waiting" not in told
            else:
                told = world.coordinator.report(self.server.identity, self.sequence, write(make()), now)
        except RefusedError:
            self.is_member = False
            return None
        news = read(News, told, FrameError)
        return news if not news.waiting else None


class Server:
    """A server process; starting it again makes another object, with empty memory."""

    def __init__(self, world, name, identity):
        self.world, self.name, self.identity = world, name, identity
        self.path = SimPath(world, name)
        endpoint = world.network.endpoint(name)
        replies = Replies(endpoint)
        self.view = View(world, self)
        self.server = ParameterServer(
            endpoint, identity, self.view, replies, None, Announcements(lambda text: None), self.path,
            CopySettings(0.05, PATIENCE),
        )  # fmt: skip
        self.loop = ServerLoop(endpoint, self.server, None, replies, lambda: world.now)

    def step(self):
        self.path.step()
        self.loop.step(0)


class Replica:
    """A replica that adds whole numbers to all weights and exchanges them, round after round."""

    def __init__(self, world, number):
        self.world, self.number, self.identity = world, number, 1000 + number
        self.memory = ExchangeMemory.create(world.layout, keeps=True)
        self.weights, self.pushed = np.zeros(LAYOUT.size, np.float32), np.zeros(LAYOUT.size)
        self.map, self.rounds, self.exchange = world.map, 0, None
        self.connect()

    def connect(self, bucket_map=None):
        self.map = bucket_map or self.map
        endpoint = self.world.network.endpoint(f"replica{self.number}")
        peers = list(self.map.addresses)
        self.exchange = Exchange(endpoint, self.memory, self.weights, peers, self.map, RUN, self.identity)
        self.exchange.begin()

    def step(self, more):
        if self.exchange.moved is not None:
            self.connect(self.exchange.moved)
        if self.exchange.done:
            self.rounds += 1
            if more and self.rounds > 1:
                numbers = self.world.random.integers(-3, 4, LAYOUT.size).astype(np.float32)
                self.weights += numbers
                self.pushed += numbers
            self.exchange.begin()
        self.exchange.step(self.world.now, 0)


class World:
    def __init__(self, seed, commit, copies=3):
        self.begin(seed)
        self.coordinator = Coordinator(RUN, SERVERS, copies=copies, commit=commit)
        self.names = [f"server{number}" for number in range(SERVERS)]
        self.servers = {name: Server(self, name, 1 + number) for number, name in enumerate(self.names)}
        for _ in range(200):  # until all servers have joined
            self.turn()
        self.coordinator.join(999, {"role": REPLICA, "facts": FACTS}, self.now)
        self.layout = self.coordinator.map.cut(LAYOUT)
        self.replicas = [Replica(self, number) for number in range(REPLICAS)]
        self.epochs = [self.map.epoch]

    def begin(self, seed):
        self.chance, self.random = random.Random(seed), np.random.default_rng(seed)
        weather = Weather(
            self.chance.choice([0, 0.05]), self.chance.choice([0, 0.1]), self.chance.choice([0.005, 0.05])
        )
        self.network, self.cut, self.stopped, self.lives = Network(seed, weather), set(), {}, 0
        self.replica_layout = LAYOUT

    @property
    def now(self):
        return self.network.now

    @property
    def map(self) -> BucketMap:
        return self.coordinator.map

    def next_life(self):
        self.lives += 1
        return self.lives << 32

    def fault(self):
        """Kill, stop or cut off a server, one at a time: never one that alone has what is stable."""
        name, kind = self.chance.choice(self.names), self.chance.choice(["kill", "stop", "cut"])
        whole = all(not group.joining and len(group.in_sync) >= 1 for group in self.map.copied)
        if self.stopped or self.cut or not whole or self.now < self.calm:
            return
        self.calm = self.now + self.chance.choice([0.2, 1.0, 4.0])
        if kind == "kill":
            self.start(name)
        elif kind == "stop":
            self.stopped[name] = self.now + self.chance.choice([0.3, 0.8, 2.0])
        else:
            self.cut = {name, copies_of(name)}
            self.network.cut(*self.cut)
            self.stopped[""] = self.now + self.chance.choice([0.3, 0.8, 2.0])

    calm = 1.0

    def start(self, name):
        """Start a killed server again.

        It has the same identity, as with snapshots: the coordinator makes a new one wait for its place.
        """
        self.servers[name].server.close()
        self.servers[name] = Server(self, name, self.servers[name].identity)

    def step_others(self):
        self.coordinator.step(self.now)

    def turn(self, faults=False, more=True):
        self.network.advance(0.01)
        for name, until in list(self.stopped.items()):
            if self.now > until:
                del self.stopped[name]
                if not name:
                    self.cut = set()
                    self.network.cut()
        if faults and self.chance.random() < 0.05:
            self.fault()
        self.step_others()
        for name, server in self.servers.items():
            if name not in self.stopped:
                server.step()
        for replica in getattr(self, "replicas", ()):
            replica.step(more)
        if self.map is not None and hasattr(self, "epochs") and self.map.epoch != self.epochs[-1]:
            self.epochs.append(self.map.epoch)

    def run_and_check(self, turns, calm):
        """Let faults happen, then have all replicas exchange what is left: all weights are what was pushed."""
        for _ in range(turns):
            self.turn(faults=True)
        self.network.weather = Weather(delay=0.005)
        for _ in range(calm):
            self.turn(more=False)
        assert self.epochs == sorted(set(self.epochs)), "map epochs grow"
        assert len(self.epochs) > 3, "faults happened"
        expected = sum(replica.pushed for replica in self.replicas)
        assert np.abs(expected).sum() > 0
        for replica in self.replicas:
            assert np.array_equal(replica.weights, expected)
        for number, group in enumerate(self.map.copied):
            assert group.in_sync, "there are copies; a server that was silent often is given new ones late"
            for place in (group.primary, *group.in_sync):
                entries = self.servers[self.map.servers[place].address].server.table.entries.values()
                for entry in entries:
                    if entry.group == number:
                        assert np.array_equal(entry.weights, expected[self.layout.shards[entry.number].place])

    def close(self):
        for server in self.servers.values():
            server.server.close()
        for replica in self.replicas:
            replica.memory.close()


@pytest.mark.parametrize("commit", ["copied", "all"])
@pytest.mark.parametrize("seed", range(12))
def test_no_update_is_lost_or_counts_twice_whatever_happens_to_servers(seed, commit):
    check_a_world(seed, commit)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("commit", ["copied", "all"])
@pytest.mark.parametrize("first", range(12, 212, 50))
def test_no_update_is_lost_under_more_seeds(first, commit):
    for seed in range(first, first + 50):
        check_a_world(seed, commit)


def check_a_world(seed, commit):
    world = World(seed, commit)
    try:
        world.run_and_check(turns=1200, calm=800)
    finally:
        world.close()
