"""Measuring training speed: a run with workers, data servers and shared memory, for a few seconds, without files."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import psutil

from adam_mp.errors import DivergenceError, SettingsError, several
from adam_mp.machine import ONE_THREAD
from adam_mp.memory.board import TRAIN, Progress
from adam_mp.memory.ledger import TRAINED
from adam_mp.network.network import Network
from adam_mp.process.forking import fork_server
from adam_mp.process.interpreter import OWN_PATH, command
from adam_mp.process.interruption import Interruption
from adam_mp.training.crew.session import Session
from adam_mp.training.epoch.guard import DivergedError, DivergenceGuard
from adam_mp.training.plan.run_plan import RunPlan
from adam_mp.training.plan.split import Split
from adam_mp.training.preloading import OF_A_RUN
from adam_mp.training.settings.events import Listener, notices_to

PHASES = ("wait", "forward", "backward", "update", "other")
_TICK = 0.002
_WARM_BATCHES = 2  # not measured, of each worker: during the first ones it makes programs and loads kernels
_MOST_OF_AN_EPOCH = 0.9


@dataclasses.dataclass(frozen=True)
class Speed:
    """What so many workers did in `seconds`.

    `phases` are fractions of the workers' time: waiting for data, forward, backward, update, and the rest.
    `staleness` is the mean. `worker_bytes` is the memory that a worker shares with no other process, interpreter
    included.
    """

    workers: int
    data_servers: int
    images: int
    seconds: float
    images_per_second: float
    connections_per_second: float
    gigaflops: float
    phases: dict[str, float]
    staleness: float
    worker_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def measure_speed(plan: RunPlan, workers: int, seconds: float, listener: Listener) -> Speed:
    """Train with so many `workers` for `seconds`, or for most of an epoch if that is shorter, and count.

    They are whole groups if the model is cut. The clock starts when every worker has trained a few batches. Raises
    SettingsError if the data has too few batches, DivergenceError if the loss becomes NaN or too large.
    """
    if plan.batches < 8 * workers:
        raise SettingsError(
            f"an epoch has {several(plan.batches, 'batch', 'batches')}, too few to measure "
            f"{several(workers, 'worker')}; expected {8 * workers} or more: give more data or a smaller --batch-size"
        )
    plan = dataclasses.replace(plan, split=Split(workers, max(1, plan.split.data_servers)))
    guard = DivergenceGuard(plan.network.classes, plan.settings.batch_size, 0)
    with (
        fork_server(OF_A_RUN),
        Interruption() as interruption,
        Session(plan, interruption, notices_to(listener)) as session,
    ):
        session.open_epoch(0, np.zeros(plan.batches, np.uint8))
        session.start()
        session.crew.wait_ready(session.step_while_starting)
        session.order(TRAIN)

        def rows() -> list[Progress]:
            return session.crew.rows()[:workers]

        def look() -> None:
            session.step()  # ends the run, with an error, when nothing moves
            _check_loss(guard, rows(), session.totals())
            if interruption.requested:
                raise KeyboardInterrupt
            time.sleep(_TICK)

        while min(row.updates for row in rows()[:: plan.parts]) < _WARM_BATCHES:  # the first of a group counts them
            look()
        before, start = rows(), time.monotonic()
        while time.monotonic() - start < seconds and _done(session) < _MOST_OF_AN_EPOCH:
            look()
        after, end = rows(), time.monotonic()
        pids = list(session.crew.pids().values())[:workers]
        memory = max(psutil.Process(pid).memory_full_info().uss for pid in pids)
    speed = _speed(plan, before, after, end - start, memory)
    if not speed.images:
        raise SettingsError(
            f"the epoch of {several(plan.batches, 'batch', 'batches')} was over before anything was measured; give "
            "more data or a smaller --batch-size"
        )
    return speed


def _check_loss(guard: DivergenceGuard, workers: list[Progress], totals: Mapping[str, float]) -> None:
    try:
        guard.check(workers, totals["images"], totals["loss"])
    except DivergedError as diverged:
        raise DivergenceError(f"{diverged}; use a lower --lr") from None


def _done(session: Session) -> float:
    return float(np.mean(session.memory.ledger.states() == TRAINED))


def _speed(plan: RunPlan, before: list[Progress], after: list[Progress], seconds: float, memory: int) -> Speed:
    def gained(name: str) -> float:
        return float(sum(getattr(b, name) - getattr(a, name) for a, b in zip(before, after, strict=True)))

    images, updates = int(gained("images")), gained("updates")
    spent = gained("waited_ns") + gained("busy_ns")
    parts = {name: gained(f"{name}_ns") for name in ("forward", "backward", "update")}
    parts = {"wait": gained("waited_ns"), **parts, "other": gained("busy_ns") - sum(parts.values())}
    rate = images / seconds
    return Speed(
        workers=len(before),
        data_servers=plan.split.data_servers,
        images=images,
        seconds=seconds,
        images_per_second=rate,
        connections_per_second=rate * plan.network.connections,
        gigaflops=rate * training_flops(plan.network) / 1e9,
        phases={name: max(0.0, value) / spent if spent else 0.0 for name, value in parts.items()},
        staleness=gained("staleness") / updates if updates else 0.0,
        worker_bytes=memory,
    )


def training_flops(network: Network) -> int:
    """Return how many floating-point operations the products of a training step take for one image.

    A connection takes two in the forward pass, two for its weight's gradient, and two for the error of its input. The
    first layers do not compute the error of their input: nothing before them is trained.
    """
    flops = 0
    for node, connections in zip(network.nodes, network.connection_counts, strict=True):
        flops += (6 if network.trained_values.intersection(node.inputs) else 4) * connections
    return flops


_SGEMM = f"""
{OWN_PATH}
import time
import numpy as np
a = np.random.default_rng(0).random((1024, 1024), dtype=np.float32)
out = np.empty_like(a)
np.dot(a, a, out=out)
times = []
for _ in range(15):
    start = time.perf_counter()
    np.dot(a, a, out=out)
    times.append(time.perf_counter() - start)
print(2 * 1024**3 / sorted(times)[len(times) // 2] / 1e9)
"""


def sgemm_gigaflops() -> float:
    """Return the speed of numpy's product of two 1024 x 1024 float32 matrices on one core, in GFLOP/s."""
    environment = {**os.environ, **ONE_THREAD}
    done = subprocess.run(command(_SGEMM), env=environment, capture_output=True, text=True, timeout=120, check=True)
    return float(done.stdout)
