"""A model cut over workers and over machines, against whole models. Writes docs/benchmarks/partitions.md and .png.

python -m benchmarks.partitions                measure all and write the page
python -m benchmarks.partitions --only speed   measure one part, keep it, and write the page: speed, accuracy, size;
                                               machines, limit and drill need root and network namespaces,
                                               cifar needs --data DIR with CIFAR-10
"""

from __future__ import annotations

import os

from adam_mp.machine import ONE_THREAD

os.environ.update(ONE_THREAD)  # before numpy loads its libraries

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import adam_mp
from adam_mp.compute.context import TrainingContext
from adam_mp.compute.measurement import choose_kernels
from adam_mp.compute.part_measurement import part_bytes, part_seconds
from adam_mp.network.cuts import plan_partitions
from adam_mp.network.layers import Dense, Flatten, ReLU, Softmax
from adam_mp.network.network import Network
from adam_mp.network.traffic import part_costs
from adam_mp.report.partitions import partition_facts
from adam_mp.report.progress import notices_only
from adam_mp.training.benchmark import measure_speed
from adam_mp.training.plan.plan import make_plan
from benchmarks import apart, page
from benchmarks.step import zoo_network
from benchmarks.timing import spread
from tools.drilling.machines import Machines

_DATA = "partitions.json"
_BATCH, _SIDE = 32, 224
_ROUNDS, _SECONDS = 7, 20.0
_SEEDS, _EPOCHS, _CIFAR_EPOCHS = (1, 2, 3, 4, 5), 3, 5
_WIDTHS = {10: 1_500, 100: 6_300, 500: 15_000, 1000: 21_500}  # about so many million: units of a layer
_LARGE, _LONG = 500, 90.0  # from so many million on, a batch takes seconds: measure for so long
_LAYERS, _FEATURES = 3, 1024
_IMAGES, _TURNS = 320, 5  # of an epoch over machines, and how often each side has its turn
_WHY_IT_BENDS = (  # measured apart from the rest, with the store in private memory with huge pages
    "The line bends between 6 and 86 million connections, for whole models and partitions alike. A layer's matrix of "
    "9 MB becomes one of 159 MB. It leaves the caches, and has more pages of 4 KB than the processor keeps the places "
    "of, so each row of a tile costs a walk through page tables. With pages of 2 MB, which this system grants to "
    "private memory alone, one process made 8.2 G connections a second at 86 million, against 5.1 in the same minute."
)
_MEMORY = {"2": 0.55, "4": 0.30}  # partitions -> most memory of one, against one process
_LIMIT, _LIMITED_WIDTH = 3 << 30, 34_600
PARTS = ("speed", "accuracy", "cifar", "size", "machines", "limit", "drill")
_OF_MACHINES = ("machines", "limit", "drill")


def photographs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images of 224x224 in ten classes: what is learned does not matter for speed."""
    generator = np.random.default_rng(1)
    return generator.integers(0, 256, (count, _SIDE, _SIDE, 3), dtype=np.uint8), np.arange(count) % 10


def measure_partitions() -> dict[str, Any]:
    """Images/s of alexnet: one worker, two workers with whole models, two partitions; in turns."""
    given = {
        "model": "alexnet", "data": photographs(1500), "batch_size": _BATCH, "augment": "none", "epochs": 1,
        "validation": 0.0, "lr": 1e-4,
    }  # fmt: skip
    plans = {
        "one": (make_plan({**given, "cores": 1}, notices_only), 1),
        "two whole": (make_plan({**given, "cores": 2}, notices_only), 2),
        "two partitions": (make_plan({**given, "cores": 2, "partitions": 2}, notices_only), 2),
    }
    rates: dict[str, list[float]] = {name: [] for name in plans}
    for _ in range(_ROUNDS):
        for name, (plan, workers) in plans.items():
            rates[name].append(measure_speed(plan, workers, _SECONDS, notices_only).images_per_second)
            print(f"{name:>15} {rates[name][-1]:7.1f} images/s", flush=True)
    return {"rates": rates, "machine": page.machine_line()}


def memory_shares(apart: bool) -> dict[str, float]:
    """Memory of the largest partition of alexnet (weights, gradient, activations, messages), against one process."""
    network = zoo_network("alexnet")
    weights = {name: np.zeros(shape, np.float32) for name, shape in network.parameters.items()}
    whole = TrainingContext(network, weights, _BATCH).nbytes + sum(each.nbytes for each in weights.values())
    plans = {parts: plan_partitions(network, parts, batch=_BATCH) for parts in (2, 4)}
    return {
        str(parts): max(part_bytes(plan, part, _BATCH, apart) for part in range(parts)) / whole
        for parts, plan in plans.items()
    }


def measure_accuracy() -> dict[str, Any]:
    """Test accuracy on MNIST over seeds, with the whole model, two partitions, and groups that share servers."""
    groups = {"partitions": 2, "replicas": 2, "servers": 2}
    cuts = {"1": {"partitions": 1}, "2": {"partitions": 2}, _GROUPS: groups}
    return _accuracies(cuts, {"cores": 2, "epochs": _EPOCHS})


def measure_cifar(data: Path) -> dict[str, Any]:
    """Test accuracy on CIFAR-10 over seeds, with the whole model at one worker, and with two partitions."""
    given = {"data": data, "model": "lenet", "epochs": _CIFAR_EPOCHS, "optimizer": "momentum"}
    return _accuracies({"1": {"cores": 1}, "2": {"cores": 2, "partitions": 2}}, given)


def _accuracies(cuts: dict[str, dict[str, Any]], given: dict[str, Any]) -> dict[str, Any]:
    """Return test accuracies by name of the cut, one a seed; the seeds take turns."""
    found: dict[str, list[float]] = {name: [] for name in cuts}
    for seed in _SEEDS:
        for name, more in cuts.items():
            with tempfile.TemporaryDirectory() as folder:
                result = adam_mp.train(**given, **more, seed=seed, quiet=True, run_dir=Path(folder) / "run")
            found[name].append(result.test_accuracy)
            print(f"seed {seed}, {name} partitions: {result.test_accuracy:.2%}", flush=True)
    return {**found, "machine": page.machine_line()}


def measure_machines() -> dict[str, Any]:
    """Images/s of alexnet over two machines: by delay, and by bandwidth beside what `inspect` says."""
    images, labels = photographs(_IMAGES)
    network = zoo_network("alexnet")
    plan = plan_partitions(network, 2, batch=_BATCH)
    slowest = max(range(2), key=lambda part: plan.graphs[part].connections)
    seconds = part_seconds(plan, slowest, _BATCH, choose_kernels(network, _BATCH))
    facts = partition_facts(plan, _BATCH, [part_bytes(plan, part, _BATCH) for part in range(2)], seconds)
    link = next(each for each in facts["links"] if each["gbit"] == apart.GBIT)
    return {
        "delays": apart.measure_delays(images, labels, _BATCH, _TURNS),
        "bandwidth": apart.measure_bandwidth(images, labels, _BATCH, _TURNS),
        "work_seconds": seconds, "link_seconds": link["seconds"], "machine": page.machine_line(),
    }  # fmt: skip


def dense_network(width: int) -> Network:
    """A network of large dense layers: almost all of its connections are between them."""
    layers: list[Any] = [Flatten()]
    for _ in range(_LAYERS):
        layers += [Dense(width), ReLU()]
    return Network.build([*layers, Dense(), Softmax()], (32, 32, 1), 10)


def measure_sizes() -> dict[str, Any]:
    """Connections a second and bytes an image by size of the model and number of partitions (paper, figure 6)."""
    generator = np.random.default_rng(1)
    data = generator.integers(0, 256, (4096, 32, 32), dtype=np.uint8), np.arange(4096) % 10
    points = []
    for million, width in _WIDTHS.items():
        network = dense_network(width)
        for parts in (1, 2, 4):
            given = {"model": network, "data": data, "batch_size": _BATCH, "augment": "none", "epochs": 1,
                     "validation": 0.0, "lr": 1e-4, "cores": min(parts, 2)}  # fmt: skip
            plan = make_plan({**given, **({"partitions": parts} if parts > 1 else {})}, notices_only)
            rate = measure_speed(plan, parts, _LONG if million >= _LARGE else _SECONDS, notices_only).images_per_second
            sent = 0.0
            if plan.partitions is not None:
                sent = max(cost.sent for cost in part_costs(plan.partitions, _BATCH))
            points.append({"million": million, "parts": parts, "rate": rate, "connections": rate * network.connections,
                           "sent": sent})  # fmt: skip
            print(f"{million:5d} M, {parts}: {rate * network.connections / 1e9:7.1f} G connections/s", flush=True)
    return {"points": points, "machine": page.machine_line()}


_GROUPS = "2 groups of 2, 2 servers"


def write(kept: dict[str, Any]) -> None:
    """Write the page from what was measured."""
    parts = ["# Partitions\n\n`python -m benchmarks.partitions` measures and writes this page."]
    if "speed" in kept:
        parts.append(_speed_part(kept["speed"]))
    if "accuracy" in kept or "cifar" in kept:
        parts.append(_accuracy_part(kept))
    if "machines" in kept:
        parts.append(_machines_part(kept["machines"]))
    if "limit" in kept:
        parts.append(_limit_part(kept["limit"]))
    if "drill" in kept:
        parts.append(_drill_part(kept["drill"]))
    if "size" in kept:
        parts.append(_size_part(kept["size"]))
    page.write_page("partitions.md", "\n\n".join(parts))


def _speed_part(measured: dict[str, Any]) -> str:
    rates = measured["rates"]
    rows = [
        (name, f"{statistics.median(each):.1f}", f"{min(each):.1f} to {max(each):.1f}") for name, each in rates.items()
    ]
    ratios = {
        name: [ours / one for ours, one in zip(rates[name], rates["one"], strict=True)]
        for name in ("two whole", "two partitions")
    }
    memory = [
        (
            f"memory of a partition of alexnet, {parts} partitions {where}",
            "one process",
            f"{share:.3f}x",
            f"{_MEMORY[parts]:.2f}x",
            _met(share <= _MEMORY[parts]),
        )
        for name, where in (("memory_here", "on one machine"), ("memory", "on a machine each"))
        for parts, share in measured[name].items()
    ]
    speed = statistics.median(ratios["two partitions"])
    rows_reach = [
        *memory,
        (
            "2 partitions on 2 cores, alexnet, images/s",
            "one process on one core",
            _times(ratios["two partitions"]),
            "1.8x",
            _met(speed >= 1.8),
        ),
    ]
    return (
        f"## Speed and memory\n\nalexnet on {_SIDE}x{_SIDE} pictures in batches of {_BATCH}, in turns, "
        f"{_ROUNDS} rounds of {_SECONDS:g} s. {measured['machine']}\n\n"
        + page.table(("what", "images/s, median", "spread"), rows)
        + "\n\n"
        + page.table(("what", "against", "found", "reach", ""), rows_reach)
        + f"\n\nTwo workers with whole models on the same cores make {_times(ratios['two whole'])} of one."
    )


def _accuracy_part(kept: dict[str, Any]) -> str:
    told = {
        "accuracy": f"MNIST, the default network, {_EPOCHS} epochs; all on 2 cores",
        "cifar": f"CIFAR-10, lenet with momentum, {_CIFAR_EPOCHS} epochs; a core for each worker",
    }
    parts = [f"## Accuracy\n\nMeans of {len(_SEEDS)} seeds, with their standard deviation."]
    for name, what in told.items():
        if name not in kept:
            continue
        measured = {cut: found for cut, found in kept[name].items() if cut != "machine"}
        rows = [
            (cut, f"{statistics.mean(found):.2%}", f"{statistics.stdev(found):.2%}",
             f"{min(found):.2%} to {max(found):.2%}")
            for cut, found in measured.items()
        ]  # fmt: skip
        header = ("partitions", "test accuracy, mean", "standard deviation", "spread")
        parts.append(f"{what}. {kept[name]['machine']}\n\n{page.table(header, rows)}")
    return "\n\n".join(parts)


def _machines_part(measured: dict[str, Any]) -> str:
    rows = []
    delays = measured["delays"]
    for delay, goal in ((1, 0.95), (5, 0.9)):
        ratios = [slow / quick for slow, quick in zip(delays[f"{delay} ms"], delays["0 ms"], strict=True)]
        found = statistics.median(ratios)
        rows.append((f"{delay} ms delay each way", "no delay", _times(ratios), f"{goal}x", _met(found >= goal)))
    limited, free = measured["bandwidth"]["1 Gbit/s"], measured["bandwidth"]["no limit"]
    ratios = [slow / quick for slow, quick in zip(limited, free, strict=True)]
    seconds = 1 / statistics.median(free)
    predicted = seconds / max(seconds, measured["link_seconds"])
    within = abs(statistics.median(ratios) / predicted - 1)
    rows.append(("1 Gbit/s", "no limit", _times(ratios), f"{predicted:.2f}x +- 15%", _met(within <= 0.15)))
    return (
        f"## Over machines\n\nalexnet over two machines (network namespaces), batches of {_BATCH}; an epoch of "
        f"{_IMAGES} images a turn, {_TURNS} turns. The delays are those of a switch in user space, which takes time of "
        f"the same cores; the limit is the kernel's. {measured['machine']}\n\n"
        + page.table(("what", "against", "found", "reach", ""), rows)
        + f"\n\nimages/s: {statistics.median(delays['0 ms']):.1f} by the switch without delay, "
        f"{statistics.median(free):.1f} without a limit. `inspect` says for 1 Gbit/s: "
        f"{1e3 * measured['link_seconds']:.1f} ms of an image on the way; what the link does while others are computed "
        "costs nothing, so the reach is the larger of both times."
    )


def _limit_part(measured: dict[str, Any]) -> str:
    limit, weights = measured["limit"] / 1e9, measured["weights"] / 1e9
    peaks = ", ".join(f"{peak / 1e9:.2f}" for peak in measured["peaks"])
    return (
        f"## A model larger than a machine\n\nThree dense layers with {weights:.2f} GB of weights; the processes of a "
        f"machine may have {limit:.2f} GB (a control group), {weights / limit:.1f} times less. "
        f"{measured['machine']}\n\n"
        f"- One machine: exit code {measured['alone'][0]}, `{measured['alone'][1]}`\n"
        f"- {measured['parts']} machines: {measured['images']} images trained, checkpoints and model written, in "
        f"{measured['seconds']:.0f} s; most memory of each, the file system's cache included: {peaks} GB"
    )


def _drill_part(measured: dict[str, Any]) -> str:
    return (
        f"## Deaths\n\nMNIST over {measured['parts']} machines with keys. All processes of each machine were killed "
        f"once, the leader's too, and started again. Test accuracy {measured['accuracy']:.2%} after "
        f"{len(measured['images'])} epochs, {measured['seconds']:.0f} s; images trained by epoch: "
        f"{', '.join(f'{images:,}' for images in measured['images'])}. {measured['machine']}"
    )


def _size_part(measured: dict[str, Any]) -> str:
    rows = [
        (f"{_million(point):,.0f} million", point["parts"], f"{point['rate']:,.1f}",
         f"{point['connections'] / 1e9:.2f}", f"{point['sent'] / 1e3:,.0f}")
        for point in measured["points"]
    ]  # fmt: skip
    _draw(measured["points"])
    return (
        f"## By size of the model\n\n{_LAYERS} dense layers of one width between {_FEATURES:,} features and 10 "
        f"classes, batches of {_BATCH}. More partitions than cores share them. {measured['machine']}\n\n"
        "![connections a second by size](partitions.png)\n\n"
        + page.table(("connections", "partitions", "images/s", "G connections/s", "kB sent an image"), rows)
        + f"\n\n{_WHY_IT_BENDS}"
    )


def _million(point: dict[str, Any]) -> float:
    """Return the million connections of a point's network."""
    return float(point["connections"] / point["rate"] / 1e6)


def _draw(points: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for parts in sorted({point["parts"] for point in points}):
        line = [point for point in points if point["parts"] == parts]
        label = f"{parts} partition{'s' * (parts > 1)}"
        axes.semilogx([_million(p) for p in line], [p["connections"] / 1e9 for p in line], "o-", label=label)
    axes.set(xlabel="million connections", ylabel="G connections/s", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(page.FOLDER / "partitions.png", dpi=90)


def _times(ratios: list[float]) -> str:
    low, middle, high = spread(ratios)
    return f"{middle:.2f}x ({low:.2f} to {high:.2f})"


def _met(met: bool) -> str:
    return "met" if met else "**missed**"


def main() -> None:
    """Measure what is asked for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", choices=PARTS, help="measure this part alone")
    parser.add_argument("--data", type=Path, help="the folder with CIFAR-10")
    only, data = (values := parser.parse_args()).only, values.data
    lacks = {} if data else {"cifar": "--data DIR"}
    if not Machines.can_be_made():
        lacks.update(dict.fromkeys(_OF_MACHINES, "root and network namespaces"))
    asked = [each for each in PARTS if each not in lacks] if only is None else [only]
    for part, lack in lacks.items():
        if only in (None, part):
            print(f"{part} is left out: it needs {lack}")
            asked = [each for each in asked if each != part]
    kept = dict(page.read_data(_DATA)) if (page.FOLDER / _DATA).exists() else {}
    if "speed" in asked:
        kept["speed"] = {
            **measure_partitions(),
            "memory": memory_shares(apart=True),
            "memory_here": memory_shares(apart=False),
        }
    if "accuracy" in asked:
        kept["accuracy"] = measure_accuracy()
    if "cifar" in asked:
        kept["cifar"] = measure_cifar(data)
    if "size" in asked:
        kept["size"] = measure_sizes()
    if "machines" in asked:
        kept["machines"] = measure_machines()
    if "limit" in asked:
        kept["limit"] = {**apart.measure_limit(_LIMIT, _LIMITED_WIDTH), "machine": page.machine_line()}
    if "drill" in asked:
        kept["drill"] = {**apart.drill_mnist(), "machine": page.machine_line()}
    page.write_data(_DATA, kept)
    write(kept)


if __name__ == "__main__":
    main()
