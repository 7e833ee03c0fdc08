"""Whole runs on the embedded MNIST: workers, data servers, store and rings, for a few seconds."""

from __future__ import annotations

import statistics

import pytest

from adam_mp.machine import usable_cores
from adam_mp.report.progress import notices_only
from adam_mp.training.benchmark import measure_speed
from adam_mp.training.plan.plan import make_plan

SECONDS = 2.0
WORKERS = sorted({1, min(2, usable_cores()), usable_cores()})


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("settings", ["mnist 16 auto", "lenet 64 none", "mlp 16 auto"])
def test_run(benchmark, settings, workers):
    model, batch, augment = settings.split()
    given = {"model": model, "batch_size": int(batch), "augment": augment, "epochs": 1, "validation": 0.0}
    plan = make_plan({**given, "cores": workers}, notices_only)
    speeds = [measure_speed(plan, workers, SECONDS, notices_only) for _ in range(3)]
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info["images/s"] = statistics.median(speed.images_per_second for speed in speeds)
    benchmark.extra_info["connections/s"] = statistics.median(speed.connections_per_second for speed in speeds)
    benchmark.extra_info["waited"] = f"{statistics.median(speed.phases['wait'] for speed in speeds):.2%}"
    benchmark.extra_info["staleness"] = round(statistics.median(speed.staleness for speed in speeds), 2)
