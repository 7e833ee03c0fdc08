"""Members, leader and couriers of three machines in threads that are switched at random moments, while things fail."""

from __future__ import annotations

import random
import sys
import threading
import time

import numpy as np
import pytest

from adam_mp.memory.group import TRAIN, GroupShape, Work
from adam_mp.network.part_layers import ERRORS, GRADIENT, VALUES, WEIGHTS, Message
from adam_mp.network.spread import Interval
from tests.partitions.mesh import Mesh, empty_slot

LANES, BATCH, IMAGE = 2, 4, (6, 2, 1)
POSTS = (
    Message("a", VALUES, 0, 1, 3), Message("a", VALUES, 1, 2, 5000), Message("b", VALUES, 2, 0, 2),
    Message("b", ERRORS, 0, 2, 7), Message("a", ERRORS, 2, 1, 5000), Message("a", ERRORS, 1, 0, 3),
    Message("update", GRADIENT, 1, 2, 40_000, of_batch=True), Message("update", WEIGHTS, 2, 1, 40_000, of_batch=True),
)  # fmt: skip
ROWS = (Interval(0, 6), Interval(1, 4), Interval(3, 6))


class Member(threading.Thread):
    """Does works as `training.worker.member` does: here a work is to send and to check the messages, in their order."""

    def __init__(self, mesh: Mesh, part: int, stopped: threading.Event) -> None:
        super().__init__(daemon=True)
        self.mesh, self.part, self.group, self.stopped = mesh, part, mesh.members[part], stopped
        self.generation, self.next, self.flying = -1, None, []
        self.fault: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stopped.is_set():
                if not (self.gather() or self.lead() or self.advance()):
                    time.sleep(0)
        except BaseException as error:
            self.fault = error

    def gather(self) -> bool:
        generation = self.group.generation
        if generation == self.generation and self.next is not None:
            return False
        if generation != self.generation:
            self.flying.clear()
            self.generation, self.next = generation, None
            self.group.acknowledge(generation)
            return True
        self.next = self.group.resumed_at(generation)
        if self.next is not None:
            self.group.end(self.next - 1)
        return self.next is not None

    def lead(self) -> bool:
        return False

    def advance(self) -> bool:
        if self.next is None:
            return False
        while self.next < self.group.announced:
            self.flying.append([self.next, 0])
            self.group.mails[self.next % LANES].begin(self.next)
            self.next += 1
        return any(list(map(self.move, list(self.flying))))

    def check_images(self, number: int) -> None:
        """See that a work has the images of its batch, as far as this machine reads them."""
        work = self.group.work(number)
        slot = (self.group.arrivals or self.mesh.slots)[work.slot]
        rows = slice(ROWS[self.part].begin, ROWS[self.part].end)
        values, is_void = np.unique(slot.images[: work.images, rows]), self.group.generation != self.generation
        assert is_void or values.tolist() == [work.batch], (self.part, number, values)

    def move(self, flight) -> bool:
        number, position = flight
        if position == 0:
            self.check_images(number)
        mail = self.group.mails[number % LANES]
        if position == len(POSTS):
            if self.flying[0] is flight:
                self.flying.pop(0)
                self.group.end(number)
            return True
        post, expected = POSTS[position], 100 * number + position
        if post.sender == self.part:
            mail.array(post)[...] = expected
            mail.send(post)
        elif post.receiver == self.part:
            if not mail.arrived(post):
                return False
            found = mail.array(post) if post.of_batch else mail.array(post)[: self.group.work(number).images]
            values, is_void = np.unique(found), self.group.generation != self.generation
            assert is_void or values.tolist() == [expected], (self.part, number, position, values)
        flight[1] += 1
        return True


class Leader(Member):
    """Announces works, and those that were on their way again in each new generation.

    `waiting` are the number and the work of each batch that is on its way. Each batch has images of its own.
    """

    done, begun, waiting = 0, 0, ()

    def lead(self) -> bool:
        group = self.group
        if self.next is None or self.generation != group.generation:
            if group.generation != self.generation or not group.all_acknowledged(self.generation):
                return False
            if group.resumed_at(self.generation) is None:
                group.resume(self.generation)
                self.waiting = [(group.announce(work), work) for _, work in self.waiting]
            return True
        if self.waiting and group.ended() > self.waiting[0][0]:
            self.waiting, self.done = self.waiting[1:], self.done + 1
            return True
        if len(self.waiting) >= LANES or group.announced - group.ended() >= LANES:
            return False
        self.begun += 1
        slot = self.begun % LANES
        self.mesh.slots[slot].images[...] = self.begun
        work = Work(TRAIN, 1 + self.begun % BATCH, batch=self.begun, slot=slot)
        self.waiting = [*self.waiting, (group.announce(work), work)]
        return True


class CourierThread(threading.Thread):
    """Steps a machine's courier; ends it, and begins another, when it is asked to."""

    def __init__(self, mesh: Mesh, part: int, stopped: threading.Event) -> None:
        super().__init__(daemon=True)
        self.mesh, self.part, self.stopped = mesh, part, stopped
        self.dies, self.renews = threading.Event(), threading.Event()
        self.draw, self.fault = random.Random(part), None

    def run(self) -> None:
        try:
            self.carry()
        except BaseException as error:
            self.fault = error

    def carry(self) -> None:
        while not self.stopped.is_set():
            courier = self.mesh.couriers[self.part]
            if self.renews.is_set():
                self.renews.clear()
                courier._dialer.renew(self.draw.choice(list(courier._peers.values())).place)
            if self.dies.is_set():
                self.mesh.stop(self.part)
                self.mesh.memories[self.part].groups[0].renew()  # as the supervisor does
                self.mesh.start(self.part)
                self.dies.clear()
            elif not courier.step():
                time.sleep(0)


def shape(here: int) -> GroupShape:
    return GroupShape(3, LANES, BATCH, IMAGE, POSTS, (), here)


@pytest.fixture
def switching():
    """Switch threads as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)])
def test_all_works_are_done_with_the_right_messages_whatever_dies(seed, tmp_path, switching):
    draw, stopped = random.Random(seed), threading.Event()
    mesh = Mesh(shape, tmp_path, ROWS, [empty_slot(shape(0)) for _ in range(LANES)])
    couriers = [CourierThread(mesh, part, stopped) for part in range(3)]
    members = [Leader(mesh, 0, stopped), Member(mesh, 1, stopped), Member(mesh, 2, stopped)]
    leader = members[0]
    try:
        for thread in (*couriers, *members):
            thread.start()
        for _ in range(12):
            wanted, deadline = leader.done + draw.choice([1, 3, 10]), time.monotonic() + 60
            while leader.done < wanted and not any(each.fault for each in (*members, *couriers)):
                assert time.monotonic() < deadline, "nothing moves"
                time.sleep(0.002)
            machine = draw.choice(couriers)
            (machine.dies if draw.random() < 0.7 else machine.renews).set()
    finally:
        stopped.set()
        for thread in (*couriers, *members):
            thread.join(10)
        mesh.close()
    assert [thread.fault for thread in (*members, *couriers)] == [None] * 6
