"""Dividing cores between workers and data servers, by measuring what an image costs each of them."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np

from adam_mp.compute.choice import KernelChoices
from adam_mp.compute.context import TrainingContext
from adam_mp.data.augmentation import Augmentation
from adam_mp.data.dataset import Normalization, Samples
from adam_mp.kernels.warp import warp_batch
from adam_mp.network.network import Network

_SERVER_MARGIN = (
    1.2  # data servers are given this much more than they need: a waiting worker costs more than an idle server
)


@dataclasses.dataclass(frozen=True)
class Costs:
    """Seconds one core takes to train one image, and to augment one; bytes of a worker's training context."""

    train_seconds: float
    augment_seconds: float
    context_bytes: int


@dataclasses.dataclass(frozen=True)
class Split:
    """How many processes of each kind."""

    workers: int
    data_servers: int


def measure_costs(
    network: Network, weights: dict[str, np.ndarray], samples: Samples, batch_size: int, augmentation: Augmentation,
    normalization: Normalization, choices: KernelChoices,
) -> Costs:  # fmt: skip
    """Train and augment one block of real images, without touching `weights`, and time it."""
    context = TrainingContext(network, weights, batch_size, choices=choices)
    count = min(batch_size, context.block, len(samples))
    images = np.zeros((count, *network.input_shape), np.float32)
    mean, deviation = np.array(normalization.mean, np.float32), np.array(normalization.deviation, np.float32)
    indices = np.arange(count)

    def augment() -> None:
        warp_batch(
            samples.images, indices, images, augmentation.ranges, np.uint64(0), mean, deviation, np.float32(0)
        )  # fmt: skip

    augment_seconds = _best_time(augment)
    program = context.program(images, np.ascontiguousarray(samples.labels[:count]))

    def train() -> None:
        program.run_forward()
        program.run_backward()

    return Costs(_best_time(train) / count, augment_seconds / count, context.nbytes)


def divide_cores(cores: int, costs: Costs, data_servers: int | None) -> Split:
    """Divide `cores`; `data_servers` is what the user asked for, or None.

    Serving takes `a / (a + t)` of all time. As many whole cores are set aside for data servers as that fills; what is
    left over runs beside the workers, of which there is one for each other core.
    """
    if cores == 1 and data_servers is None:
        return Split(1, 1)  # one of each keeps the order of batches, and so the run repeatable
    share = cores * costs.augment_seconds / (costs.augment_seconds + costs.train_seconds)
    needed = max(1, math.ceil(share * _SERVER_MARGIN)) if data_servers is None else data_servers
    aside = min(needed, math.floor(share))
    return Split(max(1, cores - aside), needed)


def _best_time(action: object) -> float:
    """Return the shortest of three timed runs after a first one, in seconds."""
    assert callable(action)
    action()
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - start)
    return best
