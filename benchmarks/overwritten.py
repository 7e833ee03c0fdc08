"""Corrections that workers overwrite: how much of what others did is taken back by a replica of many workers.

A synchronizer corrects the weights while workers update them. A worker that has read a weight before the correction and
writes it after it undoes the correction there, and the next delta takes it back from the servers for everybody.

Here a run trains with a learning rate so small that no update changes a weight. A second replica, in this process, adds
a step to all weights in one round and takes it away in the next. All else that changes at the servers is a correction
that was overwritten, and so taken back.

python -m benchmarks.overwritten            LeNet and the network of AlexNet's shape, 2 and 8 workers: ten minutes
python -m benchmarks.overwritten --only lenet --seconds 60
"""

from __future__ import annotations

import os

from adam_mp.machine import ONE_THREAD

os.environ.update(ONE_THREAD)  # before numpy loads its libraries

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from adam_mp.memory.exchange import ExchangeMemory
from adam_mp.params.replica.exchange import Exchange
from adam_mp.params.run.membership import CoordinatorLink, new_identity
from adam_mp.params.run.statements import REPLICA
from adam_mp.training.plan.plan import make_plan
from adam_mp.training.replica.joining import run_facts
from adam_mp.training.replica.launched import find_launched
from adam_mp.transport.messages import Kind
from adam_mp.transport.places import parse_place
from adam_mp.transport.zeromq import SocketDialer

_STEP = np.float32(2**-12)  # small beside the weights, large beside their rounding
_EPOCHS = 1000  # more than there is time for
_DEADLINE = 120.0
_PHOTOGRAPHS = 256
_LAST_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, how it is run, and how often its replica exchanges."""

    model: str
    workers: int
    exchange_images: int
    protocol: str


CASES = tuple(
    Case(model, workers, images, protocol)
    for model, images in (("lenet", 512), ("alexnet", 64))
    for workers in (2, 8)
    for protocol in ("deltas", "auto")
)


class Stranger:
    """A replica that trains nothing: it adds a step to all weights in one round, and takes it away in the next."""

    def __init__(self, settings: dict[str, Any], folder: Path) -> None:
        address = find_launched(folder)
        plan = make_plan({**settings, "join": address}, lambda _: None)
        self.dialer = SocketDialer(None)
        self.link = CoordinatorLink(self.dialer, parse_place(address, "address"), new_identity())
        self.facts = {"role": REPLICA, "facts": run_facts(plan).as_dict()}
        self.news = self.link.join(self.facts, _DEADLINE)
        bucket_map = self.news.map
        self.peers = SocketDialer(None)  # of the exchange alone
        peers = [parse_place(server.address, "address") for server in bucket_map.servers]
        for peer in peers:
            self.peers.dial(peer)
        self.memory = ExchangeMemory.create(plan.held(1))
        self.weights: np.ndarray = np.zeros(plan.layout.size, np.float32)
        self.exchange = Exchange(
            self.peers, self.memory, self.weights, peers, bucket_map, self.link.run, self.link.identity
        )

    def round(self) -> None:
        """Exchange all shards once, and stay a member."""
        deadline = time.monotonic() + _DEADLINE
        self.exchange.begin()
        while not self.exchange.done:
            self.exchange.step(time.monotonic(), 0.01)
            self.report()
            if time.monotonic() > deadline:
                raise SystemExit(f"no exchange within {_DEADLINE:g} s: {self.exchange.unanswered()}")

    def report(self) -> None:
        """Tell the coordinator that this replica lives, and take its news."""
        news = self.link.report(
            lambda: {"epoch": self.news.epoch, "wanted": 0, "statistics": {}}, lambda: self.facts, 0.25
        )
        self.news = news or self.news

    def rounds_of_the_other(self) -> int:
        """Return how many rounds the replica that trains has made."""
        state = self.link.ask(Kind.STATUS, {}, _DEADLINE)
        return next((int(m["rounds"]) for m in state["members"] if m.get("rounds")), 0)

    def close(self) -> None:
        """Leave the run."""
        self.link.leave()
        self.dialer.close()
        self.peers.close()
        self.memory.close()


def measure(case: Case, seconds: float) -> str:
    """Run a case; return its line."""
    with tempfile.TemporaryDirectory() as name:
        settings = _settings(case, Path(name))
        with _run(settings, Path(name) / "run") as folder:
            stranger = Stranger(settings, folder)
            try:
                return _line(case, stranger, seconds)
            finally:
                stranger.close()


def _line(case: Case, stranger: Stranger, seconds: float) -> str:
    stranger.round()
    before, steps = stranger.memory.base.copy(), 0
    taken_back: np.ndarray = np.zeros(len(before), np.int64)
    end = time.monotonic() + seconds
    while time.monotonic() < end or steps % 2:
        taken_back += _others_steps(stranger, before, _STEP if steps % 2 == 0 else -_STEP)
        steps += 1
        _wait_for_a_round(stranger)  # so that each step is a correction of its own
    for _ in range(_LAST_ROUNDS):  # the last steps arrive, and are taken back where they were overwritten
        _wait_for_a_round(stranger)
        taken_back += _others_steps(stranger, before, np.float32(0))
    share, places = float(taken_back.mean()) / steps, np.count_nonzero(taken_back) / len(before)
    return (
        f"{case.model}, {case.workers} workers, {case.protocol}: {steps:,} corrections of {len(before):,} weights, "
        f"{share:.1e} of them taken back; in {100 * places:.2f}% of the weights, at most {taken_back.max()} times"
    )


def _others_steps(stranger: Stranger, before: np.ndarray, step: np.float32) -> np.ndarray:
    """Make a round that adds `step`; return how many steps' worth others changed each weight, and renew `before`."""
    stranger.weights += step
    stranger.round()
    others = np.rint((stranger.memory.base - before - step) / _STEP)
    before[...] = stranger.memory.base
    return np.abs(others).astype(np.int64)


def _wait_for_a_round(stranger: Stranger) -> None:
    first, deadline = stranger.rounds_of_the_other(), time.monotonic() + _DEADLINE
    while stranger.rounds_of_the_other() == first:
        stranger.report()
        if time.monotonic() > deadline:
            raise SystemExit(f"the replica makes no round within {_DEADLINE:g} s")
        time.sleep(0.01)


def _settings(case: Case, folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "model": case.model, "epochs": _EPOCHS, "lr": 1e-30, "weight_decay": 0.0, "validation": 0.0, "seed": 1,
        "exchange_images": case.exchange_images, "protocol": case.protocol, "augment": "none",
    }  # fmt: skip
    if case.model == "alexnet":
        images = np.random.default_rng(1).integers(0, 256, (_PHOTOGRAPHS, 224, 224, 3), np.uint8)
        labels = np.arange(_PHOTOGRAPHS) % 10
        np.savez(folder / "photographs.npz", images=images, labels=labels)
        settings.update(data=str(folder / "photographs.npz"), batch_size=8)
    cores = case.workers + 1
    return {**settings, "cores": cores, "data_servers": 1}


@contextmanager
def _run(settings: dict[str, Any], folder: Path) -> Iterator[Path]:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "adam_mp", "train", "--servers=1", f"--run-dir={folder}", "--quiet", *flags]
    )
    try:
        _wait_until_it_trains(process, folder)
        yield folder
    finally:
        process.terminate()
        process.wait(_DEADLINE)


def _wait_until_it_trains(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + _DEADLINE
    while time.monotonic() < deadline and process.poll() is None:
        asked = [sys.executable, "-m", "adam_mp", "status", str(folder), "--json", "--deadline", "10"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.returncode == 0 and any(m.get("images") for m in json.loads(done.stdout)["members"]):
            return
        time.sleep(0.5)
    raise SystemExit("the run does not train")


def main() -> None:
    """Measure the cases that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=sorted({case.model for case in CASES}), help="one network")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long steps are added, a case")
    values = parser.parse_args()
    for case in CASES:
        if values.only in (None, case.model):
            print(measure(case, values.seconds), flush=True)


if __name__ == "__main__":
    main()
