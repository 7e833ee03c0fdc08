"""CIFAR-10 from random weights, seed by seed; docs/benchmarks/cifar.md has what was found.

python -m benchmarks.cifar --data DIR --recipe async --seeds 1,2,3   train, and keep the runs in cifar.json
python -m benchmarks.cifar --data DIR --recipe async --choose        hold out a tenth of the training images instead
python -m benchmarks.cifar --peer                                    time steps beside PyTorch's, and keep that
python -m benchmarks.cifar --write                                   write the page from the runs that are kept

Settings were chosen on runs that hold images out. Final runs train on all 50,000 images, and look at the test images
once, at the end. One seed takes minutes to an hour, so runs are kept one by one, with their machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adam_mp.network.initialization import initial_weights
from adam_mp.report.metrics import read_metrics
from benchmarks import page
from benchmarks.step import step_of, zoo_network
from benchmarks.timing import alternate, spread

_DATA = "cifar.json"
_CORES, _BATCH, _EPOCHS, _IMAGES = 2, 64, 14, 50_000  # of `cifar-fast`
_DEADLINE = 9000.0  # seconds
_FINAL = ("--validation", "0")
_CURVES = ("loss", "validation_loss", "validation_accuracy")


class Recipe(NamedTuple):
    """What is trained and how: arguments of `adam-mp train`, and the test accuracy that is hoped for over `seeds`."""

    words: str
    arguments: tuple[str, ...]
    goal: float
    seeds: int = 5


_FAST = (
    "--model", "cifar-fast", "--epochs", str(_EPOCHS), "--batch-size", str(_BATCH),
    "--optimizer", "nesterov", "--momentum", "0.85",
    "--rates", "conv1.weight=0,batch_norm*.scale=0,batch_norm*.shift=64,dense1=0.0123", "--weight-decay", "0.00133",
    "--label-smoothing", "0.2", "--augment", "shift=2,border=reflect,reflect=alternate",
    "--views", "reflect,shift=1",
)  # fmt: skip
_SCHEDULE = "(0.07 + 0.93 * triangle(0.23))"
# A step of sync has a batch of each worker: twice the images, so twice the rate, and half as many steps to average.
_ASYNC = ("--lr", f"0.094 * {_SCHEDULE}", "--average", "ema:0.99", "--consistency", "async")
_SYNC = ("--lr", f"0.188 * {_SCHEDULE}", "--average", "ema:0.98", "--consistency", "sync")
RECIPES = {
    "async": Recipe("`cifar-fast`, async", (*_FAST, *_ASYNC), 0.94),
    "sync": Recipe("`cifar-fast`, sync", (*_FAST, *_SYNC), 0.94),
    "resnet20": Recipe(
        "`resnet20`",
        (
            "--model", "resnet20", "--epochs", "50", "--batch-size", "64",
            "--optimizer", "nesterov", "--lr", "0.05 * one_cycle(0.2)", "--weight-decay", "0.0005",
            "--augment", "shift=4,border=reflect,reflect=0.5", "--average", "ema:0.999",
        ),
        0.917,
        seeds=3,
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
    data = kept()
    others = [run for run in data["runs"] if run["recipe"] != name or run["seed"] != seed]
    fitting = [run for run in others if run["recipe"] != name or run["arguments"] == [*arguments]]
    run = {"recipe": name, "seed": seed, "arguments": [*arguments], "machine": page.machine_line(), **figures}
    runs = sorted([*fitting, run], key=lambda each: (each["recipe"], each["seed"]))
    page.write_data(_DATA, {**data, "runs": runs})


def kept() -> dict[str, Any]:
    """Return what is kept: `runs`, and `peer`, what `compare_steps` has found."""
    return dict(page.read_data(_DATA)) if (page.FOLDER / _DATA).exists() else {"runs": [], "peer": None}


def compare_steps() -> dict[str, Any]:
    """Time training steps of `cifar-fast` beside PyTorch's, and PyTorch's with all cores; needs PyTorch."""
    import torch

    from benchmarks.peers.torch_net import TorchStep

    network = zoo_network("cifar-fast")
    with step_of(network, _BATCH) as ours:
        weights = initial_weights(network, 1, ours.images)
        theirs = {
            layout: TorchStep(network, weights, ours.images, ours.labels, 1e-3, layout == "channels last")
            for layout in ("channels first", "channels last")
        }
        compared = alternate({"ours": ours.run, **{name: step.run for name, step in theirs.items()}}, seconds=60)
    peer = compared.fastest(*theirs)
    figures: dict[str, Any] = {
        "layout": peer, "ratios": compared.ratios(peer, "ours"), "machine": page.machine_line(),
        "one_core": {name: _BATCH / compared.median(name) for name in ("ours", peer)},
    }  # fmt: skip
    torch.set_num_threads(_CORES)
    generator = np.random.default_rng(1)
    rates = {}
    for batch in (_BATCH, 2 * _BATCH, 1024):
        images = generator.standard_normal((batch, *network.input_shape), dtype=np.float32)
        labels = generator.integers(network.classes, size=batch, dtype=np.int32)
        step = TorchStep(network, weights, images, labels, 1e-3, channels_last=True)
        rates[str(batch)] = batch / alternate({"theirs": step.run}, seconds=30, rounds=5).median("theirs")
    return {**figures, "all_cores": rates}


def write() -> None:
    """Write the page and draw its curves."""
    parts = []
    for name, recipe in RECIPES.items():
        if runs := [run for run in kept()["runs"] if run["recipe"] == name and run["arguments"] == [*recipe.arguments]]:
            parts.append(_part(recipe, runs))
    if peer := kept()["peer"]:
        parts.append(_peer_part(peer))
    _draw(page.FOLDER / "cifar.png")
    page.write_page(
        "cifar.md",
        "# CIFAR-10\n\n`python -m benchmarks.cifar` trains, and writes this page. All 50,000 images train; the "
        "test images are looked at once, at the end, with the weights of the last epoch. Settings were chosen on "
        "runs that hold out a tenth of the training images. Other work may have shared the machine: minutes say "
        "little.\n\n" + "\n\n".join(parts) + "\n\n![curves](cifar.png)\n",
    )


def _part(recipe: Recipe, runs: list[dict[str, Any]]) -> str:
    tests = [100 * run["test_accuracy"] for run in runs]
    mean = statistics.mean(tests)
    spread = f" ± {statistics.stdev(tests):.2f}" if len(tests) > 1 else ""
    outcome = "met" if mean >= 100 * recipe.goal else "**missed**"
    if len(runs) < recipe.seeds:
        outcome = "not decided: the other seeds are still to be trained"
    goal = f"{100 * recipe.goal:.1f}% over {recipe.seeds} seeds, is {outcome}"
    cells = [
        [run["seed"], f"{100 * run['test_accuracy']:.2f}%", f"{run['loss'][-1]:.4f}", f"{run['seconds'] / 60:.1f}",
         f"{run['images_per_second']:,.0f}", run["machine"].split(";")[0]]
        for run in runs
    ]  # fmt: skip
    header = ["seed", "test accuracy", "training loss at the end", "minutes in all", "images/s", "machine"]
    arguments = (*recipe.arguments, *_FINAL, "--cores", str(_CORES), "--seed", "1")
    quoted = (f"'{each}'" if " " in each else each for each in arguments)
    command = "adam-mp train --data cifar10 " + " ".join(quoted)
    return (
        f"## {recipe.words}\n\n```\n{command}\n```\n\n{page.table(header, cells)}\n\nTest accuracy {mean:.2f}{spread}% "
        f"over {len(runs)} seed{'s' if len(runs) > 1 else ''}. The goal, at least {goal}."
    )


def _peer_part(peer: dict[str, Any]) -> str:
    low, middle, high = spread(peer["ratios"])
    batch, rate = max(peer["all_cores"].items(), key=lambda item: item[1])
    ours, theirs = peer["one_core"]["ours"], peer["one_core"][peer["layout"]]
    minutes = _EPOCHS * _IMAGES / rate / 60
    return (
        f"## Beside PyTorch\n\nA step of `cifar-fast` with update on one core, batch {_BATCH}: ours {ours:,.0f} "
        f"images/s, PyTorch {theirs:,.0f} ({peer['layout']}), {middle:.2f}x ({low:.2f} to {high:.2f}). With "
        f"{_CORES} threads PyTorch makes {rate:,.0f} images/s at best (channels last, batch {batch}), so its steps "
        f"alone, of a recipe as above, take {minutes:.1f} minutes, without any augmentation or test. "
        f"{peer['machine']}"
    )


def _draw(path: Path) -> None:
    """Draw the training loss of each kept run over its epochs."""
    from matplotlib.figure import Figure  # takes half a second to import, and only this needs it

    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, (name, recipe) in zip(figure.subplots(1, len(RECIPES)), RECIPES.items(), strict=True):
        for run in kept()["runs"]:
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
    parser.add_argument("--peer", action="store_true", help="time steps beside PyTorch's")
    parser.add_argument("--write", action="store_true", help="write the page from the runs that are kept")
    values, more = parser.parse_known_args()
    if values.write:
        write()
        return
    if values.peer and importlib.util.find_spec("torch") is None:
        parser.error("--peer needs PyTorch; install it with: make peers")
    if values.peer:
        figures = compare_steps()
        print(json.dumps(figures))
        page.write_data(_DATA, {**kept(), "peer": figures})
        return
    if values.data is None:
        parser.error("--data is missing: the folder of CIFAR-10")
    recipe = RECIPES[values.recipe]
    if more and not values.choose:
        parser.error(f"{' '.join(more)}: other arguments of adam-mp train are for --choose")
    for seed in map(int, values.seeds.split(",")):
        held_out = ("--validation", "0.1", *more) if values.choose else _FINAL
        figures = train(recipe, values.data, (*held_out, "--seed", str(seed)))
        if values.choose:
            del figures["test_accuracy"]
        print(json.dumps({"seed": seed, **figures}), flush=True)
        if not values.choose:
            keep(values.recipe, seed, recipe.arguments, figures)


if __name__ == "__main__":
    main()
