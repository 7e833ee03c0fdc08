"""Data servers beside PyTorch's DataLoader, and what workers wait for data in whole runs.

    python -m benchmarks.serving            all rows, about ten minutes
    python -m benchmarks.serving --only digits

Both sides have two processes on two cores and a consumer that looks at nothing. Photographs need scikit-image and
scikit-learn, the other side PyTorch: `make peers`.
"""

from __future__ import annotations

import os

from adam_mp.machine import ONE_THREAD

os.environ.update(ONE_THREAD)  # before numpy and torch load their libraries

import contextlib
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from adam_mp.data.reading.dataset import epoch_order
from adam_mp.data.serving.server import DataServerSpec, serve
from adam_mp.memory.board import STOP
from adam_mp.memory.cache import ImageCache
from adam_mp.memory.ring import RingShape
from adam_mp.memory.run_memory import RunMemory, RunShape
from adam_mp.memory.waiting import Backoff
from adam_mp.process.child import start_child
from adam_mp.report.progress import notices_only
from adam_mp.training.data.data_plan import load_dataset, plan_data
from adam_mp.training.settings.settings import make_settings
from benchmarks.goals import Row, ratio_row, run_groups
from benchmarks.timing import spread

HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_PHOTOGRAPHS = all(importlib.util.find_spec(name) for name in ("skimage", "sklearn"))
_SERVERS, _ROUNDS, _DEADLINE = 2, 7, 300.0
_PEER = "PyTorch DataLoader, 2 workers"


class Serving:
    """Data servers of a data set, with this process as the only worker, which takes batches and looks at nothing."""

    def __init__(self, batch: int, **settings: Any) -> None:
        chosen = make_settings({"validation": 0.0, "batch_size": batch, **settings})
        dataset = load_dataset(chosen)
        self.data = data = plan_data(dataset, chosen, None, _SERVERS, notices_only)
        self.batches = -(-len(data.training) // batch)
        slots = max(2, min(16, (64 << 20) // RingShape(1, batch, dataset.image_shape).slot_bytes))
        ring = RingShape(slots, batch, dataset.image_shape)
        shape = RunShape(1, _SERVERS, self.batches, 0, len(data.training), ring, data.fields)
        self.memory = memory = RunMemory.create(shape)
        data.fill(memory.arrays)
        self.cache = None
        if data.source is not None:
            self.cache = ImageCache.create(
                data.cache_bytes, data.survey.stored_pixels * 3, memory.arrays["cache_places"]
            )  # fmt: skip
        pictures = data.pictures(None if self.cache is None else self.cache.handle)
        descriptors = [memory.segment.handle.descriptor]
        if self.cache is not None:
            descriptors.append(self.cache.handle.segment.descriptor)
        self.children = [
            start_child(
                f"data server {number}", serve, DataServerSpec(1 + number, memory.handle, batch, 1, pictures),
                descriptors, None,
            )
            for number in range(_SERVERS)
        ]  # fmt: skip
        self.epoch = -1
        self.serve_epoch()  # in which they start

    def serve_epoch(self) -> float:
        """Have an epoch served; return images per second."""
        self.epoch += 1
        memory, waiting = self.memory, Backoff()
        memory.sample_order[...] = epoch_order(self.data.training, 1, self.epoch)
        began = time.perf_counter()
        memory.ledger.open(self.epoch, np.zeros(self.batches, np.uint8))
        images = done = 0
        while done < self.batches:
            for ring in memory.rings_of(0):
                if (index := ring.peek()) is not None:
                    images += ring.slots[index].read_tag().images
                    done += 1
                    ring.consume()
                    break
            else:
                if time.perf_counter() - began > _DEADLINE:
                    raise SystemExit(f"an epoch was not served in {_DEADLINE:g} s")
                waiting.pause()
                continue
            waiting.reset()
        return images / (time.perf_counter() - began)

    def close(self) -> None:
        """End the data servers and free all memory."""
        self.memory.board.give_order(STOP)
        for child in self.children:
            if not child.wait(time.monotonic() + 10):
                child.kill()
            child.close()
        if self.cache is not None:
            self.cache.close()
        self.memory.close()


@contextlib.contextmanager
def photographs(count: int, side: int) -> Iterator[Path]:
    """A folder of photographs in train/ and val/, for as long as it is needed."""
    from tools.make_photographs import write_folder

    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), count, side, 1)
        yield Path(folder)


def digit_rows() -> Iterator[Row]:
    """Warped digits."""
    what = "28x28: translate, rotate, scale, normalise, batch 64; images/s of two cores"
    if not HAS_TORCH:
        yield Row(what, _PEER, "20x", None, figures="PyTorch is not installed")
        return
    ours: list[float] = []
    theirs: dict[str, list[float]] = {}
    with contextlib.closing(Serving(64, augment="translate=2,rotate=10,scale=0.1")) as serving:
        for _ in range(3):
            serving.serve_epoch()
            ours += [serving.serve_epoch() for _ in range(3)]
            for line in _peer("digits", "--epochs", "1"):
                theirs.setdefault(line["way"], []).extend(line["images_per_second"])
    faster = max(theirs, key=lambda way: statistics.median(theirs[way]))
    figures = ", ".join(f"theirs {way} {statistics.median(rates):,.0f}" for way, rates in theirs.items())
    ratios = sorted(mine / statistics.median(theirs[faster]) for mine in ours)
    yield ratio_row(what, _PEER, 20, ratios, f"images/s: {statistics.median(ours):,.0f}, {figures}")


def photograph_rows() -> Iterator[Row]:
    """Photographs from files, and from the cache."""
    what = "256-pixel JPEG: {}random-resized crop to 224, reflect, normalise, batch 32; images/s of two cores"
    cold, warm = what.format("decode, "), what.format("from the cache, ")
    if not (HAS_TORCH and HAS_PHOTOGRAPHS):
        for name, goal in ((cold, "2x"), (warm, "10x")):
            yield Row(name, _PEER, goal, None, figures="PyTorch, scikit-image or scikit-learn is not installed")
        return
    rates: dict[str, list[float]] = {"cold": [], "warm": [], "theirs": []}
    with photographs(2000, 256) as folder:
        given = {"data": str(folder / "train"), "image_size": 224, "augment": "crop=0.08,reflect=0.5"}
        for _ in range(3):
            for name, cache in (("cold", "0"), ("warm", "60%")):
                with contextlib.closing(Serving(32, cache=cache, **given)) as serving:
                    rates[name] += [serving.serve_epoch() for _ in range(3)]
            (line,) = _peer("photographs", str(folder / "train"), "--batch", "32", "--epochs", "2")
            rates["theirs"] += line["images_per_second"]
    theirs = statistics.median(rates["theirs"])
    for name, side, goal in ((cold, "cold", 2), (warm, "warm", 10)):
        ratios = sorted(mine / theirs for mine in rates[side])
        figures = f"images/s: {statistics.median(rates[side]):,.0f}, theirs {theirs:,.0f}"
        yield ratio_row(name, _PEER + ", Pillow and numpy", goal, ratios, figures)


def _peer(*arguments: str) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers.loader", *arguments],
        capture_output=True, text=True, timeout=900, check=True, env={**os.environ, **ONE_THREAD},
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def wait_rows() -> Iterator[Row]:
    """The workers' time that goes into waiting for data, in whole runs."""
    rounds = [_run("--epochs", "3") for _ in range(3)]
    figures = f"{statistics.median(each['images_per_second'] for each in rounds):,.0f} images/s"
    yield _share_row("time workers wait for data, MNIST with the defaults, 2 cores", 3, rounds, figures)
    what = "time workers wait for data, 5 conv, 3 dense on 2,000 JPEG files, 224x224, 2 cores, two epochs"
    if not HAS_PHOTOGRAPHS:
        yield Row(what, "", "<2%", None, figures="scikit-image or scikit-learn is not installed")
        return
    with photographs(2000, 256) as folder:
        rounds = [_run("--model", "alexnet", "--data", str(folder), "--epochs", "2") for _ in range(2)]
    figures = f"{statistics.median(each['images_per_second'] for each in rounds):,.0f} images/s"
    yield _share_row(what, 2, rounds, figures)


def _share_row(what: str, goal: float, rounds: list[Any], figures: str) -> Row:
    low, middle, high = spread(sorted(100 * each["data_wait_fraction"] for each in rounds))
    return Row(what, "", f"<{goal:g}%", middle, low, high, middle < goal, figures)


def _run(*arguments: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "adam_mp", "train", *arguments, "--cores", "2", "--json", "--run-dir", folder],
            capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"a run failed: {done.stderr.splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def memory_rows() -> Iterator[Row]:
    """50,000 images through a cache of 200 MB."""
    what = "memory of a run beyond its first epoch's, 50,000 JPEG files (930 MB decoded) through a 200 MB cache"
    if not HAS_PHOTOGRAPHS:
        yield Row(what, "the cache", "<1.2x", None, figures="scikit-image or scikit-learn is not installed")
        return
    epochs: list[list[tuple[float, float]]] = []
    with photographs(50_000, 84) as folder, tempfile.TemporaryDirectory() as run_dir:
        command = ["train", "--data", str(folder), "--image-size", "64", "--augment", "crop=0.3,reflect=0.5",
                   "--lr", "0.01", "--cache", "200MB", "--epochs", "4", "--cores", "2", "--quiet",
                   "--run-dir", run_dir]  # fmt: skip
        with subprocess.Popen([sys.executable, "-m", "adam_mp", *command]) as process:
            while process.poll() is None:
                time.sleep(0.5)
                done = _lines(Path(run_dir) / "metrics.jsonl")
                while len(epochs) <= done:
                    epochs.append([])
                with contextlib.suppress(psutil.Error):
                    epochs[done].append(_memory(process.pid))
            if process.returncode:
                raise SystemExit(f"the run ended with exit code {process.returncode}")
    cached = [max(cache for cache, _ in epoch) for epoch in epochs[1:4]]
    whole = [statistics.median(total for _, total in epoch) for epoch in epochs[:4]]
    figures = (
        f"cache {', '.join(f'{size / 1e6:.0f}' for size in cached)} MB in epochs 2 to 4; all processes "
        f"{', '.join(f'{size / 1e6:.0f}' for size in whole)} MB in epochs 1 to 4, medians"
    )
    value = max(cached) / 200e6
    flat = max(whole[2:]) < 1.02 * whole[1]
    yield Row(what, "the cache", "<1.2x", value, met=value <= 1.2 and flat, figures=figures)


def _lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def _memory(pid: int) -> tuple[float, float]:
    """Return (bytes that the cache's segment takes, bytes of all processes of the run, shared ones counted once)."""
    run = psutil.Process(pid)
    cache = 0.0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if ":cache" in os.readlink(link):
            cache = link.stat().st_blocks * 512
    return cache, sum(each.memory_full_info().pss for each in (run, *run.children()))


GROUPS = {"digits": digit_rows, "photographs": photograph_rows, "wait": wait_rows, "memory": memory_rows}

if __name__ == "__main__":
    run_groups(__doc__, GROUPS, "serving", "Serving data")
