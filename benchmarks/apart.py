"""Partitions on machines of their own, here network namespaces: what delay and bandwidth cost, and deaths.

One run measures all delays, or all bandwidths: the benchmark changes the network between epochs, in turns. So all have
the same processes, and a slow spell of the machine meets all of them. A switch in user space makes the delay, because
not every kernel has `netem`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.drilling.machines import Machines
from tools.drilling.partitions import PartitionGroup
from tools.packet_switch import PacketSwitch, PacketWeather

DELAYS = (0, 1, 5)  # milliseconds, each way
GBIT = 1
_PATIENCE = 1800.0
_MNIST = ("--epochs", "4", "--cores", "2")


def _in_turns(group: PartitionGroup, sides: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Change to each side in turn, at the end of an epoch; return images/s of the epochs after the first."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    group.wait(lambda: len(group.epochs()) > 0, "the first epoch", _PATIENCE)
    for _ in range(rounds):
        for name, change in sides.items():
            change()
            begun = len(group.epochs())
            group.wait(lambda begun=begun: len(group.epochs()) > begun + 1, "an epoch", _PATIENCE)  # type: ignore[misc]
            rates[name].append(group.epochs()[begun + 1]["images_per_second"])
            print(f"{name:>12} {rates[name][-1]:7.1f} images/s", flush=True)
    return rates


def _settings(pictures: Path, batch: int) -> list[str]:
    return [
        "--model", "alexnet", "--data", str(pictures), "--batch-size", str(batch), "--augment", "none",
        "--validation", "0", "--lr", "1e-4", "--epochs", "1000", "--cores", "2", "--checkpoint-seconds", "1e6",
    ]  # fmt: skip


def _save(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    path = folder / "pictures.npz"
    np.savez(path, x_train=images, y_train=labels)
    return path


def measure_delays(images: np.ndarray, labels: np.ndarray, batch: int, rounds: int) -> dict[str, list[float]]:
    """Images/s of two partitions, by the milliseconds that each packet takes more."""
    with tempfile.TemporaryDirectory() as name, PacketSwitch(2) as machines:
        folder = Path(name)
        with PartitionGroup(machines, 2, folder / "group", _settings(_save(folder, images, labels), batch)) as group:

            def weather(milliseconds: int) -> Callable[[], None]:
                seconds = milliseconds / 1000
                return lambda: machines.set_weather(1, PacketWeather(least=seconds, delay=seconds))

            return _in_turns(group, {f"{delay} ms": weather(delay) for delay in DELAYS}, rounds)


def measure_bandwidth(images: np.ndarray, labels: np.ndarray, batch: int, rounds: int) -> dict[str, list[float]]:
    """Images/s of two partitions, without a limit and with links of 1 Gbit/s."""
    with tempfile.TemporaryDirectory() as name, Machines(2) as machines:
        folder = Path(name)
        with PartitionGroup(machines, 2, folder / "group", _settings(_save(folder, images, labels), batch)) as group:

            def limit(on: bool) -> None:
                for number in (1, 2):
                    rate = ("add", "dev", "eth0", "root", "tbf", "rate", f"{GBIT}gbit", "burst", "256kb", "latency",
                            "100ms")  # fmt: skip
                    _tc(machines.space(number), rate if on else ("del", "dev", "eth0", "root"))

            return _in_turns(group, {"1 Gbit/s": lambda: limit(True), "no limit": lambda: limit(False)}, rounds)


def _tc(space: str, arguments: Sequence[str]) -> None:
    subprocess.run(["ip", "netns", "exec", space, "tc", "qdisc", *arguments], check=False, capture_output=True)


@contextlib.contextmanager
def memory_limits(count: int, size: int) -> Iterator[list[Path]]:
    """Make so many control groups, each with a limit of `size` bytes of memory; yield their folders."""
    root = Path("/sys/fs/cgroup/memory")  # of version 1
    limit = "memory.limit_in_bytes"
    if not root.exists():
        root, limit = Path("/sys/fs/cgroup"), "memory.max"
    folders = [root / f"adam-limit-{os.getpid()}-{number}" for number in range(count)]
    try:
        for folder in folders:
            folder.mkdir()
            (folder / limit).write_text(str(size))
        yield folders
    finally:
        for folder in folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


def measure_limit(size: int, width: int, parts: int = 4) -> dict[str, Any]:
    """Train a model whose weights are larger than `size`, the memory of each machine; and with one machine alone."""
    with tempfile.TemporaryDirectory() as name, Machines(parts) as machines, memory_limits(parts, size) as within:
        folder = Path(name)
        generator = np.random.default_rng(1)
        data = _save(folder, generator.integers(0, 256, (256, 32, 32), dtype=np.uint8), np.arange(256) % 10)
        model = folder / "model.toml"
        dense = f'[[layers]]\ntype = "dense"\nunits = {width}\n[[layers]]\ntype = "relu"\n'
        model.write_text(
            '[[layers]]\ntype = "flatten"\n' + 3 * dense + '[[layers]]\ntype = "dense"\n[[layers]]\ntype = "softmax"\n'
        )
        settings = [
            "--model", str(model), "--data", str(data), "--batch-size", "32", "--augment", "none", "--validation", "0",
            "--epochs", "1", "--lr", "1e-4", "--cores", "2", "--checkpoint-seconds", "1e6",
        ]  # fmt: skip
        alone = subprocess.run(
            ["sh", "-c", f'echo $$ > {within[0]}/cgroup.procs && exec "$@"', "sh", sys.executable, "-m", "adam_mp",
             "train", "--run-dir", str(folder / "alone"), *settings],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        began = time.monotonic()
        with PartitionGroup(machines, parts, folder / "group", settings, within) as group:
            summary = group.finish(_PATIENCE)
            used = [_peak(each) for each in within]
            weights = (group.run / "model.safetensors").stat().st_size
    return {
        "limit": size, "weights": weights, "alone": (alone.returncode, alone.stderr.strip().splitlines()[-1]),
        "images": summary["images_trained"], "peaks": used, "seconds": time.monotonic() - began, "parts": parts,
    }  # fmt: skip


def _peak(folder: Path) -> int:
    for name in ("memory.max_usage_in_bytes", "memory.peak"):
        if (folder / name).exists():
            return int((folder / name).read_text())
    return 0


def drill_mnist(parts: int = 4) -> dict[str, Any]:
    """Train MNIST over machines with keys; kill all of each machine once, and start it again."""
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as name,
        Machines(parts) as machines,
        PartitionGroup(machines, parts, Path(name) / "group", _MNIST) as group,
    ):
        for part in (*range(2, parts + 1), 1):
            before = len(group.epochs())
            group.wait(lambda before=before: len(group.epochs()) > before or before > 2, "an epoch", _PATIENCE)  # type: ignore[misc]
            time.sleep(3)
            group.kill(part)
            group.start(part)
            print(f"killed machine {part} after {time.monotonic() - began:.0f} s", flush=True)
        summary = group.finish(_PATIENCE)
        return {
            "parts": parts, "accuracy": summary["test_accuracy"], "seconds": time.monotonic() - began,
            "images": [epoch["images_trained"] for epoch in group.epochs()],
        }  # fmt: skip
