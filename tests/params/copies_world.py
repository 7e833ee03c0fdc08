"""Servers with copies, replicas and the coordinator on a simulated network, and what can be done to them.

All of it is what processes run, but for the clock, the sockets, and the links to the coordinator, which send and
repeat the same messages. The coordinator lives in the first server, as it does in a process.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import random

import numpy as np

from adam_mp.memory.exchange import ExchangeMemory
from adam_mp.memory.layout import Held, Layout
from adam_mp.params.replica.exchange import Exchange
from adam_mp.params.run.announcements import Announcements
from adam_mp.params.run.bucket_map import BucketMap, LayoutFacts
from adam_mp.params.run.coordinator import Coordinator
from adam_mp.params.run.coordinator_service import CoordinatorService
from adam_mp.params.run.member import LIFE
from adam_mp.params.run.news import News
from adam_mp.params.run.replies import Replies
from adam_mp.params.run.statements import REPLICA, SERVER, Joining
from adam_mp.params.server.copy_path import Others
from adam_mp.params.server.copying import CopySettings
from adam_mp.params.server.loop import ServerLoop
from adam_mp.params.server.run_view import HostedRun, OwnJoining
from adam_mp.params.server.server import ParameterServer
from adam_mp.transport.forms import read, write
from adam_mp.transport.messages import FrameError, Kind, Message, with_facts
from adam_mp.transport.sim import BOTH, Network, Weather

LAYOUT = Layout.of({f"w{number}": (4, 8) for number in range(12)})
RUN, SERVERS, REPLICAS, BEAT, PATIENCE = 77, 4, 2, 0.1, 0.5
FIRST = "server0"  # which has the coordinator
TURN = 0.01  # seconds
FACTS = {"layout": LayoutFacts.of(LAYOUT).as_list(), "images": 100, "batch_size": 10, "epochs": 1, "quorum": 1.0,
         "agreed": {}}  # fmt: skip
_PRIMARY_ALONE = (Kind.FRESH, Kind.UNCHANGED)
_AGAIN = 0.5


def copies_of(name):
    """Where a server takes copies; all addresses are checked."""
    return f"{name.partition(chr(58))[0]}:7701"


def link_of(name):
    """Where a member gets the answers of the coordinator."""
    return f"{name}-link"


class WatchedNetwork(Network):
    """Checks that one server alone answers about a group under a map epoch; `trap` takes the first message it fits.

    A trap takes (source, target, message) and tells whether it does; `sprung` says that it did.
    """

    def __init__(self, seed, weather):
        super().__init__(seed, weather)
        self.answering, self.groups, self.trap, self.sprung = {}, (), None, False

    def post(self, source, target, message):
        if message.kind in _PRIMARY_ALONE and self.groups:
            group = self.groups[message.shard]
            first = self.answering.setdefault((group, message.map_epoch), source)
            assert first == source, f"{first} and {source} are primary of group {group}, epoch {message.map_epoch}"
        if self.trap is not None and self.trap(source, target, message):
            self.trap, self.sprung = None, True
            return
        super().post(source, target, message)


class SimPath:
    """The path of copies on the simulated network: beats go as everything else."""

    def __init__(self, world, server):
        self.server, self.network = server, world.network
        self.endpoint = world.network.endpoint(copies_of(server.name))
        self.others, self.known, self.header, self.beaten = Others(PATIENCE), {}, {}, -1.0
        self.looked = server.now

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

    def renew(self):
        pass

    def silence(self, address):
        return self.others.silence(address)

    def unheard(self, address):
        return self.others.unheard(address)

    def step(self):
        now = self.server.now
        self.others.listened += min(now - self.looked, 0.05)
        self.looked = now
        if now - self.beaten >= BEAT:
            self.beaten = now
            for address in self.known.values():
                self.endpoint.send(address, Message(Kind.BEAT, **self.header))


class Link:
    """A member's link to the coordinator: `CoordinatorLink.report`, on the simulated network."""

    def __init__(self, world, name, identity, joining):
        self.endpoint, self.identity, self.joining = world.network.endpoint(link_of(name)), identity, joining
        self.sequence, self.open, self.sent, self.said, self.is_member = world.next_life(), None, 0.0, -1.0, False

    def report(self, make, interval, now):
        if self.open is None and now - self.said >= (interval if self.is_member else _AGAIN):
            self.said, self.sent, self.sequence = now, float("-inf"), self.sequence + 1
            kind, facts = (Kind.REPORT, make()) if self.is_member else (Kind.JOIN, self.joining())
            run = RUN if self.is_member else 0
            self.open = with_facts(kind, facts, run=run, sender=self.identity, sequence=self.sequence)
        if self.open is not None and now - self.sent > _AGAIN:
            self.sent = now
            self.endpoint.send(FIRST, self.open)
        while (received := self.endpoint.receive(0)) is not None:
            message = received[1]
            if self.open is None or message.sequence != self.open.sequence:
                continue
            self.open = None
            if message.kind == Kind.REFUSED:
                self.is_member, self.said = False, float("-inf")
                return None
            news = read(News, message.facts(), FrameError)
            if message.kind == Kind.WELCOME:
                self.is_member = not news.waiting
            return news if self.is_member else None
        return None


class View:
    """A server's membership of the run, as in `RemoteRun`."""

    coordinator = FIRST

    def __init__(self, world, server):
        self.news = News()
        self.joining = Joining(SERVER, server.name, server.name, copies=copies_of(server.name))
        self.link = Link(world, server.name, server.identity, lambda: write(self.joining))

    run = property(lambda self: self.news.run)
    phase = property(lambda self: self.news.phase)
    over = property(lambda self: self.phase == "done" and not self.news.replicas)

    def is_replica(self, identity):
        return identity in self.news.senders

    def has(self, groups, bucket_map):
        self.joining = dataclasses.replace(self.joining, kept=sorted(groups), map=bucket_map, run=RUN)

    def report(self, make, interval, now):
        news = self.link.report(lambda: write(make()), interval, now)
        self.news = news or self.news
        return news


class Disk:
    """The first server's disk, which has the coordinator's state; it may be full."""

    outdated = full = False
    kept = None

    def note(self, facts):
        self.outdated = not self.write_now(facts)
        return True

    def write_now(self, facts):
        if not self.full:
            self.kept = json.dumps(facts)
        return not self.full


class Server:
    """A server process; starting it again makes another object, with empty memory. `skew` is its clock's error."""

    def __init__(self, world, name, identity):
        self.world, self.name, self.identity, self.skew = world, name, identity, 0.0
        self.path = SimPath(world, self)
        endpoint = world.network.endpoint(name)
        replies, told, service = Replies(endpoint), Announcements(lambda text: None), None
        if name == FIRST:
            kept = world.disk.kept
            coordinator = (
                Coordinator.restored(json.loads(kept)["coordinator"]) if kept
                else Coordinator(RUN, SERVERS, copies=world.copies, commit=world.commit)
            )  # fmt: skip
            view = HostedRun(coordinator, identity, name, OwnJoining(name, copies_of(name)))
            service = CoordinatorService(coordinator, identity, replies, told, world.disk)
            view.join(self.now)
        else:
            view = View(world, self)
        self.server = ParameterServer(
            endpoint, identity, view, replies, None, told, self.path, CopySettings(0.05, PATIENCE)
        )
        self.loop = ServerLoop(endpoint, self.server, service, replies, lambda: self.now)

    now = property(lambda self: self.world.now + self.skew)
    map = property(lambda self: self.server.map)
    names = property(lambda self: (self.name, copies_of(self.name), link_of(self.name)))

    def step(self, more):
        self.path.step()
        self.loop.step(0)

    def close(self):
        self.server.close()


class Replica:
    """A replica that adds whole numbers to all weights and exchanges them, round after round.

    `trained` are the sums of the rounds that are over, `open` the numbers of the round that is not.
    """

    def __init__(self, world, number, identity):
        self.world, self.name, self.identity, self.skew = world, f"replica{number}", identity, 0.0
        self.link = Link(world, self.name, identity, self._joining)
        self.weights, self.trained = np.zeros(LAYOUT.size, np.float32), np.zeros(LAYOUT.size)
        self.open = np.zeros(LAYOUT.size, np.float32)
        self.map = self.memory = self.exchange = None
        self.rounds = 0

    now = property(lambda self: self.world.now + self.skew)
    names = property(lambda self: (self.name, link_of(self.name)))

    def _joining(self):
        known = {} if self.map is None else {"run": RUN, "map": self.map.as_dict()}
        return {"role": REPLICA, "name": self.name, "facts": FACTS, **known}

    def connect(self, bucket_map):
        """Exchange by a map; also what the successor of a synchronizer that died does."""
        if self.memory is None:
            self.memory = ExchangeMemory.create(Held.all_of(self.world.layout), keeps=True)
        self.map = bucket_map
        endpoint = self.world.network.endpoint(self.name)
        peers = list(bucket_map.addresses)
        self.exchange = Exchange(endpoint, self.memory, self.weights, peers, bucket_map, RUN, self.identity)
        self.exchange.begin()

    def step(self, more):
        news = self.link.report(lambda: {"epoch": 0, "wanted": 0, "statistics": {}}, 0.5, self.now)
        if news is not None and (self.map is None or news.map.epoch > self.map.epoch):
            self.connect(news.map)
        if self.exchange is None:
            return
        if self.exchange.moved is not None:
            self.connect(self.exchange.moved)
        if self.exchange.done:
            self.rounds += 1
            self.trained += self.open
            self.open[...] = 0
            if more and self.rounds > 1:
                self.open[...] = self.world.random.integers(-3, 4, LAYOUT.size)
                self.weights += self.open
            self.exchange.begin()
        self.exchange.step(self.now, 0)

    def close(self):
        if self.memory is not None:
            self.memory.close()


class World:
    """All of it. `step` a turn at a time; `kill`, `stop`, ... do things to members, given by name."""

    def __init__(self, seed, commit, weather, copies=3):
        self.chance, self.random = random.Random(seed), np.random.default_rng(seed)
        self.copies, self.commit, self.weather, self.lives = copies, commit, weather, 0
        self.network, self.disk = WatchedNetwork(seed, Weather(delay=0.005)), Disk()
        self.stopped, self.seen, self.told = set(), {}, {}
        self.dead = []  # replicas
        self.names = self.make_names()
        self.members = {name: self.make_server(name, 1 + number) for number, name in enumerate(self.names)}
        for number in range(REPLICAS):
            self.members[f"replica{number}"] = self.make_replica(number, 1000 + number)
        for _ in range(1000):
            self.turn()
            if all(replica.rounds for replica in self.replicas):
                break
        assert all(replica.rounds for replica in self.replicas), "the run begins"
        self.network.weather = weather

    def make_names(self):
        return [f"server{number}" for number in range(SERVERS)]

    def make_server(self, name, identity, again=False):
        return Server(self, name, identity)

    def make_replica(self, number, identity):
        return Replica(self, number, identity)

    now = property(lambda self: self.network.now)
    coordinator = property(lambda self: self.members[FIRST].loop.service.coordinator)
    servers = property(lambda self: [self.members[name] for name in self.names])
    replicas = property(lambda self: [each for each in self.members.values() if isinstance(each, Replica)])

    @property
    def map(self) -> BucketMap:
        return self.coordinator.map

    @property
    def layout(self):
        return self.map.cut(LAYOUT)

    def next_life(self):
        self.lives += 1
        return self.lives << LIFE

    # What is done to members.

    def kill(self, name):
        """Kill a member, and start it again with empty memory: a server with its identity, as with snapshots."""
        old = self.members[name]
        if isinstance(old, Replica):
            self.dead.append(old)
            number = int(name.removeprefix("replica"))
            self.members[name] = self.make_replica(number, old.identity + REPLICAS)
        else:
            old.close()
            self.members[name] = self.make_server(name, old.identity, again=True)

    def cut(self, name, way=BOTH):
        """Cut a member off; nobody heals all cuts."""
        self.network.cut(*(self.members[name].names if name else ()), way=way)

    def trouble(self, name, weather):
        """Give one member a weather of its own."""
        self.network.set_weather(weather, *(self.members[name].names if name else ()))

    # Time.

    def turn(self, more=True):
        """Let everybody do its work once. A member that comes after a trap that sprang waits for the next turn."""
        self.network.advance(TURN)
        for name in list(self.members):
            if name not in self.stopped and not self.network.sprung:
                self.members[name].step(more)
        if not self.network.groups and self.map is not None:
            self.network.groups = self.map.groups_of(LAYOUT)
        self._check_maps()

    def _check_maps(self):
        """Check that the map epoch of nobody goes back, and that maps of one epoch are the same."""
        for member in self.members.values():
            bucket_map = member.map
            if bucket_map is None or not bucket_map.copied:
                continue
            assert self.seen.get(id(member), (0, member))[0] <= bucket_map.epoch, "map epochs only grow"
            self.seen[id(member)] = (bucket_map.epoch, member)
            assert self.told.setdefault(bucket_map.epoch, bucket_map) == bucket_map, "one map an epoch"

    def settle(self, seconds=8.0):
        """Let the last updates arrive in good weather, with no faults any more; check that nothing is lost or doubled.

        Updates of a replica that died in a round may be in the weights, or not, shard by shard.
        """
        self.network.weather = Weather(delay=0.005)
        self.network.trap, self.network.sprung, self.disk.full = None, False, False
        self.stopped.clear()
        self.cut("")
        self.trouble("", Weather())
        for _ in range(int(seconds / TURN)):
            self.turn(more=False)
        weights = self.replicas[0].weights
        expected = sum(replica.trained + replica.open for replica in self.replicas)
        expected = expected + sum(replica.trained for replica in self.dead)
        assert np.abs(expected).sum() > 0
        for shard in self.layout.shards:
            lost = [each.open[shard.place] for each in self.dead]
            may_be = [sum(some) for many in range(len(lost) + 1) for some in itertools.combinations(lost, many)]
            rest = weights[shard.place] - expected[shard.place]
            assert any(np.array_equal(rest, each + np.zeros(shard.size)) for each in may_be), rest
        for replica in self.replicas:
            assert replica.exchange.done or not replica.open.any()
            assert np.array_equal(replica.weights, weights)
        for number, group in enumerate(self.map.copied):
            assert group.in_sync, "there are copies; a server that was silent often is given new ones late"
            for place in (group.primary, *group.in_sync):
                entries = self.members[self.map.servers[place].address].server.table.entries.values()
                for entry in entries:
                    if entry.group == number:
                        assert np.array_equal(entry.weights, weights[self.layout.shards[entry.number].place])

    def close(self):
        for member in (*self.members.values(), *self.dead):
            member.close()
