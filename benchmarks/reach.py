"""The table of goals: what was set out to be reached, and what is measured here and now.

    python -m benchmarks.reach            all rows, about ten minutes
    python -m benchmarks.reach --only step

Sides take turns in one run; figures are medians, with the quartiles of the ratio. Rows against PyTorch are skipped,
with a word, where it is not installed (`pip install -e '.[peers]'`).
"""

from __future__ import annotations

import os

from adam_mp.machine import ONE_THREAD

os.environ.update(ONE_THREAD)  # before numpy and torch load their libraries

import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from adam_mp.network.initialization import initial_weights
from adam_mp.report.progress import notices_only
from adam_mp.training.benchmark import measure_speed, sgemm_gigaflops, training_flops
from adam_mp.training.plan.plan import make_plan
from benchmarks.goals import Row, ratio_row, run_groups
from benchmarks.step import step_of, zoo_network
from benchmarks.timing import alternate, spread

HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_SKLEARN = importlib.util.find_spec("sklearn") is not None
_AGREEMENT = 1e-3  # how far the losses of 50 identical steps may differ
_ROUNDS = 5


def step_rows() -> Iterator[Row]:
    """Steps of one process beside PyTorch's."""
    goals = [("lenet", 64, 2), ("lenet", 32, 2), ("lenet", 128, 2), ("lenet", 256, 2), ("lenet", 8, 3),
             ("lenet", 1, 4), ("alexnet", 32, 1), ("alexnet", 1, 4)]  # fmt: skip
    for model, batch, goal in goals:
        name = "LeNet" if model == "lenet" else "5 conv, 3 dense, 224x224"
        what = f"{name} step with update, batch {batch}"
        if not HAS_TORCH:
            yield Row(what, "PyTorch", f"{goal}x", None, figures="PyTorch is not installed")
            continue
        from benchmarks.peers.torch_net import TorchStep

        network = zoo_network(model)
        with step_of(network, batch) as ours:
            weights = initial_weights(network, 1)
            sides: dict[str, Callable[[], object]] = {"ours": ours.run}
            for last in (False, True):
                theirs = TorchStep(network, weights, ours.images, ours.labels, 1e-3, last)
                sides["PyTorch, channels last" if last else "PyTorch"] = theirs.run
            difference = _agreement(model, batch) if model == "lenet" else None
            compared = alternate(sides, seconds=40 if model == "alexnet" else 8)
        peer = compared.fastest(*(side for side in sides if side != "ours"))
        rates = ", ".join(f"{side} {_rate(batch / compared.median(side))}" for side in sides)
        agree = "" if difference is None else f"; losses of 50 steps agree to {difference:.0e}"
        yield ratio_row(what, peer, goal, compared.ratios(peer, "ours"), f"images/s: {rates}{agree}")


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _agreement(model: str, batch: int) -> float:
    """Return how far the losses of 50 identical steps differ at most; too far is an error."""
    from benchmarks.peers.torch_net import TorchStep

    network = zoo_network(model)
    with step_of(network, batch, rate=0.01) as ours:
        theirs = TorchStep(network, initial_weights(network, 1), ours.images, ours.labels, 0.01)
        difference = max(abs(ours.run() - theirs.run()) for _ in range(50))
    if not difference < _AGREEMENT:
        raise SystemExit(f"{model}, batch {batch}: losses differ by {difference}, so the work is not the same")
    return difference


def sgemm_rows() -> Iterator[Row]:
    """The share of numpy's matrix product."""
    for model, batch, goal in (("lenet", 64, 65), ("alexnet", 32, 90)):
        network = zoo_network(model)
        shares, rates = [], []
        with step_of(network, batch) as ours:
            for _ in range(_ROUNDS):
                seconds = alternate({"ours": ours.run}, seconds=2, rounds=5).median("ours")
                peak = sgemm_gigaflops()
                rates.append(batch / seconds)
                shares.append(100 * rates[-1] * training_flops(network) / 1e9 / peak)
        name = "LeNet" if model == "lenet" else "5 conv, 3 dense, 224x224"
        low, middle, high = spread(sorted(shares))
        flops = statistics.median(rates) * training_flops(network) / 1e9
        yield Row(
            f"share of sgemm, {name}, batch {batch}", "numpy, 1024x1024", f"{goal}%", middle, low, high,
            middle >= goal, f"{flops:.0f} GFLOP/s (products with errors of 0 count, though skipped), numpy {peak:.0f}",
        )  # fmt: skip


def run_rows() -> Iterator[Row]:
    """Whole runs: workers, data servers, shared memory; beside Hogwild and DDP."""
    given = {"model": "lenet", "batch_size": 64, "augment": "none", "epochs": 1, "validation": 0.0, "cores": 2}
    plan = make_plan(given, notices_only)
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(_ROUNDS):
        for workers in (1, 2):
            taken[str(workers)].append(measure_speed(plan, workers, 3.0, notices_only).images_per_second)
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        taken["one core"].append(measure_speed(plan, 1, 3.0, notices_only).images_per_second)
        os.sched_setaffinity(0, cores)
        if HAS_TORCH:
            for peer, arguments in (("hogwild", ("--seconds", "3")), ("ddp", ())):
                for layout in ("channels_first", "channels_last"):
                    result = _peer(peer, *arguments, "--layout", layout)
                    taken[f"{peer} {layout}"].append(result["images_per_second"])
    medians = {side: statistics.median(values) if values else 0.0 for side, values in taken.items()}
    for side, name, goal in (
        ("1", "1 worker, its data server on the other core", 1.9),
        ("one core", "all on 1 core", 0),
    ):
        ratios = sorted(b / a for a, b in zip(taken[side], taken["2"], strict=True))
        yield ratio_row(
            "whole run, 2 workers on 2 cores, LeNet, batch 64", name, goal, ratios,
            f"images/s: {medians['2']:,.0f}, theirs {medians[side]:,.0f}",
        )  # fmt: skip
    for side, name, goal in (("hogwild", "PyTorch Hogwild, 2 processes", 2), ("ddp", "PyTorch DDP, Gloo", 0)):
        what = "whole run with data serving, 2 cores, LeNet, batch 64"
        if not HAS_TORCH:
            yield Row(what, name, f"{goal}x" if goal else "", None, figures="PyTorch is not installed")
            continue
        first, last = f"{side} channels_first", f"{side} channels_last"
        faster = max(first, last, key=lambda name: medians[name])
        ratios = sorted(a / b for a, b in zip(taken["2"], taken[faster], strict=True))
        yield ratio_row(
            what, name, goal, ratios,
            f"images/s: {medians['2']:,.0f}, theirs {medians[first]:,.0f}, channels last {medians[last]:,.0f}",
        )  # fmt: skip


def _peer(module: str, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.peers.{module}", *arguments],
        capture_output=True, text=True, timeout=600, check=True, env={**os.environ, **ONE_THREAD},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def dense_rows() -> Iterator[Row]:
    """A dense network beside scikit-learn."""
    what = "dense network step (zoo mlp), batch 64"
    if not HAS_SKLEARN:
        yield Row(what, "scikit-learn MLPClassifier", "", None, figures="scikit-learn is not installed")
        return
    from benchmarks.peers.sklearn_mlp import SklearnStep

    network = zoo_network("mlp")
    with step_of(network, 64) as ours:
        theirs = SklearnStep(network, ours.images, ours.labels, 1e-3)
        compared = alternate({"ours": ours.run, "theirs": theirs.run})
    rates = f"images/s: ours {64 / compared.median('ours'):,.0f}, theirs {64 / compared.median('theirs'):,.0f}"
    yield ratio_row(what, "scikit-learn MLPClassifier", 0, compared.ratios("theirs", "ours"), rates)


def accuracy_rows() -> Iterator[Row]:
    """From the command to 99.0% on the test images."""
    ours, theirs, figures = [], [], ""
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            command = ["train", "--model", "lenet", "--cores", "2", "--epochs", "1", "--json", "--run-dir", folder]
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "adam_mp", *command], capture_output=True, text=True, timeout=600, check=True
            )
            ours.append(time.perf_counter() - start)
        summary = json.loads(done.stdout.splitlines()[-1])
        if summary["test_accuracy"] < 0.99:
            raise SystemExit(f"one epoch reached {summary['test_accuracy']:.4f} only")
        figures = f"{statistics.median(ours):.1f} s to {summary['test_accuracy']:.2%}"
        if HAS_TORCH:
            result = _peer("hogwild", "--target", "0.99", "--layout", "channels_last")
            theirs.append(result["seconds"])
            figures += (
                f", theirs {statistics.median(theirs):.1f} s to {result['accuracy']:.2%}; each with its own settings"
            )
    what, against = "from the command to 99.0% MNIST test accuracy, 2 cores, LeNet", "PyTorch Hogwild, 2 processes"
    if not HAS_TORCH:
        yield Row(what, against, "3x", None, figures=figures + "; PyTorch is not installed")
        return
    yield ratio_row(what, against, 3, sorted(b / a for a, b in zip(ours, theirs, strict=True)), figures)


_FIRST_BATCH = """
import sys, tempfile, time
import adam_mp
from adam_mp.training.settings.events import EpochProgress
def listen(event):
    if isinstance(event, EpochProgress) and event.done:
        print("trained", flush=True)
        sys.exit(0)
with tempfile.TemporaryDirectory() as folder:
    from adam_mp.api import train_with
    train_with([listen], {"cores": 2, "epochs": 1, "run_dir": folder + "/run"})
"""


def start_rows() -> Iterator[Row]:
    """The time to the first trained batch, and a worker's memory."""
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        with subprocess.Popen([sys.executable, "-c", _FIRST_BATCH], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            times.append(time.perf_counter() - start)
    low, middle, high = spread(sorted(times))
    yield Row("from the command to the first trained batch", "", "< 3 s", middle, low, high, middle < 3)
    plan = make_plan({"model": "lenet", "batch_size": 64, "epochs": 1, "cores": 2}, notices_only)
    used = [measure_speed(plan, 2, 1.0, notices_only).worker_bytes / 2**20 for _ in range(3)]
    code = "import adam_mp.training.worker.worker, psutil; print(psutil.Process().memory_full_info().uss)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    bare = int(done.stdout) / 2**20
    beyond = statistics.median(used) - bare
    yield Row(
        "memory of a worker beyond an interpreter with its imports, LeNet, batch 64", "", "< 60 MB", beyond,
        met=beyond < 60, figures=f"{statistics.median(used):.0f} MB, imports {bare:.0f} MB",
    )  # fmt: skip


GROUPS = {
    "step": step_rows, "sgemm": sgemm_rows, "run": run_rows, "dense": dense_rows, "accuracy": accuracy_rows,
    "start": start_rows,
}  # fmt: skip


if __name__ == "__main__":
    run_groups(__doc__, GROUPS, "reach", "Goals and measurements")
