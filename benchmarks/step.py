"""One training step of ours, update included, as a worker does it: for the suites and for comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from adam_mp.compute.context import TrainingContext
from adam_mp.compute.measurement import choose_kernels
from adam_mp.compute.optimizer import UpdateNumbers, make_optimizer
from adam_mp.compute.shares import shares_of
from adam_mp.compute.updates import bind_updates
from adam_mp.memory.layout import Layout
from adam_mp.memory.store import ParameterStore
from adam_mp.network.description import load_network
from adam_mp.network.initialization import initial_weights
from adam_mp.network.network import Network

INPUTS = {"mnist": ((28, 28, 1), 10), "lenet": ((28, 28, 1), 10), "mlp": ((28, 28, 1), 10),
          "alexnet": ((224, 224, 3), 1000), "resnet18": ((224, 224, 3), 1000),
          "resnet20": ((32, 32, 3), 10), "cifar-fast": ((32, 32, 3), 10)}  # fmt: skip


def zoo_network(model: str) -> Network:
    """Return a network of the zoo on the inputs it is meant for."""
    return load_network(model, *INPUTS[model])


class Step:
    """A store, its own unless given, a context and a batch; `run` does a step and returns the mean loss before it."""

    def __init__(
        self, network: Network, batch: int, rate: float, rule: str = "sgd", store: ParameterStore | None = None
    ) -> None:
        self.network, self.batch = network, batch
        optimizer = make_optimizer(rule, {"weight_decay": 0.0, "momentum": 0.9})
        self.store = store or ParameterStore.create(Layout.of(network.parameters), optimizer.states)
        generator = np.random.default_rng(1)
        self.images = generator.standard_normal((batch, *network.input_shape), dtype=np.float32)
        self.labels = generator.integers(network.classes, size=batch, dtype=np.int32)
        if store is None:
            self.store.load(initial_weights(network, 1, self.images))
        choices = choose_kernels(network, batch)
        self.context = TrainingContext(network, self.store.tensors, batch, choices=choices)
        numbers = UpdateNumbers(optimizer)
        numbers.set_rate(rate)
        shares = shares_of(network.parameters, decay_all=False)
        self._updates = bind_updates(optimizer, self.store, self.context, numbers.array, shares)
        self.program = self.context.program(self.images, self.labels)

    def run(self) -> float:
        """Forward, backward, update."""
        self.program.run_forward()
        self.program.run_backward()
        for update in self._updates:
            update()
        return float(self.program.totals[0]) / self.batch


@contextmanager
def step_of(network: Network, batch: int, rate: float = 1e-3, rule: str = "sgd") -> Iterator[Step]:
    """Make a step and free its store afterwards."""
    step = Step(network, batch, rate, rule)
    try:
        yield step
    finally:
        step.store.close()
