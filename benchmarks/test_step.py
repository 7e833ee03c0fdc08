"""A training step, update included, by network, batch size and rule; one thread."""

from __future__ import annotations

import pytest

from benchmarks.step import step_of, zoo_network

CASES = [
    *(("mnist", batch) for batch in (1, 16, 64)),
    *(("lenet", batch) for batch in (1, 8, 32, 64, 128, 256)),
    *(("alexnet", batch) for batch in (1, 32)),
]


@pytest.mark.parametrize(("model", "batch"), CASES)
@pytest.mark.parametrize("rule", ["sgd", "momentum"])
def test_step(benchmark, model, batch, rule):
    network = zoo_network(model)
    with step_of(network, batch, rule=rule) as step:
        iterations = 1 if model == "alexnet" else max(1, 64 // batch)
        benchmark.pedantic(step.run, rounds=5 if model == "alexnet" else 20, iterations=iterations, warmup_rounds=2)
    rate = batch / benchmark.stats.stats.median
    benchmark.extra_info["images/s"] = rate
    benchmark.extra_info["connections/s"] = rate * network.connections
