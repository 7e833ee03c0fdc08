"""What `adam-mp bench` shows: measured speeds by number of workers, as a table, as plain values, as a picture."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adam_mp.errors import several
from adam_mp.machine import cpu_name
from adam_mp.memory.segment import megabytes
from adam_mp.report.drawing import new_figure
from adam_mp.report.text import count
from adam_mp.training.benchmark import PHASES, Speed

_COLUMNS = "workers  images/s  (spread)  connections/s  speed-up  efficiency  sgemm    " + "  ".join(
    f"{phase:>8}" for phase in PHASES
)


@dataclasses.dataclass(frozen=True)
class SpeedTable:
    """Measurements of one network on one machine, several for each number of workers.

    `sgemm_gigaflops` is the speed of numpy's matrix product on one core, in GFLOP/s.
    """

    network: str
    batch_size: int
    sgemm_gigaflops: float
    speeds: tuple[Speed, ...]

    @property
    def workers(self) -> list[int]:
        """The numbers of workers that were measured, ascending."""
        return sorted({speed.workers for speed in self.speeds})

    def of(self, workers: int) -> list[Speed]:
        """The measurements of one number of workers."""
        return [speed for speed in self.speeds if speed.workers == workers]

    def rate(self, workers: int) -> float:
        """The median of images per second over the measurements with this number of workers."""
        return statistics.median(speed.images_per_second for speed in self.of(workers))

    def middle(self, workers: int) -> Speed:
        """The measurement whose images per second are nearest the median."""
        rate = self.rate(workers)
        return min(self.of(workers), key=lambda speed: abs(speed.images_per_second - rate))

    def speed_up(self, workers: int) -> float:
        """Return rate(workers) / rate(first) * first, where `first` is the smallest number of workers measured."""
        first = self.workers[0]
        return first * self.rate(workers) / self.rate(first)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: a summary for each number of workers, and all measurements."""
        return {
            "cpu": cpu_name(),
            "network": self.network,
            "batch_size": self.batch_size,
            "sgemm_gigaflops": self.sgemm_gigaflops,
            "workers": [
                {
                    "workers": workers,
                    "images_per_second": self.rate(workers),
                    "speed_up": self.speed_up(workers),
                    "efficiency": self.speed_up(workers) / workers,
                    "share_of_sgemm": self.middle(workers).gigaflops / workers / self.sgemm_gigaflops,
                }
                for workers in self.workers
            ],
            "measurements": [speed.as_dict() for speed in self.speeds],
        }


def speed_text(table: SpeedTable) -> str:
    """Return the table as text."""
    lines = [
        f"{cpu_name()}; one core's product of 1024x1024 float32 matrices in numpy: {table.sgemm_gigaflops:.0f} GFLOP/s",
        f"network {table.network}, batches of {table.batch_size}",
        _COLUMNS,
    ]
    for workers in table.workers:
        rates = [speed.images_per_second for speed in table.of(workers)]
        middle = table.middle(workers)
        share = middle.gigaflops / workers / table.sgemm_gigaflops
        spread = (max(rates) - min(rates)) / table.rate(workers)
        phases = "  ".join(f"{middle.phases[phase]:>8.1%}" for phase in PHASES)
        lines.append(
            f"{workers:>7}  {table.rate(workers):>8,.0f}  {spread:>8.1%}  {count(middle.connections_per_second):>13}  "
            f"{table.speed_up(workers):>7.2f}x  {table.speed_up(workers) / workers:>10.1%}  {share:>5.0%}    {phases}"
        )
    last = table.middle(table.workers[-1])
    lines.append(
        f"a worker has {megabytes(last.worker_bytes)} for itself; staleness {last.staleness:.1f} updates on average "
        f"with {several(table.workers[-1], 'worker')}"
    )
    return "\n".join(lines)


def draw_speed(table: SpeedTable, path: Path) -> None:
    """Draw images per second beside the line of perfect scaling, and how workers divide their time over phases."""
    figure = new_figure(10, 3.8)
    speed, time = figure.subplots(1, 2)
    workers = table.workers
    speed.plot(workers, [table.rate(number) for number in workers], "o-", label="measured")
    first = table.rate(workers[0]) / workers[0]
    speed.plot(workers, [first * number for number in workers], "--", color="grey", label="straight line")
    speed.set(xlabel="workers", ylabel="images per second", ylim=(0, None))
    speed.legend()
    bottom = [0.0] * len(workers)
    names = [str(number) for number in workers]
    for phase in PHASES:
        shares = [table.middle(number).phases[phase] for number in workers]
        time.bar(names, shares, bottom=bottom, label=phase)
        bottom = [low + share for low, share in zip(bottom, shares, strict=True)]
    time.set(xlabel="workers", ylabel="share of the workers' time")
    time.legend(loc="lower right")
    figure.suptitle(f"{table.network}, batches of {table.batch_size}, {cpu_name()}", fontsize=10)
    figure.savefig(path, dpi=110)


def worker_counts(cores: int) -> Sequence[int]:
    """Return the powers of 2 below `cores`, then `cores`: 1, 2, 4, 6 for 6 cores."""
    counts, number = [], 1
    while number < cores:
        counts.append(number)
        number *= 2
    return [*counts, cores]
