from __future__ import annotations

import threading
from collections import deque

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from adam_mp.memory.ring import NO_PRODUCER, Ring, RingShape, Tag
from adam_mp.memory.segment import Segment
from adam_mp.memory.waiting import Backoff

SHAPE = RingShape(3, 4, (2, 2, 1))


class RingMachine(RuleBasedStateMachine):
    """Producer and consumer in any order, against a deque."""

    def __init__(self):
        super().__init__()
        self.segment = Segment.create("test", SHAPE.bytes + 64)
        self.ring = Ring(self.segment, 64, SHAPE)
        self.model, self.made, self.consumed = deque(), 0, 0

    @rule(count=st.integers(1, 4))
    def produce(self, count):
        slot = self.ring.reserve()
        assert (slot is None) == (len(self.model) == SHAPE.slots)
        if slot is not None:
            self.made += 1
            slot.write_tag(Tag(1, self.made, count, 7))
            slot.mixed[0] = self.made / 7
            slot.labels[:] = self.made
            slot.images[:] = self.made
            self.ring.publish()
            self.model.append((self.made, count))

    @rule()
    def reserve_and_die(self):
        slot = self.ring.reserve()
        if slot is not None:
            slot.images[:] = -1

    @rule()
    def consume(self):
        index = self.ring.peek()
        assert (index is None) == (not self.model)
        if index is not None:
            slot = self.ring.slots[index]
            number, count = self.model.popleft()
            assert slot.read_tag() == Tag(epoch=1, batch=number, images=count, server=7)
            assert slot.mixed[0] == number / 7
            assert (slot.labels == number).all()
            assert (slot.images == number).all()
            self.ring.consume()
            self.consumed += 1

    @precondition(lambda self: self.made > 0)
    @rule()
    def successor(self):
        self.ring = Ring(self.segment, 64, SHAPE)

    @invariant()
    def counts_agree(self):
        statistics = self.ring.statistics()
        assert (statistics.published, statistics.consumed) == (self.made, self.consumed)
        assert statistics.waiting == len(self.model)

    def teardown(self):
        del self.ring
        self.segment.close()


TestRing = RingMachine.TestCase


def test_batches_pass_between_threads_in_order_and_unharmed():
    segment = Segment.create("test", SHAPE.bytes)
    ring, batches = Ring(segment, 0, SHAPE), 5000

    def produce():
        waiting = Backoff()
        for number in range(batches):
            while (slot := ring.reserve()) is None:
                waiting.pause()
            waiting.reset()
            slot.write_tag(Tag(0, number, 1, 0))
            slot.images[:] = number
            ring.publish()

    thread = threading.Thread(target=produce)
    thread.start()
    waiting = Backoff()
    for number in range(batches):
        while (index := ring.peek()) is None:
            waiting.pause()
        waiting.reset()
        assert ring.slots[index].read_tag().batch == number
        assert (ring.slots[index].images == number).all()
        ring.consume()
    thread.join(10)


def test_slots_are_aligned_and_the_producer_is_told():
    segment = Segment.create("test", SHAPE.bytes)
    ring = Ring(segment, 0, SHAPE)
    for slot in ring.slots:
        assert all(array.ctypes.data % 64 == 0 for array in (slot.words, slot.labels, slot.images))
    ring.producer = 7
    assert Ring(segment, 0, SHAPE).producer == 7
    ring.producer = NO_PRODUCER
    assert ring.producer == NO_PRODUCER
    assert np.prod(ring.slots[0].images.shape) == 16
