"""Shared memory: updates of one store by several processes, with the share that is lost, and batches through a ring."""

from __future__ import annotations

import time

import numpy as np
import pytest

from adam_mp.memory.layout import Layout
from adam_mp.memory.ring import Ring, RingShape
from adam_mp.memory.segment import Segment
from adam_mp.memory.store import ParameterStore
from adam_mp.memory.waiting import Backoff
from adam_mp.process.child import start_child
from benchmarks.children import RingTask, UpdateTask, fill_ring, update_store
from benchmarks.step import zoo_network

UPDATES = 300
BATCHES = 300
DEADLINE = 60


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_store_updates(benchmark, processes):
    """Every process adds 1 to every weight of LeNet, with no pause between: the worst there is for lost updates."""
    layout = Layout.of(zoo_network("lenet").parameters)
    lost = []

    def run():
        store = ParameterStore.create(layout, ())
        task = UpdateTask(store.handle, processes, UPDATES)
        descriptors = [store.handle.arena.segment.descriptor]
        children = [start_child(f"{n}", update_store, task, descriptors, None) for n in range(processes)]
        try:
            while store.read_updates() < processes:
                time.sleep(0.0005)
            start = time.perf_counter()
            while store.read_updates() < processes * (UPDATES + 1):
                assert time.perf_counter() < start + DEADLINE
            taken = time.perf_counter() - start
            assert all(child.wait(time.monotonic() + DEADLINE) for child in children)
            # Float32 counts exactly up to 2**24, so what is missing was overwritten by another process.
            lost.append(1 - float(np.mean(store.weights)) / (processes * UPDATES))
            return taken
        finally:
            for child in children:
                child.kill()
                child.close()
            store.close()

    times = [run() for _ in range(3)]
    benchmark.pedantic(lambda: None, rounds=1)
    rate = processes * UPDATES * layout.size / sorted(times)[1]
    benchmark.extra_info["weights/s"] = rate
    benchmark.extra_info["GB/s"] = 2 * 4 * rate / 1e9
    benchmark.extra_info["lost updates"] = f"{np.median(lost):.2%}"


@pytest.mark.parametrize("batch", [16, 64])
def test_ring(benchmark, batch):
    """Batches of MNIST images from one process to another, written and read whole."""
    shape = RingShape(16, batch, (28, 28, 1))

    def run():
        segment = Segment.create("bench", shape.bytes)
        ring, waiting = Ring(segment, 0, shape), Backoff()
        child = start_child(
            "producer", fill_ring, RingTask(segment.handle, shape, BATCHES), [segment.handle.descriptor], None
        )
        try:
            start, deadline = None, time.monotonic() + DEADLINE
            for number in range(BATCHES):
                while (index := ring.peek()) is None:
                    assert time.monotonic() < deadline
                    waiting.pause()
                waiting.reset()
                start = start or time.perf_counter()
                assert ring.slots[index].images.sum() >= number
                ring.consume()
            return time.perf_counter() - start
        finally:
            child.kill()
            child.close()
            del ring
            segment.close()

    times = [run() for _ in range(3)]
    benchmark.pedantic(lambda: None, rounds=1)
    rate = BATCHES / sorted(times)[1]
    benchmark.extra_info["batches/s"] = rate
    benchmark.extra_info["GB/s"] = rate * batch * 784 * 4 / 1e9
