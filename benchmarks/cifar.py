"""CIFAR-10 from random weights, seed by seed; docs/benchmarks/cifar.md has what was found.

python -m benchmarks.cifar --data DIR --recipe async --seeds 1,2,3   train, and keep the runs in cifar.json
python -m benchmarks.cifar --data DIR --recipe async --choose        hold out a tenth of the training images instead
python -m benchmarks.cifar --write                                   write the page from the runs that are kept

Settings were chosen on runs that hold images out. Final runs train on all 50,000 images, and look at the test images
once, at the end. One seed takes minutes to an hour, so runs are kept one by one, with their machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from adam_mp.report.metrics import read_metrics
from benchmarks import page

_DATA = "cifar.json"
_CORES, _DEADLINE = 2, 9000.0  # seconds
_CURVES = ("loss", "validation_loss", "validation_accuracy")


class Recipe(NamedTuple):
    """What is trained and how: arguments of `adam-mp train`, and the test accuracy that is hoped for, a fraction."""

    words: str
    arguments: tuple[str, ...]
    goal: float


_FAST = (
    "--model", "cifar-fast", "--epochs", "10", "--batch-size", "64",
    "--optimizer", "nesterov", "--momentum", "0.85", "--lr", "0.094 * (0.07 + 0.93 * triangle(0.23))",
    "--rates", "conv1.weight=0,batch_norm*.scale=0,batch_norm*.shift=64,dense1=0.0123", "--weight-decay", "0.00133",
    "--label-smoothing", "0.2", "--augment", "shift=2,border=reflect,reflect=alternate",
    "--average", "ema:0.99", "--views", "reflect,shift=1",
)  # fmt: skip
RECIPES = {
    "async": Recipe("`cifar-fast`, async", (*_FAST, "--consistency", "async"), 0.94),
    "sync": Recipe("`cifar-fast`, sync", (*_FAST, "--consistency", "sync"), 0.94),
    "resnet20": Recipe(
        "`resnet20`",
        (
            "--model", "resnet20", "--epochs", "50", "--batch-size", "64",
            "--optimizer", "nesterov", "--lr", "0.05 * one_cycle(0.2)", "--weight-decay", "0.0005",
            "--augment", "shift=4,border=reflect,reflect=0.5", "--average", "ema:0.999",
        ),
        0.917,
    ),
}  # fmt: skip


def train(recipe: Recipe, data: Path, more: tuple[str, ...]) -> dict[str, Any]:
    """Train; return the figures of the run: its summary's, the seconds it took, and its curves."""
    command = [sys.executable, "-m", "adam_mp", "train", "--data", str(data), *recipe.arguments]
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        done = subprocess.run(
            [*command, *more, "--cores", str(_CORES), "--json", "--quiet", "--run-dir", f"{folder}/run"],
            stdout=subprocess.PIPE, text=True, timeout=_DEADLINE, check=True,
        )  # fmt: skip
        seconds = time.monotonic() - began
        rows = read_metrics(Path(folder) / "run")
    summary = json.loads(done.stdout.strip().splitlines()[-1])
    names = ("test_accuracy", "images_per_second", "staleness_mean")
    return {
        "seconds": round(seconds),
        **{name: summary.get(name) for name in names},
        **{name: [row.get(name) for row in rows] for name in _CURVES},
    }


def keep(name: str, seed: int, arguments: tuple[str, ...], figures: dict[str, Any]) -> None:
    """Add a run to cifar.json; runs of the same recipe with other arguments are dropped."""
    others = [run for run in kept() if run["recipe"] != name]
    same = [run for run in kept() if run["recipe"] == name and run["arguments"] == [*arguments] and run["seed"] != seed]
    run = {"recipe": name, "seed": seed, "arguments": [*arguments], "machine": page.machine_line(), **figures}
    page.write_data(_DATA, sorted([*others, *same, run], key=lambda each: (each["recipe"], each["seed"])))


def kept() -> list[dict[str, Any]]:
    """Return the runs that are kept."""
    return list(page.read_data(_DATA)) if (page.FOLDER / _DATA).exists() else []


def write() -> None:
    """Write the page and draw its curves."""
    parts = []
    for name, recipe in RECIPES.items():
        if runs := [run for run in kept() if run["recipe"] == name and run["arguments"] == [*recipe.arguments]]:
            parts.append(_part(recipe, runs))
    _draw(page.FOLDER / "cifar.png")
    page.write_page(
        "cifar.md",
        "# CIFAR-10\n\n`python -m benchmarks.cifar` trains, and writes this page. All 50,000 images train; the "
        "test images are looked at once, at the end, with the weights of the last epoch. Settings were chosen on "
        "runs that hold out a tenth of the training images.\n\n" + "\n\n".join(parts) + "\n\n![curves](cifar.png)\n",
    )


def _part(recipe: Recipe, runs: list[dict[str, Any]]) -> str:
    tests = [100 * run["test_accuracy"] for run in runs]
    mean = statistics.mean(tests)
    spread = f" ± {statistics.stdev(tests):.2f}" if len(tests) > 1 else ""
    goal = f"{100 * recipe.goal:.1f}%, is {'met' if mean >= 100 * recipe.goal else '**missed**'}"
    cells = [
        [run["seed"], f"{100 * run['test_accuracy']:.2f}%", f"{run['loss'][-1]:.4f}", f"{run['seconds'] / 60:.1f}",
         f"{run['images_per_second']:,.0f}", run["machine"].split(";")[0]]
        for run in runs
    ]  # fmt: skip
    header = ["seed", "test accuracy", "training loss at the end", "minutes in all", "images/s", "machine"]
    quoted = (f"'{each}'" if " " in each else each for each in recipe.arguments)
    command = "adam-mp train --data cifar10 " + " ".join(quoted)
    return (
        f"## {recipe.words}\n\n```\n{command}\n```\n\n{page.table(header, cells)}\n\nTest accuracy {mean:.2f}{spread}% "
        f"over {len(runs)} seed{'s' if len(runs) > 1 else ''}. The goal, at least {goal}."
    )


def _draw(path: Path) -> None:
    """Draw the training loss of each kept run over its epochs."""
    from matplotlib.figure import Figure  # takes half a second to import, and only this needs it

    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, (name, recipe) in zip(figure.subplots(1, len(RECIPES)), RECIPES.items(), strict=True):
        for run in kept():
            if run["recipe"] == name:
                label = f"seed {run['seed']}: {100 * run['test_accuracy']:.2f}%"
                axes.plot(range(1, len(run["loss"]) + 1), run["loss"], label=label)
        axes.set_title(recipe.words.replace("`", ""))
        axes.set_xlabel("epoch")
        axes.set_ylabel("training loss (nats an image)")
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train as the command line asks, or write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="the folder of CIFAR-10, in any form that adam-mp reads")
    parser.add_argument("--recipe", choices=RECIPES, default="async")
    parser.add_argument("--seeds", default="1", help="numbers, such as 1,2,3")
    parser.add_argument("--choose", action="store_true", help="hold out a tenth of the training images; keep nothing")
    parser.add_argument("--write", action="store_true", help="write the page from the runs that are kept")
    values, more = parser.parse_known_args()
    if values.write:
        write()
        return
    if values.data is None:
        parser.error("--data is missing: the folder of CIFAR-10")
    recipe = RECIPES[values.recipe]
    if more and not values.choose:
        parser.error(f"{' '.join(more)}: other arguments of adam-mp train are for --choose")
    for seed in map(int, values.seeds.split(",")):
        held_out = ("--validation", "0.1", *more) if values.choose else ("--validation", "0")
        figures = train(recipe, values.data, (*held_out, "--seed", str(seed)))
        if values.choose:
            del figures["test_accuracy"]
        print(json.dumps({"seed": seed, **figures}), flush=True)
        if not values.choose:
            keep(values.recipe, seed, recipe.arguments, figures)


if __name__ == "__main__":
    main()
