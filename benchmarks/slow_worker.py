"""What one slow worker costs the others: epochs with a worker held back to a quarter of its speed, and without.

python -m benchmarks.slow_worker         all rows, ten minutes

Worker 0 is stopped and continued in bursts (SIGSTOP, SIGCONT), so that it runs a quarter of the time. Where workers
have a core each, the others have to do what it does not: n of them take up to n / (n - 0.75) times as long, 1.6 times
for two. Where they outnumber the cores, others use what it leaves, and what remains is what waiting for it costs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from adam_mp.machine import usable_cores
from adam_mp.report.metrics import read_metrics
from benchmarks.goals import Row, run_groups
from benchmarks.timing import spread

_RUNNING, _STOPPED = 0.015, 0.045  # seconds of a burst
_ROUNDS, _EPOCHS = 5, 4
_SLOW = "worker 0"
_GOAL, _POINTS = 1.15, 0.2


@contextlib.contextmanager
def held_back(run: int) -> Iterator[None]:
    """Hold the slow worker of the run with this process id back while the context lasts."""
    over = threading.Event()

    def bursts() -> None:
        while not over.wait(0.01):
            slow = _find(run)
            while slow is not None and not over.is_set():
                try:
                    os.kill(slow, signal.SIGSTOP)
                    time.sleep(_STOPPED)
                    os.kill(slow, signal.SIGCONT)
                    time.sleep(_RUNNING)
                except ProcessLookupError:
                    break

    thread = threading.Thread(target=bursts)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _find(run: int) -> int | None:
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(run).children():
            if child.cmdline()[-1:] == [_SLOW]:
                return int(child.pid)
    return None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a run: an epoch's seconds in the median, test accuracy in percent, images, the slow one's share."""

    seconds: float
    accuracy: float
    images: int
    share: float


def train(slow: bool, cores: int, quorum: float, seed: int) -> Outcome:
    """Train LeNet. The first epoch, in which processes start, is not timed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "adam_mp", "train", "--model", "lenet", "--cores", str(cores), "--epochs",
            str(_EPOCHS), "--quorum", str(quorum), "--seed", str(seed), "--json", "--run-dir", f"{folder}/run",
        ]  # fmt: skip
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        with held_back(run.pid) if slow else contextlib.nullcontext():
            out, _ = run.communicate(timeout=600)
        if run.returncode:
            raise SystemExit(f"{' '.join(command)} ended with exit code {run.returncode}")
        rows = read_metrics(Path(folder) / "run")
    summary = json.loads(out.strip().splitlines()[-1])
    images = {each["number"]: each["images"] for each in summary["per_worker"]}
    return Outcome(
        statistics.median(row["seconds"] for row in rows[1:]), 100 * summary["test_accuracy"],
        summary["images_trained"], images[0] / sum(images.values()),
    )  # fmt: skip


def rows_of(cores: int, quorum: float, goal: float | None) -> Iterator[Row]:
    """An epoch's time, at most `goal` times as long, and the accuracy, with and without the slow worker, by turns."""
    slow, even = [], []
    for seed in range(1, _ROUNDS + 1):
        slow.append(train(True, cores, quorum, seed))
        even.append(train(False, cores, quorum, seed))
    low, middle, high = spread(sorted(a.seconds / b.seconds for a, b in zip(slow, even, strict=True)))
    where = f"{cores} workers on {usable_cores()} cores, quorum {quorum:g}"
    images = sorted({each.images for each in slow + even})
    yield Row(
        f"an epoch with one worker slowed 4x; {where}", "without it", f"<{goal:g}x" if goal else "x", middle, low, high,
        middle <= goal if goal else None,
        f"{_median(slow, 'seconds'):.2f} s, without {_median(even, 'seconds'):.2f} s; share of the slow one "
        f"{100 * _median(slow, 'share'):.1f}%, without {100 * _median(even, 'share'):.1f}%; images "
        f"{images[0]:,} to {images[-1]:,}",
    )  # fmt: skip
    value = statistics.mean(each.accuracy for each in even) - statistics.mean(each.accuracy for each in slow)
    yield Row(
        f"test accuracy lost by it, {_ROUNDS} seeds; {where}", "without it", f"<{_POINTS:g} points", value,
        met=value <= _POINTS, figures=f"{_accuracy(slow)}, without {_accuracy(even)}",
    )  # fmt: skip


def _median(outcomes: list[Outcome], name: str) -> float:
    return float(statistics.median(getattr(each, name) for each in outcomes))


def _accuracy(outcomes: list[Outcome]) -> str:
    values = [each.accuracy for each in outcomes]
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


GROUPS = {
    "quorum": lambda: rows_of(4, 0.75, _GOAL),
    "all": lambda: rows_of(4, 1.0, None),
    "two": lambda: rows_of(2, 0.75, None),
}

if __name__ == "__main__":
    run_groups(__doc__, GROUPS, "slow_worker", "One slow worker")
