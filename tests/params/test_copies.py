"""Copies on a simulated network: whatever happens to servers, replicas and network, no update is lost or counts twice.

First at random, then each fault at each part in each moment that matters.
"""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from adam_mp.transport.messages import Kind
from adam_mp.transport.sim import BOTH, IN, OUT, Weather
from tests.params.copies_world import FIRST, TURN, World, copies_of
from tests.system.reliability import Row, recorded

# What is done to a member for a while; a member that was killed is started again.
WEATHERS = {
    "100 ms delay": Weather(delay=0.11, least=0.09),
    "30% loss": Weather(loss=0.3),
    "all doubled": Weather(doubling=1.0),
    "reordered": Weather(delay=0.3),
    "bit flips": Weather(flips=0.3),
}
CUTS = {"cut both ways": BOTH, "what it sends cut": OUT, "what it gets cut": IN}
FAULTS = ("killed", "stopped", *CUTS, "its network of copies cut", *WEATHERS, "clock jump", "disk full")
PARTS = ("primary", "secondary", "coordinator", "sender")
MOMENTS = ("before a copy", "between copy and answer", "after the swap and before it is known", "during re-copy")


def begin(world, fault, name):
    """Do something to a member."""
    if fault == "killed":
        world.kill(name)
    elif fault == "stopped":
        world.stopped.add(name)
    elif fault in CUTS:
        world.cut(name, CUTS[fault])
    elif fault == "its network of copies cut":
        world.network.cut(copies_of(name))
    elif fault in WEATHERS:
        world.trouble(name, WEATHERS[fault])
    elif fault == "clock jump":
        world.members[name].skew += 100.0
    else:
        world.disk.full = True


def mend(world):
    world.stopped.clear()
    world.cut("")
    world.trouble("", Weather())
    world.disk.full = False


# At random.


@pytest.mark.parametrize("commit", ["copied", "all"])
@pytest.mark.parametrize("seed", range(10))
def test_no_update_is_lost_or_counts_twice_whatever_happens(seed, commit):
    check_a_world(seed, commit)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("commit", ["copied", "all"])
@pytest.mark.parametrize("first", range(12, 212, 50))
def test_no_update_is_lost_under_more_seeds(first, commit):
    for seed in range(first, first + 50):
        check_a_world(seed, commit)


def check_a_world(seed, commit):
    world = World(seed, commit, Weather())
    chance = world.chance
    world.network.weather = Weather(
        chance.choice([0, 0.05, 0.2]), chance.choice([0, 0.1]), chance.choice([0.005, 0.05])
    )
    ends, calm, faults = 0.0, world.now + 1.0, 0
    try:
        for _ in range(1200):
            world.turn()
            if ends and world.now > ends:
                mend(world)
                ends, calm = 0.0, world.now + chance.choice([0.2, 1.0, 4.0])
            # One fault at a time, and never to a server that alone has what is stable.
            whole = all(not group.joining and group.in_sync for group in world.map.copied)
            if not ends and whole and world.now > calm and chance.random() < 0.05:
                fault = chance.choice(FAULTS)
                name = FIRST if fault == "disk full" else chance.choice(list(world.members))
                if fault == "its network of copies cut":
                    name = chance.choice(world.names)
                begin(world, fault, name)
                ends, faults = world.now + chance.choice([0.3, 0.8, 2.0]), faults + 1
        mend(world)
        world.settle()
        assert faults  # where a fifth of all messages is lost, copies may be made anew after the first until the end
    finally:
        world.close()


# Each fault at each part in each moment.


@dataclasses.dataclass(frozen=True)
class Case:
    fault: str
    part: str
    moment: str


def matrix():
    cases = [Case(*each) for each in itertools.product(FAULTS, PARTS, MOMENTS)]
    only = {"disk full": ("coordinator",), "its network of copies cut": PARTS[:-1]}  # what only these parts have
    return [case for case in cases if case.part in only.get(case.fault, PARTS)]


CHOSEN = {
    ("what it gets cut", "primary", "before a copy"),
    ("killed", "coordinator", "after the swap and before it is known"),
    ("disk full", "coordinator", "after the swap and before it is known"),
    ("what it sends cut", "secondary", "between copy and answer"),
    ("killed", "sender", "between copy and answer"),
    ("30% loss", "primary", "during re-copy"),
    ("its network of copies cut", "primary", "before a copy"),
}


def in_suite(case):
    """Mark the cases that only `make reliability` tries."""
    marks = () if dataclasses.astuple(case) in CHOSEN else pytest.mark.long
    return pytest.param(case, id="-".join(dataclasses.astuple(case)), marks=marks)


@pytest.mark.parametrize("commit", ["copied", "all"])
@pytest.mark.parametrize("case", [in_suite(case) for case in matrix()])
def test_a_fault_at_a_part_in_a_moment(case, commit):
    done = f"{case.part} with --copies 3, simulated: {case.fault}, in each moment of a copy, a failover and a re-copy"
    with recorded(Row(done, "each update is in the weights once; one primary a map epoch; map epochs only grow")):
        check_case(case, commit, seed=1)


def check_case(case, commit, seed):
    world = World(seed, commit, Weather(delay=0.005))
    try:
        run(world, 0.5)
        group = at_moment(world, case.moment)
        name = part_of(world, case.part, group)
        epochs = [world.map.epoch]
        begin(world, case.fault, name)
        world.network.sprung = False
        run(world, 2.0)
        mend(world)
        run(world, 1.0)
        world.settle()
        assert world.map.epoch >= epochs[0]
    finally:
        world.close()


def run(world, seconds):
    for _ in range(int(seconds / TURN)):
        world.turn()


def until(world, condition, seconds=10.0):
    for _ in range(int(seconds / TURN)):
        if condition():
            return
        world.turn()
    raise AssertionError("the moment does not come")


def at_moment(world, moment):
    """Go on until the moment is there; return a group that it is about."""
    names = {server.address: place for place, server in enumerate(world.map.servers)}
    if moment == "during re-copy":
        world.kill("server3")
        until(world, lambda: any(group.joining for group in world.map.copied))
        return next(number for number, group in enumerate(world.map.copied) if group.joining)
    if moment == "after the swap and before it is known":
        world.stopped.add("server3")
        place, epoch = names["server3"], world.map.epoch
        world.network.trap = lambda source, target, message: message.kind == Kind.ORDERS and message.map_epoch > epoch
        led = [number for number, group in enumerate(world.map.copied) if group.primary == place]
        until(world, lambda: world.network.sprung)
        world.stopped.clear()
        return next((number for number in led if world.map.copied[number].primary != place), led[0])
    kind = Kind.COPY if moment == "before a copy" else Kind.COPIED
    found = []

    def trap(source, target, message):
        if message.kind == kind and message.version:
            found.append(world.network.groups[message.shard])
        return bool(found)

    world.network.trap = trap
    until(world, lambda: world.network.sprung)
    return found[0]


def part_of(world, part, number):
    if part == "coordinator":
        return FIRST
    if part == "sender":
        return "replica1"
    group = world.map.copied[number]
    place = group.primary if part == "primary" else (*group.in_sync, *group.joining)[0]
    return world.map.servers[place].address
