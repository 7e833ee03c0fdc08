from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from adam_mp import Dense, Flatten, Network, ReLU, Softmax
from adam_mp.compute.choice import likely_choices
from adam_mp.compute.optimizer import make_optimizer
from adam_mp.compute.shares import shares_of
from adam_mp.data.augmentation import Augmentation
from adam_mp.data.mixing import Mixing
from adam_mp.data.normalization import Normalization
from adam_mp.data.pictures import PictureSpec
from adam_mp.data.serving.server import DataServer, DataServerSpec
from adam_mp.memory.layout import Layout
from adam_mp.memory.ring import RingShape
from adam_mp.memory.run_memory import RunMemory, RunShape
from adam_mp.memory.steps import StepMemory, StepShape
from adam_mp.memory.store import ParameterStore
from adam_mp.network.initialization import initial_weights
from adam_mp.training.settings.averages import AVERAGE
from adam_mp.training.settings.schedule import Schedule
from adam_mp.training.worker.spec import WorkerSpec
from adam_mp.training.worker.worker import Worker

COUNT, BATCH, SLOTS, EPOCH, RATE = 22, 4, 8, 3, 0.1
BATCHES = -(-COUNT // BATCH)
IMAGE = (5, 5, 1)
PLAIN = Mixing()
NETWORK = Network.build([Flatten(), Dense(8), ReLU(), Dense(), Softmax()], IMAGE, 3)
PICTURES = PictureSpec(Normalization((100.0,), (50.0,), 0.0), Augmentation())


def wait_until(condition, what, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.001)


@dataclasses.dataclass
class World:
    """Shared memory of a small run, and its workers and its data server in this process."""

    memory: RunMemory
    store: ParameterStore
    server: DataServer
    workers: list[Worker]

    @property
    def pictures(self):
        """The normalised images of all samples, float32 [n, h, w, c], and their labels."""
        images = (self.memory.arrays["images"].astype(np.float32) - 100) / 50
        return images, self.memory.arrays["labels"]

    def progress(self, worker=0):
        return self.memory.board.counters[worker].read()

    def numbers(self, batch):
        """The samples of a batch."""
        return self.memory.sample_order[batch * BATCH : (batch + 1) * BATCH]


@pytest.fixture
def make_world(monkeypatch):
    made = []

    def make(workers=1, rule="sgd", in_steps=False, bound=None, weight_decay=0.01, decay_all=False, rates=(),
             mixing=PLAIN, **more):  # fmt: skip
        arrays = {
            "images": ("|u1", (COUNT, *IMAGE)), "labels": ("<i4", (COUNT,)), "validation": ("<i8", (10,)),
            "test": ("<i8", (COUNT,)),
        }  # fmt: skip
        shape = RunShape(workers, 1, BATCHES, BATCHES, COUNT, RingShape(SLOTS, BATCH, IMAGE), arrays, in_turns=in_steps)
        memory = RunMemory.create(shape)
        generator = np.random.default_rng(0)
        memory.arrays["images"][...] = generator.integers(0, 256, (COUNT, *IMAGE))
        memory.arrays["labels"][...] = generator.integers(0, 3, COUNT)
        memory.arrays["validation"][...], memory.arrays["test"][...] = range(10), range(COUNT)
        memory.sample_order[...] = generator.permutation(COUNT)
        if in_steps:
            memory.turns.deal(np.arange(BATCHES), 0)
        memory.ledger.open(EPOCH, np.zeros(BATCHES, np.uint8))
        optimizer = make_optimizer(
            rule, {"weight_decay": weight_decay, "momentum": 0.9, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
        )
        states = (*optimizer.states, AVERAGE) if more.get("average") else optimizer.states
        store = ParameterStore.create(
            Layout.of(NETWORK.parameters), states, None, optimizer.own_states, 1 if in_steps else workers
        )
        store.load(initial_weights(NETWORK, 1))
        for name, tensor in store.tensors.items():  # as training leaves them: biases of 0 would hide their decay
            tensor[...] += 0.2 * name.endswith(".bias")
        if more.get("average"):
            store.states[AVERAGE][...] = store.weights
        steps = None
        if in_steps:
            steps = StepMemory.create(StepShape(workers, store.layout.size, 1 + len(states)))
        made.extend(each for each in (memory, store, steps) if each is not None)
        for kind, there in ((RunMemory, memory), (ParameterStore, store), (StepMemory, steps)):
            monkeypatch.setattr(kind, "attach", lambda handle, there=there: there)
        specs = [
            WorkerSpec(
                number, memory.handle, store.handle, NETWORK, likely_choices(NETWORK), PICTURES, optimizer,
                Schedule(RATE, 5, 10), BATCH, 1, shares_of(NETWORK.parameters, decay_all, rates), bound=bound,
                steps=None if steps is None else steps.handle, **more,
            )
            for number in range(workers)
        ]  # fmt: skip
        server = DataServer(DataServerSpec(workers, memory.handle, BATCH, 1, PICTURES, mixing=mixing))
        return World(memory, store, server, [Worker(spec) for spec in specs])

    yield make
    for each in made:
        each.close()
