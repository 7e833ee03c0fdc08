"""The batch whose turn it is comes, whoever died and whatever was claimed in which order: a model without processes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from adam_mp.memory.ledger import FREE, HELD, LEASED, Ledger
from adam_mp.memory.ring import Ring, RingShape, Tag
from adam_mp.memory.segment import Segment
from adam_mp.memory.wanted import find_oldest, find_wanted

EPOCH, WORKER = 3, 0
SHAPE = RingShape(3, 1, (1,))
BATCHES = np.arange(0, 24, 2)  # of this worker; the odd ones are another's


@dataclasses.dataclass
class Server:
    """A data server as far as one worker's ring sees it."""

    number: int
    ring: Ring
    ledger: Ledger
    reads_ahead: bool
    next: int | None = None

    def turn(self):
        """Write a batch if there is room."""
        slot = self.ring.reserve()
        if slot is None:
            return
        batch = self.next if self.next is not None else self.claim()
        self.next = self.claim() if self.reads_ahead and batch is not None else None
        if batch is not None:
            slot.write_tag(Tag(EPOCH, batch, 1, self.number))
            self.ring.publish()

    def claim(self):
        return self.ledger.claim_of(EPOCH, self.number, BATCHES)

    def die(self):
        self.next = None
        self.ledger.take_back(HELD, self.number)


@pytest.fixture
def world():
    """A ledger and two rings."""
    ledger_bytes = Ledger.bytes_needed(24)
    segment = Segment.create("test", ledger_bytes + 2 * SHAPE.bytes)
    ledger = Ledger(segment, 0, 24)
    ledger.open(EPOCH, np.full(24, FREE, np.uint8))
    yield ledger, [Ring(segment, ledger_bytes + number * SHAPE.bytes, SHAPE) for number in range(2)]
    del ledger
    segment.close()


def servers_of(world, count, reads_ahead):
    ledger, rings = world
    for number in range(count):
        rings[number].producer = 10 + number
    return [Server(10 + number, rings[number], ledger, reads_ahead) for number in range(count)]


def train(world, count, turn):
    """Do a worker's turn; return the turn that comes next."""
    ledger, rings = world
    place = find_wanted(rings[:count], ledger, EPOCH, int(BATCHES[turn]))
    if place is None:
        return turn
    number, ring, slot, tag = place
    assert ring is rings[number]
    assert ring.peek() == slot
    assert ring.slots[slot].read_tag() == tag
    assert tag.batch == BATCHES[turn]
    assert ledger.lease(EPOCH, tag.batch, tag.server, WORKER)
    assert ledger.finish(EPOCH, tag.batch, WORKER)
    ring.consume()
    return turn + 1


def finish(world, servers, turn):
    """Go on without faults until all is trained; nothing may stand still."""
    for _ in range(400):
        if turn == BATCHES.size:
            return
        turn = train(world, len(servers), turn)
        for server in servers:
            server.turn()
    raise AssertionError(f"stuck before turn {turn}")


@pytest.mark.parametrize("reads_ahead", [False, True])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("seed", range(40))
def test_every_turn_comes_after_any_deaths(world, count, reads_ahead, seed):
    random = np.random.default_rng(seed)
    ledger, rings = world
    servers = servers_of(world, count, reads_ahead)
    turn = 0
    for _ in range(int(random.integers(1, 60))):
        deed = random.random()
        if deed < 0.5:
            servers[random.integers(count)].turn()
        elif deed < 0.85 and turn < BATCHES.size:
            turn = train(world, count, turn)
        elif deed < 0.95:
            servers[random.integers(count)].die()
        elif turn < BATCHES.size:  # the worker dies with its batch leased
            place = find_wanted(rings[:count], ledger, EPOCH, int(BATCHES[turn]))
            if place is not None:
                ledger.lease(EPOCH, place.tag.batch, place.tag.server, WORKER)
                ledger.take_back(LEASED, WORKER)
    finish(world, servers, turn)


def test_a_batch_claimed_behind_later_ones_is_brought_forward(world):
    (server,) = servers_of(world, 1, False)
    ledger, (ring, _) = world
    for _ in range(3):
        server.turn()
    index = ring.peek()
    assert ledger.lease(EPOCH, 0, server.number, WORKER)
    ledger.take_back(LEASED, WORKER)  # the worker died
    assert ring.slots[index].read_tag().batch == 0
    ring.consume()  # its successor drops what it cannot lease
    server.turn()
    assert [ring.slots[each].read_tag().batch for each in ring.published()] == [2, 4, 0]
    assert train(world, 1, 0) == 1
    finish(world, [server], 1)


def test_room_is_made_for_a_batch_that_is_read_ahead(world):
    (server,) = servers_of(world, 1, True)
    ledger, (ring, _) = world
    for _ in range(3):
        server.turn()
    ledger.give_back(EPOCH, server.next, server.number)
    assert ledger.lease(EPOCH, 0, server.number, WORKER)
    ledger.take_back(LEASED, WORKER)
    ring.consume()
    server.next = server.claim()
    assert server.next == 0
    ring.reserve().write_tag(Tag(EPOCH, server.claim(), 1, server.number))
    ring.publish()
    assert ring.full
    finish(world, [server], 0)


def test_the_oldest_batch_of_the_first_ring_that_has_any(world):
    first, second = servers_of(world, 2, False)
    ledger, rings = world
    assert find_oldest(rings) is None
    second.turn()
    second.turn()
    found = find_oldest(rings)
    assert (found.ring_number, found.ring) == (1, rings[1])
    assert found.tag == Tag(EPOCH, 0, 1, second.number) == rings[1].slots[found.slot].read_tag()
    assert ledger.holds(EPOCH, 0, second.number)
    first.turn()
    assert find_oldest(rings).tag.batch == 4  # of the first ring
    rings[0].consume()
    rings[1].consume()
    assert find_oldest(rings).tag.batch == 2
