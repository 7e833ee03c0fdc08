"""Servers with copies whose coordinator is elected: any of them may die, and etcd may be silent for any time.

The coordinator is one of the simulated servers of `test_copies`, and goes with it. Etcd is simulated too.
"""

from __future__ import annotations

import itertools

import pytest

from adam_mp.params.controller.keeper import Keeper
from adam_mp.params.controller.record import Elected, Record, read_record
from adam_mp.params.run.announcements import Announcements
from adam_mp.params.run.membership import RejoinError
from adam_mp.params.run.news import News
from adam_mp.params.run.replies import Replies
from adam_mp.params.run.statements import REPLICA, Joining
from adam_mp.params.server.copying import CopySettings
from adam_mp.params.server.elected_run import ElectedRun
from adam_mp.params.server.loop import ServerLoop
from adam_mp.params.server.run_view import OwnJoining
from adam_mp.params.server.server import ParameterServer
from adam_mp.transport.forms import read, write
from adam_mp.transport.messages import FrameError
from adam_mp.transport.refusal import RefusedError
from tests.params.controller.simulated_etcd import SimulatedEtcd
from tests.params.test_copies import FACTS, PATIENCE, RUN, SERVERS, Replica, SimPath, World, copies_of

PORT = 7700


class Link:
    """A member's link to the coordinator in the simulated world: a request takes effect at once, or gets no answer."""

    busy, silence, waiting, who, _member = False, 0.0, "", "the coordinator", False

    def __init__(self, world, name, address, identity):
        self.world, self.name, self.address, self.identity, self.run = world, name, str(address), identity, 0
        self.sequence, self.said, self.turned = world.next_life(), -1.0, world.now

    def turn_to(self, place):
        self.address = str(place)

    def close(self):
        pass

    def trouble(self):
        return "nobody answers"

    def report(self, make, joining, interval):
        if self.world.now - self.said < (interval if self._member else 0.1):
            return None
        self.said = self.world.now
        try:
            news = self._ask(make() if self._member else joining())
        except RejoinError:
            self._member = False
            return None
        if news is None and self.world.now - self.turned > 2.0:
            self.turned = self.world.now
            self.address = self.world.chance.choice(self.world.names)
        return news if self._member else None

    def _ask(self, facts):
        world = self.world
        server = world.servers.get(self.address)
        if server is None or self.address in world.stopped or (self.address in world.cut) != (self.name in world.cut):
            return None
        service = server.view.service
        if service is None:
            self.address = server.view.coordinator or self.address
            return None
        self.sequence += 1
        try:
            if self._member and self.run == service.coordinator.run:
                told = service.coordinator.report(self.identity, self.sequence, facts, world.now)
            else:
                told = service.coordinator.join(self.identity, facts, world.now, self.sequence)
        except RefusedError as error:
            if error.rejoin:
                raise RejoinError(str(error)) from None
            raise
        news = read(News, told, FrameError)
        self.turned = world.now
        if not news.waiting:
            self._member, self.run = True, news.run
        return news


class Controller:
    """The keeper of a server, whose turns take effect at once."""

    def __init__(self, world, keeper):
        self.world, self.keeper, self.turned = world, keeper, -1.0

    def check(self):
        pass

    def poke(self):
        self.turned = self.world.now
        self.keeper.turn(self.world.now)

    def step(self):
        if self.world.now - self.turned >= 0.1:
            self.poke()


class ElectingServer:
    """A server process; starting it again makes another object, with empty memory."""

    def __init__(self, world, name, identity, run=0):
        self.world, self.name, self.identity = world, name, identity
        self.path = SimPath(world, name)
        endpoint = world.network.endpoint(name)
        replies, self.told = Replies(endpoint), []
        fresh = Record(RUN, SERVERS, world.copies, world.commit)
        self.controller = Controller(world, Keeper(world.etcd, Elected(identity, name), fresh, run))
        announcements = Announcements(self.told.append)
        self.view = ElectedRun(
            self.controller, lambda place: Link(world, name, place, identity), OwnJoining(name, copies_of(name)),
            replies, announcements,
        )  # fmt: skip
        self.server = ParameterServer(
            endpoint, identity, self.view, replies, None, announcements, self.path, CopySettings(0.05, PATIENCE)
        )
        self.loop = ServerLoop(endpoint, self.server, None, replies, lambda: world.now)
        self.joined = False

    def step(self):
        self.path.step()
        self.controller.step()
        keeper = self.controller.keeper
        if not self.joined:
            if not keeper.leads and (keeper.elected is None or keeper.elected == keeper.me):
                return
            self.joined = True
            self.view.join(self.world.now, 0.0, lambda: False)
        self.loop.step(0)


class Member:
    """The membership of a replica: it reports, and joins again whenever a coordinator does not know it."""

    def __init__(self, world, identity):
        self.world = world
        self.link = Link(world, f"replica{identity - 1000}", world.names[0], identity)

    def step(self):
        joining = write(Joining(REPLICA, f"replica {self.link.identity}")) | {"facts": FACTS, "run": self.link.run}
        self.link.report(dict, lambda: joining, 0.3)


class ElectedWorld(World):
    def __init__(self, seed, commit, copies=3):
        self.commit, self.copies = commit, copies
        self.etcd = SimulatedEtcd(lambda: self.network.now, lambda: self.chance.random() < 0.02)
        self.begin(seed)
        self.names = [f"server{number}:{PORT}" for number in range(SERVERS)]
        self.servers = {}
        for number, name in enumerate(self.names):
            self.servers[name] = ElectingServer(self, name, 1 + number)
        self.members = [Member(self, 1000 + number) for number in range(2)]
        for _ in range(1000):
            self.turn()
            if self.map is not None:
                break
        self.layout = self.map.cut(self.replica_layout)
        self.replicas = [Replica(self, number) for number in range(2)]
        self.epochs = [self.map.epoch]

    @property
    def map(self):
        found = self.etcd.keys.get("run")
        return read_record(found.value).map if found is not None else None

    def start(self, name):
        """Start a killed server again, as with snapshots: with its identity, which may be elected again."""
        old = self.servers[name]
        old.server.close()
        self.servers[name] = ElectingServer(self, name, old.identity, run=RUN)

    def step_others(self):
        for member in self.members:
            member.step()
        if self.etcd.down and self.now > self.back:
            self.etcd.down = False

    def fault(self):
        super().fault()
        if not self.etcd.down and self.chance.random() < 0.02:
            self.etcd.down, self.back = True, self.now + self.chance.choice([0.5, 2.0, 6.0])


@pytest.mark.parametrize("commit", ["copied", "all"])
@pytest.mark.parametrize("seed", range(2))
def test_no_update_is_lost_when_any_server_dies_and_etcd_is_silent(seed, commit):
    check_a_world(seed, commit)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("commit", ["copied", "all"])
@pytest.mark.parametrize("first", range(2, 102, 25))
def test_no_update_is_lost_with_elections_under_more_seeds(first, commit):
    for seed in range(first, first + 25):
        check_a_world(seed, commit)


def check_a_world(seed, commit):
    world = ElectedWorld(seed, commit)
    try:
        world.run_and_check(turns=2000, calm=1500)
    finally:
        world.close()


def test_another_server_is_elected_when_the_coordinator_dies():
    world = ElectedWorld(1, "copied")
    try:
        hosts = [name for name, server in world.servers.items() if server.view.service is not None]
        assert len(hosts) == 1
        world.stopped[hosts[0]] = world.now + 1000
        for turn in itertools.count():
            world.turn()
            hosting = [name for name, server in world.servers.items() if server.view.service is not None]
            if set(hosting) - set(hosts):
                break
            assert turn < 500, "an election takes less than 5 s"
        coordinator = world.servers[(set(hosting) - set(hosts)).pop()].view.service.coordinator
        for _ in range(300):
            world.turn()
        assert len(coordinator.roster.replicas()) == 2, "replicas have found it"
        assert coordinator.phase == "training"
    finally:
        world.close()
