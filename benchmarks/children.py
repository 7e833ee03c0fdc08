"""What child processes of the benchmarks do."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from adam_mp.kernels.update import sgd
from adam_mp.memory.ring import Ring, RingShape
from adam_mp.memory.segment import Segment, SegmentHandle
from adam_mp.memory.store import ParameterStore, StoreHandle
from adam_mp.memory.waiting import Backoff
from benchmarks.step import Step, zoo_network


@dataclasses.dataclass(frozen=True)
class UpdateTask:
    """Add 1 to every weight `updates` times, beginning when all `processes` are there."""

    store: StoreHandle
    processes: int
    updates: int


def update_store(task: UpdateTask) -> None:
    """Do an UpdateTask."""
    store = ParameterStore.attach(task.store)
    gradient, numbers = np.ones_like(store.weights), np.array([-1.0, 0.0])
    sgd(np.zeros_like(gradient), gradient, numbers)
    store.count_update()
    while store.read_updates() < task.processes:
        time.sleep(0)
    for _ in range(task.updates):
        sgd(store.weights, gradient, numbers)
        store.count_update()


@dataclasses.dataclass(frozen=True)
class RingTask:
    """Publish `batches` slots into the ring at the beginning of a segment."""

    segment: SegmentHandle
    shape: RingShape
    batches: int


def fill_ring(task: RingTask) -> None:
    """Do a RingTask."""
    ring, waiting = Ring(Segment.attach(task.segment), 0, task.shape), Backoff()
    for number in range(task.batches):
        while (slot := ring.reserve()) is None:
            waiting.pause()
        waiting.reset()
        slot.images[...] = number
        ring.publish()


@dataclasses.dataclass(frozen=True)
class StepTask:
    """Do LeNet steps of `batch` random images on a store until killed, counting updates."""

    store: StoreHandle
    batch: int


def train_steps(task: StepTask) -> None:
    """Do a StepTask."""
    store = ParameterStore.attach(task.store)
    step = Step(zoo_network("lenet"), task.batch, 1e-3, store=store)
    while True:
        step.run()
        store.count_update()
