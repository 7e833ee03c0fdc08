"""Copies of shards under a simulated network: every update counts once, whichever servers die, stop or are cut off."""

from __future__ import annotations

import dataclasses
import heapq
import math
import random

import pytest

from adam_mp.params.run.copy_groups import CopyGroup, Swap, first_groups, grant, promoted, with_joining, without
from adam_mp.params.server.replicator import Follower, Leader
from adam_mp.params.server.takeover import find_wish

SHARDS, SENDERS, SERVERS = range(3), range(100, 103), range(4)
BEAT, DEAD = 0.1, 0.5


@dataclasses.dataclass
class State:
    """A shard's weight, a sum of integers, and the updates in it."""

    weight: int = 0
    applied: dict = dataclasses.field(default_factory=dict)
    version: int = 1


class Server:
    def __init__(self, world, name):
        self.world, self.name = world, name
        self.group = world.groups[0] if world.born else None  # one that was started again asks the controller
        self.state = {shard: State() for shard in SHARDS}
        self.leader, self.follower, self.heard = None, Follower(), dict.fromkeys(SERVERS, world.now)
        self.asked = -1.0
        self.learn(world.groups[0])

    def learn(self, group):
        if self.group is not None and group.epoch < self.group.epoch:
            return
        self.follower.learn(group.epoch)
        leads = group.primary == self.name
        if leads and self.leader is not None:
            if group != self.group:
                self.leader.regroup(group)
        elif leads:
            self.leader = Leader(group, SHARDS, 0.05)
            self.heard = dict.fromkeys(SERVERS, self.world.now)
        else:
            self.leader = None
        self.group = group

    def take(self, source, kind, *fields):
        world = self.world
        self.heard[source] = world.now
        if kind == "map":
            self.learn(fields[0])
        elif kind in ("delta", "ask") and (self.leader is None or fields[0] != self.group.epoch):
            world.post(self.name, source, "map", self.group)
        elif kind == "delta":
            _, sequence, shard, amount = fields
            state = self.state[shard]
            if sequence > state.applied.get(source, 0):
                state.applied[source], state.weight, state.version = sequence, state.weight + amount, state.version + 1
                self.leader.changed(shard, world.now)
                if world.hurries:
                    self.leader.hurry(world.now, 0.005)
            self.answer(source, shard)
        elif kind == "ask":
            self.leader.ask(source, world.now)
            self.answer(source, fields[1])
        elif kind == "copy":
            epoch, copies = fields
            if self.leader is not None and epoch <= self.group.epoch:
                world.post(self.name, source, "map", self.group)
                return
            verdicts = [
                (shard, version, self.take_copy(epoch, shard, version, *rest)) for shard, version, *rest in copies
            ]
            world.post(self.name, source, "copied", epoch, verdicts)
            if not all(taken for _, _, taken in verdicts):
                world.post(self.name, source, "map", self.group)
        elif kind == "copied" and self.leader is not None:
            for shard, version, taken in fields[1]:
                if taken:
                    self.leader.copied(source, fields[0], shard, version)
                else:
                    self.leader.refused(source, shard, version, world.now)

    def take_copy(self, epoch, shard, version, weight, applied):
        taken = self.follower.takes(epoch, shard, version)
        if taken:
            self.state[shard] = State(weight, dict(applied), version)
        return taken is not None

    def answer(self, sender, shard):
        applied = self.state[shard].applied.get(sender, 0)
        stable = self.leader.stable(shard, sender, applied)
        self.world.post(self.name, sender, "fresh", self.group.epoch, shard, applied, stable)

    def step(self):
        world, group = self.world, self.group
        if self.leader is not None:
            for follower, shards in self.leader.due(world.now).items():
                some = shards[: world.room]
                copies = [(shard, self.state[shard].version, self.state[shard].weight, dict(self.state[shard].applied))
                          for shard in some]  # fmt: skip
                for shard, version, _, applied in copies:
                    self.leader.sent(follower, shard, version, applied, world.now)
                world.post(self.name, follower, "copy", group.epoch, copies)
        ready = self.leader.ready(lambda shard: self.state[shard].applied) if self.leader is not None else None
        wish = find_wish(group, self.name, lambda place: world.now - self.heard[place], DEAD, ready)
        if wish is not None:
            self.ask(wish.wanted)
        elif self.leader is not None and len(group.holders) < 3 and (spare := world.spare(group)):
            self.ask(with_joining(group, spare[0]))

    def ask(self, wanted):
        if self.world.now - self.asked > 0.1:
            self.asked = self.world.now
            self.world.post(self.name, "controller", "swap", Swap(0, self.name, wanted))

    def beat(self):
        for other in SERVERS:
            if other != self.name:
                self.world.post(self.name, other, "beat")


class Sender:
    """Sends integers to each shard, at most two that are not stable, one on its way; sends them again after a loss."""

    def __init__(self, world, name):
        self.world, self.name = world, name
        self.group, self.sequence = world.groups[0], 0
        self.kept = {shard: [] for shard in SHARDS}  # (sequence, amount) that are not stable
        self.next = dict.fromkeys(SHARDS, 0)  # how many of them the present primary has
        self.asked = dict.fromkeys(SHARDS, -9.0)
        self.total, self.known, self.turn = dict.fromkeys(SHARDS, 0), 0, 0

    def take(self, source, kind, *fields):
        if kind == "map" and fields[0].epoch > self.group.epoch:
            self.group = fields[0]
            self.next = dict.fromkeys(SHARDS, 0)
        elif kind == "fresh":
            epoch, shard, applied, stable = fields
            if epoch != self.group.epoch or source != self.group.primary:
                return
            kept = self.kept[shard]
            while kept and kept[0][0] <= stable:
                kept.pop(0)
            self.next[shard] = sum(sequence <= applied for sequence, _ in kept)

    def step(self, more):
        for shard in SHARDS:
            kept = self.kept[shard]
            if more and len(kept) < 2 and self.world.random.random() < 0.1:
                self.sequence += 1
                amount = self.world.random.randrange(1, 1000)
                self.total[shard] += amount
                kept.append((self.sequence, amount))
            if kept and self.world.now - self.asked[shard] > 0.1:
                self.asked[shard] = self.world.now
                holders = (self.group.primary, *self.group.in_sync)
                self.turn += 1
                target = holders[0] if self.turn % 3 else holders[self.turn // 3 % len(holders)]
                if self.next[shard] < len(kept):
                    sequence, amount = kept[self.next[shard]]
                    self.world.post(self.name, target, "delta", self.group.epoch, sequence, shard, amount)
                else:
                    self.world.post(self.name, target, "ask", self.group.epoch, shard)


class World:
    def __init__(self, seed):
        self.random, self.now, self.count = random.Random(seed), 0.0, 0
        self.groups = list(first_groups("abcd", 3)[:1])
        self.born = False
        self.loss, self.doubling = self.random.choice([0, 0, 0.1, 0.3]), self.random.choice([0, 0.2])
        self.delay = self.random.choice([0.002, 0.02, 0.1])
        self.hurries, self.room = self.random.choice([True, False]), self.random.choice([1, 3])
        self.mail, self.stopped, self.cut = [], {}, set()
        self.servers = {name: Server(self, name) for name in SERVERS}
        self.born = True
        self.senders = {name: Sender(self, name) for name in SENDERS}
        self.epochs = [self.groups[0].epoch]

    def spare(self, group):
        return [each for each in SERVERS if each not in group.holders and each not in self.stopped]

    def post(self, source, target, *message):
        for _ in range(1 + (self.random.random() < self.doubling)):
            if self.random.random() >= self.loss:
                self.count += 1
                heapq.heappush(
                    self.mail, (self.now + self.random.uniform(0, self.delay), self.count, source, target, message)
                )

    def swap(self, source, swap):
        granted = grant(self.groups[0], swap, self.groups[0].epoch + 1)
        if granted is not None:
            self.groups[0] = granted
            self.epochs.append(granted.epoch)
        for each in (source, *self.groups[0].holders):
            self.post("controller", each, "map", self.groups[0])

    def fault(self):
        """Kill, stop or cut off a server; at most one at a time, and never the last that has all that is stable."""
        group = self.groups[0]
        server, kind = self.random.choice(SERVERS), self.random.choice(["kill", "stop", "cut"])
        last = not group.in_sync and server == group.primary
        if self.stopped or self.cut or last:
            return
        if kind == "kill" and (server not in group.holders or group.in_sync):
            # What it had is gone. It may come back at once, as a new server: the controller removes it first.
            if server == group.primary:
                self.groups[0] = dataclasses.replace(promoted(group, group.in_sync[0]), epoch=group.epoch + 1)
            elif server in group.holders:
                self.groups[0] = dataclasses.replace(without(group, server), epoch=group.epoch + 1)
            if self.groups[0] != group:
                self.epochs.append(self.groups[0].epoch)
            self.servers[server] = Server(self, server)
            for each in self.groups[0].holders:
                self.post("controller", each, "map", self.groups[0])
        elif kind == "stop":
            self.stopped[server] = self.now + self.random.choice([0.3, 0.8, 2.0])
        elif kind == "cut":
            self.cut = {server}
            self.stopped[-1] = self.now + self.random.choice([0.3, 0.8, 2.0])

    def run(self, seconds, faults):
        end = self.now + seconds
        while self.now < end:
            self.now += 0.01
            for server, until in list(self.stopped.items()):
                if self.now > until:
                    del self.stopped[server]
                    if server == -1:
                        self.cut = set()
            if faults and self.random.random() < 0.08:
                self.fault()
            while self.mail and self.mail[0][0] <= self.now:
                _, _, source, target, message = heapq.heappop(self.mail)
                if target in self.stopped or (source in self.cut) != (target in self.cut):
                    continue
                if target == "controller":
                    self.swap(source, message[1])
                else:
                    {**self.servers, **self.senders}[target].take(source, *message)
            if round(self.now * 100) % 50 == 0:  # the news that follow each report
                for name in SERVERS:
                    self.post("controller", name, "map", self.groups[0])
            for name, server in self.servers.items():
                if name not in self.stopped:
                    server.step()
                    if round(self.now * 100) % 10 == 0:
                        server.beat()
            for sender in self.senders.values():
                sender.step(faults)


def make_leader(gather=0.05):
    """A leader with two followers that have everything."""
    leader = Leader(CopyGroup(5, 0, (1, 2)), SHARDS, gather)
    for follower, shards in leader.due(0.0).items():
        for shard in shards:
            leader.sent(follower, shard, 1, {}, 0.0)
            leader.copied(follower, 5, shard, 1)
    assert leader.due(0.0) == {}
    return leader


def test_shards_that_changed_are_copied_together_when_all_senders_wait():
    leader = make_leader()
    leader.changed(2, 1.0)
    leader.changed(0, 1.0)
    assert (leader.due(1.4), leader.due(1.5)) == ({}, {1: [2, 0], 2: [2, 0]}), "late, if nobody waits"
    leader.ask(100, 1.1)
    assert leader.due(1.1) == {1: [2, 0], 2: [2, 0]}, "nobody else is expected"
    for follower in (1, 2):
        for shard in (2, 0):
            leader.sent(follower, shard, 2, {}, 1.1)
            leader.copied(follower, 5, shard, 2)
    leader.changed(1, 1.2)
    leader.ask(101, 1.2)
    assert leader.next_due(1.2) == pytest.approx(0.05)
    assert (leader.due(1.24), leader.due(1.26)) == ({}, {1: [1], 2: [1]}), "sender 100 is waited for, not for long"
    leader.changed(0, 1.21)
    leader.ask(100, 1.22)
    assert leader.due(1.22) == {1: [1, 0], 2: [1, 0]}
    for follower in (1, 2):
        for shard in (1, 0):
            leader.sent(follower, shard, 3, {}, 1.22)
    assert leader.due(1.3) == {}
    assert leader.next_due(1.3) == math.inf
    leader.changed(0, 2.2)
    leader.ask(101, 2.22)  # sender 100 has not asked for a second
    assert leader.due(2.215) == {}, "shard 0 is on its way"
    assert leader.due(2.22) == {1: [1, 0], 2: [1, 0]}, "it was lost"
    leader.copied(1, 5, 0, 3)
    assert leader.due(2.23) == {1: [1, 0], 2: [1, 0]}, "it has changed since"


def test_what_is_refused_is_copied_again_soon_and_not_at_once():
    leader = make_leader()
    leader.changed(0, 1.0)
    leader.hurry(1.0, 0.005)
    assert (leader.due(1.0), leader.due(1.01)) == ({}, {1: [0], 2: [0]})
    for follower in (1, 2):
        leader.sent(follower, 0, 2, {}, 1.01)
    leader.copied(2, 5, 0, 2)
    leader.refused(1, 0, 2, 1.02)
    assert (leader.due(1.03), leader.due(1.08)) == ({}, {1: [0]})
    leader.regroup(CopyGroup(6, 0, (1, 2)))
    assert leader.due(1.03) == {1: [0]}, "under a newer map epoch at once"


def test_a_copy_of_an_older_map_epoch_is_refused_and_one_that_is_known_is_not_taken_again():
    follower = Follower()
    assert follower.takes(5, 0, 7) is True
    assert follower.takes(5, 0, 7) is False
    assert follower.takes(5, 0, 6) is False
    follower.learn(6)
    assert follower.takes(5, 1, 9) is None
    assert follower.takes(6, 0, 1) is True, "versions of another primary do not compare"
    assert follower.takes(5, 0, 99) is None


def test_a_new_copy_is_ready_with_all_that_was_stable_and_counts_before_that():
    leader = make_leader()
    leader.regroup(CopyGroup(6, 0, (1,), (3,)))
    assert leader.due(1.0) == {3: list(SHARDS)}
    applied = {shard: {100: 4} for shard in SHARDS}
    for follower in (1, 3):
        for shard in SHARDS:
            leader.sent(follower, shard, 2, applied[shard] if follower == 1 else {}, 1.0)
            leader.copied(1, 6, shard, 2)
    assert leader.stable(0, 100, 4) == 4
    assert leader.ready(applied.__getitem__) is None, "it has no shard yet"
    for shard in SHARDS:
        leader.copied(3, 6, shard, 2)
    assert leader.ready(applied.__getitem__) is None, "it lacks what is stable"
    assert leader.stable(0, 100, 4) == 0, "and counts"
    for shard in SHARDS:
        leader.sent(3, shard, 3, applied[shard], 1.1)
        assert leader.ready(applied.__getitem__) is None
        leader.copied(3, 6, shard, 3)
    assert leader.ready(applied.__getitem__) == 3


@pytest.mark.parametrize("seed", range(200))
def test_every_update_counts_once_whatever_happens_to_servers(seed):
    check_a_world(seed)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(200, 10_200, 1250))
def test_every_update_counts_once_under_ten_thousand_seeds(first):
    for seed in range(first, first + 1250):
        check_a_world(seed)


def check_a_world(seed):
    world = World(seed)
    world.run(8.0, faults=True)
    world.loss = 0
    world.run(6.0, faults=False)
    assert world.epochs == sorted(set(world.epochs))
    group = world.groups[0]
    assert not any(sender.kept[shard] for sender in world.senders.values() for shard in SHARDS), "all is stable"
    for shard in SHARDS:
        total = sum(sender.total[shard] for sender in world.senders.values())
        for holder in (group.primary, *group.in_sync):
            assert world.servers[holder].state[shard].weight == total
