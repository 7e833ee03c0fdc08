"""Where a training step's time goes, kernel by kernel: python tools/profile_step.py --model mnist --batch-size 16."""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections import defaultdict

from adam_mp.machine import ONE_THREAD

os.environ.update(ONE_THREAD)  # before numpy loads its BLAS

import numpy as np

from adam_mp.compute.context import TrainingContext
from adam_mp.compute.measurement import choose_kernels
from adam_mp.compute.operation import Call
from adam_mp.memory.layout import Layout
from adam_mp.network.description import load_network
from adam_mp.network.initialization import initial_weights


def profile(calls: list[Call], rounds: int) -> dict[tuple[str, str], float]:
    """Return (kernel, output shape) -> seconds a round, summed over the blocks of a batch."""
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for _ in range(rounds):
        for function, arguments in calls:
            began = time.perf_counter()
            function(*arguments)
            shapes = [a.shape for a in arguments if isinstance(a, np.ndarray) and a.ndim > 1]
            seconds[function.__name__, str(shapes[:2])] += time.perf_counter() - began
    return {key: value / rounds for key, value in seconds.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--shape", default="28,28,1", help="height,width,channels")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--block", type=int, help="images a block; measured by default")
    parser.add_argument("--rounds", type=int, default=50)
    values = parser.parse_args()
    network = load_network(values.model, tuple(map(int, values.shape.split(","))), values.classes)
    generator = np.random.default_rng(0)
    images = generator.random((values.batch_size, *network.input_shape), dtype=np.float32)
    labels = generator.integers(network.classes, size=values.batch_size, dtype=np.int32)
    layout = Layout.of(network.parameters)
    weights = layout.views(np.zeros(layout.size, np.float32))
    for name, first in initial_weights(network, 0).items():
        weights[name][...] = first
    choices = choose_kernels(network, values.batch_size)
    if values.block:
        choices = dataclasses.replace(choices, block=values.block)
    context = TrainingContext(network, weights, values.batch_size, choices=choices)
    program = context.program(images, labels)
    calls = [*program.forward, *program.backward]
    profile(calls, 3)
    table = profile(calls, values.rounds)
    total = sum(table.values())
    print(f"{network.name}, batch {values.batch_size} in blocks of {context.block}: {1e3 * total:.2f} ms a step, "
          f"{values.batch_size / total:,.0f} images/s without the update")  # fmt: skip
    for (kernel, shape), seconds in sorted(table.items(), key=lambda item: -item[1]):
        print(f"{100 * seconds / total:5.1f}%  {1e6 * seconds / values.batch_size:8.2f} us/image  {kernel:24} {shape}")


if __name__ == "__main__":
    main()
