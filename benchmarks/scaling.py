"""Cost as the work grows: parameters, image side, batch, workers. Writes docs/benchmarks/scaling.md and scaling.png.

python -m benchmarks.scaling
"""

from __future__ import annotations

import os

from adam_mp.machine import ONE_THREAD

os.environ.update(ONE_THREAD)  # before numpy loads its libraries

import dataclasses
import statistics
from collections.abc import Iterator, Sequence

from adam_mp.machine import usable_cores
from adam_mp.network.layer import Layer
from adam_mp.network.layers import Conv, Dense, Flatten, MaxPool, ReLU, Softmax
from adam_mp.network.network import Network
from adam_mp.report.progress import notices_only
from adam_mp.training.benchmark import measure_speed
from adam_mp.training.plan.plan import make_plan
from benchmarks import page
from benchmarks.step import step_of, zoo_network
from benchmarks.timing import alternate

_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Point:
    """One size: what it is, microseconds and million connections an image, bytes of weights and training context."""

    size: int
    label: str
    microseconds: float
    connections: float
    megabytes: float

    @property
    def picoseconds_per_connection(self) -> float:
        """What would be the same everywhere if cost grew in a straight line."""
        return self.microseconds / self.connections


def scaled_lenet(shape: tuple[int, int, int], width: int, dense: bool = True) -> Network:
    """LeNet with `width` times the channels and units, on images of any shape; with its large dense layer or not."""
    layers: list[Layer] = [
        Conv(20 * width, 5), MaxPool(2), ReLU(), Conv(50 * width, 5), MaxPool(2), ReLU(), Flatten(),
    ]  # fmt: skip
    if dense:
        layers += [Dense(500 * width), ReLU()]
    return Network.build([*layers, Dense(), Softmax()], shape, 10)


def _point(network: Network, batch: int, size: int, label: str) -> Point:
    with step_of(network, batch) as step:
        seconds = alternate({"step": step.run}, seconds=2, rounds=7).median("step")
        memory = step.context.nbytes + step.store.weights.nbytes
    return Point(size, label, 1e6 * seconds / batch, network.connections / 1e6, memory / 2**20)


def parameter_points() -> Iterator[Point]:
    """LeNet 1 to 8 times as wide: 1 to 64 times the parameters."""
    for width in (1, 2, 4, 8):
        network = scaled_lenet((28, 28, 1), width)
        yield _point(network, _BATCH, network.parameter_count, f"{network.parameter_count:,}")


def side_points() -> Iterator[Point]:
    """The convolutions of LeNet on larger images."""
    for side in (28, 56, 112, 224):
        yield _point(scaled_lenet((side, side, 1), 1, dense=False), 8, side, f"{side}x{side}")


def batch_points() -> Iterator[Point]:
    """LeNet by images of a batch."""
    for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        yield _point(zoo_network("lenet"), batch, batch, str(batch))


def worker_points() -> Iterator[Point]:
    """Whole runs by number of workers, on as many cores as there are."""
    given = {"model": "lenet", "batch_size": _BATCH, "augment": "none", "epochs": 1, "validation": 0.0}
    plan = make_plan({**given, "cores": 1}, notices_only)
    for workers in (1, 2, 4, 8):
        speeds = [measure_speed(plan, workers, 2.0, notices_only) for _ in range(3)]
        rate = statistics.median(speed.images_per_second for speed in speeds)
        memory = workers * max(speed.worker_bytes for speed in speeds) / 2**20
        yield Point(workers, str(workers), 1e6 / rate, plan.network.connections / 1e6, memory)


SERIES = {
    "parameters": (parameter_points, f"LeNet wider and wider, batch {_BATCH}"),
    "image side": (side_points, "LeNet's convolutions on larger images, batch 8"),
    "batch": (batch_points, "LeNet, images of a batch"),
    "workers": (worker_points, f"whole runs of LeNet, batch {_BATCH}"),
}
_REASONS = {
    "parameters": "One process. A straight line has the same picoseconds for every connection. Two things leave it, by "
    "the profile of a Zen 5 core with 1 MB of L2 cache: the dense layer's update streams weights that no longer fit "
    "there through memory (1.7 picoseconds a connection of the narrow network, 4.6 and 5.3 of the widest two), and at "
    "27 million parameters the second convolution's weight does not fit either, so that picking its rows for errors "
    "that are not 0 no longer pays and all errors are multiplied (14.6 picoseconds instead of 7.7).",
    "image side": "One process. Level up to 112x112. At 224x224 the patches of one image are 22 MB: the way back from "
    "the errors that are not 0 makes those of a whole image before it adds them up, leaves the caches, and a plain "
    "convolution of all errors is quicker (by the profile 22.2 picoseconds a connection for the second convolution "
    "going back, 8.5 at 56x56). Patches in strips of rows would mend it.",
    "batch": "One process. A batch of one reads all weights of the dense layers for one image, forward and backward; a "
    "larger batch shares that. From some 32 images on nothing is left to share.",
    "workers": "Time per image of the whole run; memory is what the workers have for themselves, interpreters and "
    "all. Down to the number of cores the time falls with it, less what workers cost each other by writing to the same "
    "weights and what the data server takes; more workers than cores only take turns.",
}  # fmt: skip


def main() -> None:
    """Measure, draw and write."""
    measured: dict[str, list[Point]] = {}
    for name, (points, _) in SERIES.items():
        measured[name] = []
        for point in points():
            print(
                f"{name:>12} {point.label:>12}  {point.microseconds:9.1f} us/image  {point.megabytes:8.1f} MB",
                flush=True,
            )
            measured[name].append(point)
    page.write_data("scaling.json", {name: [dataclasses.asdict(p) for p in part] for name, part in measured.items()})
    _draw(measured)
    sections = [
        f"## {name.capitalize()}: {SERIES[name][1]}\n\n{_table(name, points)}\n\n{_REASONS[name]}"
        for name, points in measured.items()
    ]
    page.write_page(
        "scaling.md",
        "# Cost as the work grows\n\n`make bench` writes this page.\n\n"
        f"{page.machine_line()} {usable_cores()} cores for the runs.\n\n"
        "![time and memory by size](scaling.png)\n\n" + "\n\n".join(sections),
    )


def _table(name: str, points: Sequence[Point]) -> str:
    header = (name, "microseconds an image", "million connections", "picoseconds a connection", "MB")
    rows = [
        (p.label, f"{p.microseconds:,.1f}", f"{p.connections:,.2f}", f"{p.picoseconds_per_connection:.1f}",
         f"{p.megabytes:,.1f}") for p in points
    ]  # fmt: skip
    return page.table(header, rows)


def _short(size: int) -> str:
    return f"{size / 1e6:.1f}M" if size >= 1e6 else f"{size / 1e3:.0f}k" if size >= 1e4 else str(size)


def _draw(measured: dict[str, list[Point]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), layout="constrained")
    grid = figure.subplots(2, len(measured))
    for column, (name, points) in enumerate(measured.items()):
        sizes = [point.size for point in points]
        times, line = [point.microseconds for point in points], [point.connections for point in points]
        scale = times[0] / line[0]
        grid[0][column].loglog(sizes, times, "o-", label="measured")
        straight = [scale * value for value in line]
        if name == "workers":
            straight = [times[0] / min(size, usable_cores()) for size in sizes]
        grid[0][column].loglog(sizes, straight, "--", color="grey", label="straight line")
        grid[0][column].set(title=name, ylabel="microseconds an image")
        grid[1][column].loglog(sizes, [point.megabytes for point in points], "o-", color="C1")
        grid[1][column].set(xlabel=name, ylabel="MB")
        for axes in (grid[0][column], grid[1][column]):
            axes.grid(alpha=0.3)
            axes.set_xticks(sizes, [_short(size) for size in sizes])
            axes.minorticks_off()
            low, high = axes.get_ylim()
            ticks = [tick for power in range(-1, 6) for tick in (10**power, 2 * 10**power, 5 * 10**power)]
            ticks = [tick for tick in ticks if low <= tick <= high]
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    grid[0][0].legend()
    page.FOLDER.mkdir(parents=True, exist_ok=True)
    figure.savefig(page.FOLDER / "scaling.png", dpi=90)


if __name__ == "__main__":
    main()
