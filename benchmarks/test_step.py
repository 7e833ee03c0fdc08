"""A training step, update included, by network and batch size."""

from __future__ import annotations

import numpy as np
import pytest

from adam_mp.compute.context import TrainingContext
from adam_mp.compute.optimizer import make_optimizer
from adam_mp.memory.layout import Layout
from adam_mp.memory.store import ParameterStore
from adam_mp.network.description import load_network
from adam_mp.network.initialization import initial_weights
from adam_mp.training.worker import bind_updates, make_hyper

CASES = [
    *(("mnist", (28, 28, 1), 10, batch) for batch in (1, 8, 16, 64)),
    *(("lenet", (28, 28, 1), 10, batch) for batch in (1, 8, 64, 256)),
    *(("alexnet", (224, 224, 3), 1000, batch) for batch in (1, 16)),
]


@pytest.mark.parametrize(("model", "shape", "classes", "batch"), CASES)
@pytest.mark.parametrize("rule", ["sgd", "momentum"])
def test_step(benchmark, model, shape, classes, batch, rule):
    network = load_network(model, shape, classes)
    optimizer = make_optimizer(rule)
    store = ParameterStore.create(Layout.of(network.parameters), optimizer.states)
    try:
        store.load(initial_weights(network, 1))
        context = TrainingContext(network, store.tensors, batch)
        hyper = make_hyper(0.9, 1e-4)
        hyper[0] = 1e-4
        updates = bind_updates(optimizer, store, context, hyper)
        generator = np.random.default_rng(1)
        images = generator.random((batch, *shape), dtype=np.float32)
        program = context.program(images, generator.integers(classes, size=batch, dtype=np.int32))

        def step():
            program.run_forward()
            program.run_backward()
            for update in updates:
                update()

        iterations = 1 if model == "alexnet" else max(1, 64 // batch)
        benchmark.pedantic(step, rounds=10, iterations=iterations, warmup_rounds=2)
        rate = batch / benchmark.stats.stats.median
        benchmark.extra_info["images_per_second"] = rate
        benchmark.extra_info["connections_per_second"] = rate * network.connections
    finally:
        store.close()
