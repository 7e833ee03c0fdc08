"""What consistency costs and brings: test accuracy and time at equal images, by mode and number of workers.

python -m benchmarks.consistency                     everything: 40 minutes on two cores
python -m benchmarks.consistency --seeds 1 --workers 1 2

The learning rate of each mode and number of workers is chosen first, by the loss on a tenth of the training images
held out. What is measured then trains on all 60,000, and looks at the test images after each epoch, choosing nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import adam_mp
from adam_mp.data.reading.dataset import DataSet, make_dataset
from adam_mp.data.reading.loading import load_data
from adam_mp.errors import DivergenceError
from adam_mp.report.metrics import read_metrics
from benchmarks import page

MODES = ("async", "ssp:4", "sync")
FIRST_RATE = 0.07  # the default; the best one is sought from here by halves and doubles
LEVELS = (0.985, 0.99, 0.993)  # of test accuracy
_MODEL, _HELD_OUT = "lenet", 0.1
_CHOOSING_SEED, _CHOOSING_EPOCHS = 100, 3
_DATA = "consistency.json"


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One epoch of a run: seconds from the run's first epoch to its end, and how well it did on what it looked at."""

    seconds: float
    accuracy: float
    loss: float


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: where it stood after each epoch, its mean staleness, its speed over all."""

    epochs: tuple[Epoch, ...]
    staleness: float
    images_per_second: float

    def seconds_to(self, level: float) -> float | None:
        """Return the seconds to the end of the first epoch with this accuracy; None if there was none."""
        return next((each.seconds for each in self.epochs if each.accuracy >= level), None)


@dataclasses.dataclass(frozen=True)
class Case:
    """A mode and a number of workers; with one worker all modes are the same."""

    mode: str
    workers: int

    def run(self, data: DataSet | str, rate: float, seed: int, epochs: int) -> Run | None:
        """Train once; None if it diverges."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = adam_mp.train(
                    _MODEL, data, quiet=True, consistency=self.mode, cores=self.workers, epochs=epochs, seed=seed,
                    lr=f"{rate} * warmup * (1 - progress)", validation=_HELD_OUT, rollbacks=0, run_dir=f"{folder}/run",
                )  # fmt: skip
            except DivergenceError:
                return None
            rows = read_metrics(Path(folder) / "run")
        if result.workers != self.workers:
            raise SystemExit(f"{self.workers} workers were asked for, {result.workers} ran; let others rest")
        seconds, known = 0.0, []
        for row in rows:
            seconds += row["seconds"] + row["validation_seconds"]
            known.append(Epoch(seconds, row["validation_accuracy"], row["validation_loss"]))
        return Run(tuple(known), result.staleness_mean, result.images_per_second)

    def choose_rate(self) -> float:
        """Return the rate that ends with the least loss on held-out images, its half and double being worse."""

        def held_out_loss(rate: float) -> float:
            run = self.run("mnist", rate, _CHOOSING_SEED, _CHOOSING_EPOCHS)
            return math.inf if run is None else run.epochs[-1].loss

        best, least = FIRST_RATE, held_out_loss(FIRST_RATE)
        for factor in (2.0, 0.5):
            while (loss := held_out_loss(factor * best)) < least:
                best, least = factor * best, loss
            if best != FIRST_RATE:
                break
        return best


@dataclasses.dataclass(frozen=True)
class Measured:
    """A case, the rate chosen for it, its runs that came to their end, and how many diverged."""

    case: Case
    rate: float
    runs: tuple[Run, ...]
    diverged: int

    @property
    def accuracies(self) -> list[float]:
        """Test accuracy of each run after its last epoch, in percent."""
        return [100 * run.epochs[-1].accuracy for run in self.runs]

    def cells(self) -> list[str]:
        """The row of the page."""
        name = [self.case.mode if self.case.workers > 1 else "any", str(self.case.workers), f"{self.rate:g}"]
        diverged = f" ({self.diverged} diverged)" if self.diverged else ""
        if not self.runs:
            return [*name, f"all{diverged}", *[""] * (len(LEVELS) + 2)]
        times = []
        for level in LEVELS:
            seconds = [run.seconds_to(level) for run in self.runs]
            known = [each for each in seconds if each is not None]
            often = f" ({len(known)} of {len(seconds)})" if len(known) < len(seconds) else ""
            times.append(f"{statistics.median(known):.1f} s{often}" if known else "never")
        return [
            *name, mean_and_spread(self.accuracies) + diverged, *times,
            f"{statistics.mean(run.staleness for run in self.runs):.2f}",
            f"{statistics.median(run.images_per_second for run in self.runs):,.0f}",
        ]  # fmt: skip


def cases_with(workers: int) -> list[Case]:
    """Return the cases with so many workers."""
    return [Case(mode, workers) for mode in (MODES if workers > 1 else MODES[:1])]


def measure(rates: Mapping[Case, float], data: DataSet, seeds: Iterable[int], epochs: int) -> dict[Case, Measured]:
    """Train each case with its rate and each seed. The cases take turns, so that they see the same machine."""
    runs: dict[Case, list[Run | None]] = {case: [] for case in rates}
    for seed in seeds:
        for case, rate in rates.items():
            runs[case].append(case.run(data, rate, seed, epochs))
    ended = {case: tuple(run for run in tried if run is not None) for case, tried in runs.items()}
    return {case: Measured(case, rates[case], ended[case], len(runs[case]) - len(ended[case])) for case in rates}


def mean_and_spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation of percentages."""
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def gain(measured: Mapping[Case, Measured], case: Case) -> str:
    """Say how many points async has over sync with as many workers, and the standard error of that."""
    ours, theirs = (measured[dataclasses.replace(case, mode=mode)].accuracies for mode in ("async", "sync"))
    if min(len(ours), len(theirs)) < 2:
        return "too many diverged"
    error = math.sqrt(statistics.variance(ours) / len(ours) + statistics.variance(theirs) / len(theirs))
    return f"{statistics.mean(ours) - statistics.mean(theirs):+.3f} ± {error:.3f}"


def write(measured: Mapping[Case, Measured], epochs: int, seeds: int) -> None:
    """Write the page."""
    header = ["mode", "workers", "rate", "test accuracy (%)", *(f"to {level:.1%}" for level in LEVELS), "staleness",
              "images/s"]  # fmt: skip
    gains = [[case.workers, gain(measured, case)] for case in measured if case.mode == "async" and case.workers > 1]
    page.write_page(
        "consistency.md",
        f"# Consistency\n\n`python -m benchmarks.consistency` writes this page. MNIST, all 60,000 training images, "
        f"{_MODEL}, augmented, {epochs} epochs, {seeds} seeds: mean and standard deviation. Times to a test accuracy "
        "are medians of the runs that reached it, looked at after each epoch. The rate of each row was sought from "
        f"{FIRST_RATE:g} by halves and doubles, by the loss on a tenth of the training images held out, after "
        f"{_CHOOSING_EPOCHS} epochs, before test images were looked at. With one worker all modes are alike.\n\n"
        f"{page.machine_line()}\n\n{page.table(header, [each.cells() for each in measured.values()])}\n\n"
        "## What asynchrony does to accuracy\n\nTest accuracy of async less that of sync with as many workers, at "
        "equal images, with the standard error of the difference. The paper says +0.24 points (99.39 to 99.63).\n\n"
        f"{page.table(['workers', 'points'], gains)}\n",
    )


def main() -> None:
    """Measure what the command line asks for, print it, and write the page if it is everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    values = parser.parse_args()
    digits = load_data()
    digits = make_dataset(digits.name, digits.train, digits.test, digits.test)
    measured: dict[Case, Measured] = {}
    for workers in values.workers:
        rates = {case: case.choose_rate() for case in cases_with(workers)}
        for case, found in measure(rates, digits, range(1, values.seeds + 1), values.epochs).items():
            measured[case] = found
            print("  ".join(found.cells()), flush=True)
    if values.seeds >= parser.get_default("seeds") and values.workers == parser.get_default("workers"):
        page.write_data(_DATA, [dataclasses.asdict(each) for each in measured.values()])
        write(measured, values.epochs, values.seeds)


if __name__ == "__main__":
    main()
