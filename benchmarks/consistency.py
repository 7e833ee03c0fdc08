"""What consistency costs and brings: accuracy and time at equal images, by mode and number of workers.

python -m benchmarks.consistency                     everything: about an hour on two cores
python -m benchmarks.consistency --seeds 1 --workers 1 2

The learning rate of each mode is chosen on validation images, with two workers, before anything is measured; test
images are looked at once, at the end of each run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import page

MODES = ("async", "ssp:4", "sync")
RATES = (0.035, 0.07, 0.14)  # at a batch of 16; sync's larger batches take the larger ones
LEVELS = (0.985, 0.99, 0.993)  # of validation accuracy
_MODEL = "lenet"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one run. Accuracies are fractions; `reached[level]` the seconds to it, None if it was not."""

    test: float
    validation: float
    staleness: float
    images_per_second: float
    reached: dict[str, float | None]


def run(mode: str, workers: int, rate: float, seed: int, epochs: int) -> Outcome:
    """Train once, on all training images but those held out to validate."""
    arguments = [
        "train", "--model", _MODEL, "--consistency", mode, "--cores", str(workers), "--epochs", str(epochs),
        "--lr", f"{rate} * warmup * (1 - progress)", "--seed", str(seed), "--json",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "adam_mp", *arguments, "--run-dir", f"{folder}/run"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        rows = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads(done.stdout.strip().splitlines()[-1])
    return Outcome(
        summary["test_accuracy"], max(row["validation_accuracy"] for row in rows), summary["staleness_mean"],
        summary["images_per_second"], {f"{level:.1%}": _seconds_to(rows, level) for level in LEVELS},
    )  # fmt: skip


def _seconds_to(rows: Sequence[dict[str, Any]], level: float) -> float | None:
    seconds = 0.0
    for row in rows:
        seconds += row["seconds"] + row["validation_seconds"]
        if row["validation_accuracy"] >= level:
            return seconds
    return None


def choose_rate(mode: str, epochs: int) -> float:
    """Return the rate with the best validation accuracy; a run that diverges is out."""

    def validated(rate: float) -> float:
        try:
            return run(mode, 2, rate, 100, epochs).validation
        except RuntimeError:
            return -math.inf

    return max(RATES, key=validated)


def _row(mode: str, workers: int, rate: float, outcomes: Sequence[Outcome]) -> list[str]:
    tests = [100 * each.test for each in outcomes]
    spread = f" ± {statistics.stdev(tests):.2f}" if len(tests) > 1 else ""
    times = []
    for level in outcomes[0].reached:
        reached = [each.reached[level] for each in outcomes]
        known = [seconds for seconds in reached if seconds is not None]
        many = f" ({len(known)} of {len(reached)})" if len(known) < len(reached) else ""
        times.append(f"{statistics.median(known):.1f} s{many}" if known else "never")
    staleness = statistics.mean(each.staleness for each in outcomes)
    speed = statistics.median(each.images_per_second for each in outcomes)
    return [mode, str(workers), f"{rate:g}", f"{statistics.mean(tests):.2f}{spread}", *times, f"{staleness:.2f}",
            f"{speed:,.0f}"]  # fmt: skip


def main() -> None:
    """Measure what the command line asks for, print it, and write the page if it is everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    values = parser.parse_args()
    rates = {mode: choose_rate(mode, values.epochs) for mode in MODES}
    print(f"rates chosen on validation images: {rates}", flush=True)
    rows = []
    for workers in values.workers:
        for mode in MODES:
            outcomes = [run(mode, workers, rates[mode], seed, values.epochs) for seed in range(1, values.seeds + 1)]
            rows.append(_row(mode, workers, rates[mode], outcomes))
            print("  ".join(rows[-1]), flush=True)
    if values.seeds >= parser.get_default("seeds") and values.workers == parser.get_default("workers"):
        header = ["mode", "workers", "rate", "test accuracy", *(f"to {level:.1%}" for level in LEVELS), "staleness",
                  "images/s"]  # fmt: skip
        page.write_page(
            "consistency.md",
            f"# Consistency\n\n`python -m benchmarks.consistency` writes this page. MNIST, {_MODEL}, {values.epochs} "
            f"epochs, {values.seeds} seeds; times to validation accuracy, in the median of those runs that reached it; "
            f"rates chosen on validation images.\n\n{page.machine_line()}\n\n{page.table(header, rows)}\n",
        )


if __name__ == "__main__":
    main()
