"""What processes cost each other on LeNet, batch 64: alone, beside each other, on one store, in a whole run.

python -m benchmarks.contention
"""

from __future__ import annotations

import os

from adam_mp.machine import ONE_THREAD

os.environ.update(ONE_THREAD)  # before numpy loads its libraries

import statistics
import time
from collections.abc import Sequence

from adam_mp.machine import allowed_cores, usable_cores
from adam_mp.memory.layout import Layout
from adam_mp.memory.store import ParameterStore
from adam_mp.network.initialization import initial_weights
from adam_mp.process.child import start_child
from adam_mp.report.progress import notices_only
from adam_mp.training.benchmark import measure_speed
from adam_mp.training.plan.plan import make_plan
from benchmarks.children import StepTask, train_steps
from benchmarks.step import zoo_network

_BATCH, _SECONDS, _ROUNDS = 64, 3.0, 5


def steps_per_second(stores: Sequence[ParameterStore]) -> float:
    """Images per second of one process for each of `stores`, which may be one store several times."""
    different = {id(store): store for store in stores}.values()
    children = [
        start_child(
            f"steps {number}", train_steps, StepTask(store.handle, _BATCH), [store.handle.arena.segment.descriptor],
            allowed_cores()[number % usable_cores()],
        )
        for number, store in enumerate(stores)
    ]  # fmt: skip
    try:
        before = [store.read_updates() for store in different]
        deadline = time.monotonic() + 60
        while any(s.read_updates() < b + 50 for s, b in zip(different, before, strict=True)):
            assert time.monotonic() < deadline, [child.last_words() for child in children]
            time.sleep(0.01)
        first, start = sum(store.read_updates() for store in different), time.perf_counter()
        time.sleep(_SECONDS)
        return _BATCH * (sum(store.read_updates() for store in different) - first) / (time.perf_counter() - start)
    finally:
        for child in children:
            child.kill()
            child.close()


def main() -> None:
    """Print the table."""
    network, cores = zoo_network("lenet"), usable_cores()
    given = {"model": "lenet", "batch_size": _BATCH, "augment": "none", "epochs": 1, "validation": 0.0}
    plan = make_plan({**given, "cores": cores}, notices_only)
    stores = [ParameterStore.create(Layout.of(network.parameters), ()) for _ in range(cores)]
    for store in stores:
        store.load(initial_weights(network, 1))
    cases = {
        "1 process, no data serving": lambda: steps_per_second(stores[:1]),
        f"{cores} processes, weights of their own": lambda: steps_per_second(stores),
        f"{cores} processes on one store": lambda: steps_per_second(stores[:1] * cores),
        "1 worker, whole run": lambda: measure_speed(plan, 1, _SECONDS, notices_only).images_per_second,
        f"{cores} workers, whole run": lambda: measure_speed(plan, cores, _SECONDS, notices_only).images_per_second,
    }
    taken: dict[str, list[float]] = {name: [] for name in cases}
    try:
        for _ in range(_ROUNDS):
            for name, measure in cases.items():
                taken[name].append(measure())
    finally:
        for store in stores:
            store.close()
    alone = statistics.median(taken["1 process, no data serving"])
    for name, rates in taken.items():
        print(f"{name:<45} {statistics.median(rates):>9,.0f} images/s  {statistics.median(rates) / alone:.2f}x")


if __name__ == "__main__":
    main()
