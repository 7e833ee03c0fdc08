"""Servers with copies whose coordinator is elected: any of them may die, and etcd may be silent for any time.

The coordinator is in one of the simulated servers, and goes with it. Etcd is simulated too: it loses answers.
"""

from __future__ import annotations

import pytest

from adam_mp.params.controller.keeper import Keeper
from adam_mp.params.controller.record import Elected, Record, read_record
from adam_mp.params.run.announcements import Announcements
from adam_mp.params.run.news import News
from adam_mp.params.run.replies import Replies
from adam_mp.params.server.copying import CopySettings
from adam_mp.params.server.elected_run import ElectedRun
from adam_mp.params.server.loop import ServerLoop
from adam_mp.params.server.run_view import OwnJoining
from adam_mp.params.server.server import ParameterServer
from adam_mp.transport.forms import read
from adam_mp.transport.messages import FrameError, Kind, with_facts
from adam_mp.transport.sim import BOTH, IN, OUT, Weather
from tests.params.controller.simulated_etcd import SimulatedEtcd
from tests.params.copies_world import PATIENCE, RUN, SERVERS, Replica, SimPath, World, copies_of, link_of

AGAIN, TURN_AWAY = 0.5, 2.0


class ElectedLink:
    """A member's link to the coordinator: `CoordinatorLink`, on the simulated network and its clock."""

    silence, waiting, who = 0.0, "", "the coordinator"

    def __init__(self, world, name, identity, address, joining=None):
        self.world, self.endpoint, self.joining = world, world.network.endpoint(link_of(name)), joining
        self.identity, self.address, self.run, self.is_member = identity, str(address), 0, False
        self.sequence, self.open, self.sent, self.said, self.turned = world.next_life(), None, 0.0, -1.0, world.now

    busy = property(lambda self: self.open is not None)

    def trouble(self):
        return "nobody answers"

    def turn_to(self, place):
        if str(place) != self.address:
            self.address, self.sent, self.turned = str(place), float("-inf"), self.world.now

    def close(self):
        self.open = None

    def report(self, make, joining, interval):
        if isinstance(joining, float):  # as a replica of `copies_world` calls it, with interval and time
            joining, interval = self.joining, joining
        now = self.world.now
        if self.open is None and now - self.said >= (interval if self.is_member else AGAIN):
            self.said, self.sent, self.sequence = now, float("-inf"), self.sequence + 1
            kind, facts = (Kind.REPORT, make()) if self.is_member else (Kind.JOIN, joining())
            run = self.run if self.is_member else 0
            self.open = with_facts(kind, facts, run=run, sender=self.identity, sequence=self.sequence)
        if self.open is not None and now - self.sent > AGAIN:
            self.sent = now
            self.endpoint.send(self.address, self.open)
        while (received := self.endpoint.receive(0)) is not None:
            message = received[1]
            if self.open is not None and message.sequence == self.open.sequence:
                return self._take(message)
        if self.open is not None and now - self.turned > TURN_AWAY:
            names = self.world.names
            self.turn_to(names[(names.index(self.address) + 1) % len(names)])
        return None

    def _take(self, message):
        if message.kind == Kind.REFUSED:
            if there := message.facts().get("coordinator"):
                self.turn_to(there)
            else:
                self.open, self.is_member, self.said = None, False, float("-inf")
            return None
        self.open, self.turned = None, self.world.now
        news = read(News, message.facts(), FrameError)
        if message.kind == Kind.WELCOME and not news.waiting:
            self.is_member, self.run = True, news.run
        return news if self.is_member else None


class Controller:
    """The keeper of a server, whose turns take effect at once."""

    def __init__(self, server, keeper):
        self.server, self.keeper, self.turned = server, keeper, -1.0

    def check(self):
        pass

    def poke(self):
        self.turned = self.server.world.now
        if not self.server.is_etcd_cut:
            self.keeper.turn(self.turned)
        else:
            self.keeper.trouble = "etcd does not answer: the way is cut"

    def step(self):
        if self.server.world.now - self.turned >= 0.1:
            self.poke()


class ElectingServer:
    """A server process; starting it again makes another object, with empty memory."""

    is_etcd_cut, skew = False, 0.0

    def __init__(self, world, name, identity, run=0):
        self.world, self.name, self.identity = world, name, identity
        self.path = SimPath(world, self)
        endpoint = world.network.endpoint(name)
        replies, self.said = Replies(endpoint), []
        fresh = Record(RUN, SERVERS, world.copies, world.commit)
        self.controller = Controller(self, Keeper(world.etcd, Elected(identity, name), fresh, run))
        announcements = Announcements(self.said.append)
        self.view = ElectedRun(
            self.controller, lambda place: ElectedLink(world, name, identity, place),
            OwnJoining(name, copies_of(name)), replies, announcements,
        )  # fmt: skip
        self.server = ParameterServer(
            endpoint, identity, self.view, replies, None, announcements, self.path, CopySettings(0.05, PATIENCE)
        )
        self.loop = ServerLoop(endpoint, self.server, None, replies, lambda: self.now)
        self.joined = False

    now = property(lambda self: self.world.now)
    map = property(lambda self: self.server.map)
    names = property(lambda self: (self.name, copies_of(self.name), link_of(self.name)))

    def step(self, more):
        self.path.step()
        self.controller.step()
        keeper = self.controller.keeper
        if not self.joined:
            if not keeper.leads and (keeper.elected is None or keeper.elected == keeper.me):
                return
            self.joined = True
            self.view.join(self.now, 0.0, lambda: False)
        self.loop.step(0)

    def close(self):
        self.server.close()


class ElectedReplica(Replica):
    def __init__(self, world, number, identity):
        super().__init__(world, number, identity)
        self.link = ElectedLink(world, self.name, identity, world.names[0], self._joining)


class ElectedWorld(World):
    def __init__(self, seed, commit, weather, copies=3):
        self.etcd = SimulatedEtcd(lambda: self.network.now, lambda: self.chance.random() < 0.02)
        self.etcd_back = 0.0
        super().__init__(seed, commit, weather, copies)

    def make_names(self):
        return [f"server{number}:7700" for number in range(SERVERS)]

    def make_server(self, name, identity, again=False):
        return ElectingServer(self, name, identity, run=RUN if again else 0)

    def make_replica(self, number, identity):
        return ElectedReplica(self, number, identity)

    @property
    def map(self):
        found = self.etcd.keys.get("run")
        return read_record(found.value).map if found is not None else None

    def hosts(self):
        return [name for name in self.names if self.members[name].view.service is not None]

    def turn(self, more=True):
        if self.etcd.down and self.now > self.etcd_back:
            self.etcd.down = False
        super().turn(more)


FAULTS = ("killed", "stopped", "cut", "cut in", "cut out", "etcd down", "way to etcd cut")


def begin(world, fault, name, seconds):
    if fault == "killed":
        world.kill(name)
    elif fault == "stopped":
        world.stopped.add(name)
    elif fault.startswith("cut"):
        world.cut(name, {"cut": BOTH, "cut in": IN, "cut out": OUT}[fault])
    elif fault == "etcd down":
        world.etcd.down, world.etcd_back = True, world.now + seconds
    elif name in world.names:
        world.members[name].is_etcd_cut = True


def mend(world):
    world.stopped.clear()
    world.cut("")
    for server in world.servers:
        server.is_etcd_cut = False


def check_a_world(seed, commit):
    world = ElectedWorld(seed, commit, Weather())
    chance = world.chance
    world.network.weather = Weather(chance.choice([0, 0.05]), chance.choice([0, 0.1]), chance.choice([0.005, 0.05]))
    ends, calm, faults = 0.0, world.now + 1.0, 0
    try:
        for _ in range(2000):
            world.turn()
            if ends and world.now > ends:
                mend(world)
                ends, calm = 0.0, world.now + chance.choice([0.2, 1.0, 4.0])
            whole = all(not group.joining and group.in_sync for group in world.map.copied)
            if not ends and whole and world.now > calm and chance.random() < 0.05:
                seconds = chance.choice([0.3, 0.8, 2.0, 5.0])
                begin(world, chance.choice(FAULTS), chance.choice(list(world.members)), seconds)
                ends, faults = world.now + seconds, faults + 1
        mend(world)
        world.etcd.down = False
        world.settle(15.0)
        assert faults > 1
    finally:
        world.close()


@pytest.mark.parametrize("commit", ["copied", "all"])
@pytest.mark.parametrize("seed", range(3))
def test_no_update_is_lost_when_any_server_dies_and_etcd_is_silent(seed, commit):
    check_a_world(seed, commit)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("commit", ["copied", "all"])
@pytest.mark.parametrize("first", range(3, 103, 25))
def test_no_update_is_lost_with_elections_under_more_seeds(first, commit):
    for seed in range(first, first + 25):
        check_a_world(seed, commit)


def run_until(world, condition, seconds):
    until = world.now + seconds
    while not condition():
        assert world.now < until
        world.turn()


@pytest.mark.parametrize("fault", ["stopped", "killed", "cut", "way to etcd cut"])
def test_another_server_is_elected_and_members_find_it(fault):
    world = ElectedWorld(1, "copied", Weather(delay=0.005))
    try:
        (first,) = world.hosts()
        begin(world, fault, first, 0.0)
        run_until(world, lambda: set(world.hosts()) - {first}, 6.0)
        (other,) = set(world.hosts()) - {first}
        coordinator = world.members[other].view.service.coordinator
        run_until(world, lambda: len(coordinator.roster.replicas()) == 2, 12.0)
        rounds = min(replica.rounds for replica in world.replicas)
        run_until(world, lambda: min(replica.rounds for replica in world.replicas) > rounds + 3, 5.0)
        mend(world)
        run_until(world, lambda: len(coordinator.roster.servers()) == SERVERS, 30.0)
        assert world.hosts() == [other]
    finally:
        world.close()


def test_a_run_goes_on_while_etcd_is_silent_and_roles_change_when_it_is_back():
    world = ElectedWorld(1, "copied", Weather(delay=0.005))
    try:
        (first,) = world.hosts()
        begin(world, "etcd down", first, 20.0)
        rounds = world.replicas[0].rounds
        run_until(world, lambda: world.now > world.etcd_back - 5.0, 20.0)
        assert world.hosts() == [first]
        assert world.replicas[0].rounds > rounds + 50
        before, victim = world.map, next(name for name in world.names if name != first)
        world.stopped.add(victim)
        run_until(world, lambda: not world.etcd.down, 6.0)
        assert world.map == before
        run_until(world, lambda: world.map.epoch > before.epoch, 1.0)
        world.stopped.clear()
        world.settle(15.0)
    finally:
        world.close()
