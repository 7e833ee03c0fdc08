"""The kernels that a step spends its time in, on the shapes of LeNet and of the 224x224 network; one thread."""

from __future__ import annotations

import numpy as np
import pytest

from adam_mp.compute.optimizer import UpdateNumbers, make_optimizer
from adam_mp.kernels import pool
from adam_mp.kernels.product import PANEL_BYTES, product

PRODUCTS = {  # rows, depth, columns
    "square": (1024, 1024, 1024),
    "lenet conv1 forward": (576, 25, 20),
    "lenet conv2 forward": (64, 500, 50),
    "lenet conv2 weight": (500, 1024, 50),
    "lenet dense1 forward": (64, 800, 500),
    "224 conv2 forward": (729, 1600, 192),
    "224 conv3 forward": (169, 1728, 384),
    "224 dense1 forward": (32, 9216, 4096),
}


@pytest.mark.parametrize("side", ["adam_mp", "numpy"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_product(benchmark, name, side):
    rows, depth, columns = PRODUCTS[name]
    generator = np.random.default_rng(1)
    a = generator.random((rows, depth), dtype=np.float32)
    b = generator.random((depth, columns), dtype=np.float32)
    c, panel = np.zeros((rows, columns), np.float32), np.zeros(PANEL_BYTES // 4, np.float32)
    tables = (np.arange(rows) * depth, np.arange(depth))
    if side == "numpy":
        benchmark(np.dot, a, b, out=c)
    else:
        benchmark(product, a.reshape(-1), *tables, b, c, panel, np.float32(1), np.float32(0))
    benchmark.extra_info["GFLOP/s"] = 2 * rows * depth * columns / benchmark.stats.stats.median / 1e9


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_max_pool(benchmark, way):
    x = np.random.default_rng(1).standard_normal((16, 24, 24, 20), dtype=np.float32)
    out, choice = np.zeros((16, 12, 12, 20), np.float32), np.zeros((16, 12, 12, 20), np.uint8)
    bias, gradient = np.zeros(20, np.float32), np.zeros(20, np.float32)
    pool.max_pool_forward(x, bias, out, choice, 2, 2, True)
    if way == "forward":
        benchmark(pool.max_pool_forward, x, bias, out, choice, 2, 2, True)
    else:
        benchmark(pool.max_pool_backward, out, out, choice, x, gradient, 2, 2, True, False)
    benchmark.extra_info["GB/s"] = (x.nbytes + out.nbytes + choice.nbytes) / benchmark.stats.stats.median / 1e9


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
def test_update(benchmark, rule):
    size = 1 << 20
    optimizer = make_optimizer(
        rule, {"weight_decay": 1e-4, "momentum": 0.9, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
    )
    numbers = UpdateNumbers(optimizer)
    numbers.set_rate(1e-3)
    numbers.set_step(1)
    spaces = [np.ones(size, np.float32) for _ in range(2 + len(optimizer.states))]
    states = dict(zip(optimizer.states, spaces[2:], strict=True))
    benchmark(optimizer.bind(spaces[0], spaces[1], states, numbers.array))
    benchmark.extra_info["GB/s"] = (2 * len(spaces) - 1) * 4 * size / benchmark.stats.stats.median / 1e9
