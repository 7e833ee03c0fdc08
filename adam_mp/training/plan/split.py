"""The split of the cores between workers and data servers, by the measured time that each takes for an image."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping

import numpy as np

from adam_mp.compute.choice import KernelChoices
from adam_mp.compute.context import TrainingContext
from adam_mp.compute.part_measurement import context_bytes_of, part_seconds
from adam_mp.data.mixing import Mixing
from adam_mp.data.pictures import PictureWarp
from adam_mp.data.reading.read_only import for_kernels
from adam_mp.data.reading.samples import Samples
from adam_mp.kernels.warp import warp_batch
from adam_mp.memory.segment import free_space
from adam_mp.network.network import Network
from adam_mp.network.partition import PartitionPlan
from adam_mp.network.traffic import work_seconds
from adam_mp.training.data.data_plan import DataPlan

# There are data servers for this many times the need: a worker that waits costs more than an idle data server.
_SERVER_MARGIN = 1.2
_FEW_PICTURES = 4


@dataclasses.dataclass(frozen=True)
class Costs:
    """Seconds that one core takes to train, augment and decode an image, and the bytes of a worker's training context.

    Augmenting includes mixing. `cached` is the share of the images that the cache can hold, `ready` the share that the
    survey has put into it.
    """

    train_seconds: float
    augment_seconds: float
    context_bytes: int
    decode_seconds: float = 0.0
    cached: float = 0.0
    ready: float = 0.0

    def serve_seconds(self, epochs: int) -> float:
        """Return the seconds that a data server takes for an image, as a mean over the first `epochs` epochs."""
        decoded = (1 - self.ready + (epochs - 1) * (1 - self.cached)) / epochs
        return self.augment_seconds + decoded * self.decode_seconds


@dataclasses.dataclass(frozen=True)
class Split:
    """How many processes of each kind."""

    workers: int
    data_servers: int


def measure_costs(
    network: Network, weights: Mapping[str, np.ndarray], data: DataPlan, batch_size: int, choices: KernelChoices,
    mixing: Mixing,
) -> Costs:  # fmt: skip
    """Train, augment and mix a few of the survey's images, without changing `weights`, and time it."""
    context = TrainingContext(network, weights, batch_size, choices=choices)
    survey = data.survey
    count = min(batch_size, context.block, len(survey.examples))
    images = data.examples[:count]
    program = context.program(images, np.ascontiguousarray(survey.labels[:count]))

    def train() -> None:
        program.run_forward()
        program.run_backward()

    train_seconds = _best_time(train) / count
    mix_seconds = _best_time(lambda: mixing.mix(images, 0, 0, 0)) / count if mixing else 0.0
    return _with_serving(train_seconds, mix_seconds, context.nbytes, data, count)


def measure_part_costs(
    plan: PartitionPlan, data: DataPlan, batch_size: int, choices: KernelChoices, mixing: Mixing, apart: bool = False
) -> Costs:  # fmt: skip
    """Time the work of the slowest partition, of which all others' is about as much, and augmentation and mixing.

    With `apart` this machine has room for one partition. If that is most of its memory, its time is only estimated:
    weights to measure with would not fit beside it.
    """
    slowest = max(range(plan.parts), key=lambda part: plan.graphs[part].connections)
    if apart and 16 * plan.graphs[slowest].parameter_count > free_space(None):
        train_seconds = work_seconds(plan)
    else:
        train_seconds = plan.parts * part_seconds(plan, slowest, batch_size, choices)
    images = data.examples[: min(batch_size, len(data.survey.examples))]
    mix_seconds = _best_time(lambda: mixing.mix(images, 0, 0, 0)) / len(images) if mixing else 0.0
    context_bytes = max(context_bytes_of(plan, part, batch_size, choices) for part in range(plan.parts))
    return _with_serving(train_seconds, mix_seconds, context_bytes, data, len(images))


def _with_serving(train_seconds: float, mix_seconds: float, context_bytes: int, data: DataPlan, count: int) -> Costs:
    """Return costs with those of making pictures, timed on `count` of the survey's."""
    if data.source is None:
        return Costs(train_seconds, _warp_seconds(data, count) + mix_seconds, context_bytes)
    survey = data.survey
    cached = data.cache_bytes / max(1.0, data.dataset.count * survey.stored_pixels * data.source.channels)
    return Costs(
        train_seconds, _picture_seconds(data) + mix_seconds, context_bytes, survey.decode_seconds, min(1.0, cached),
        len(survey.kept) / len(data.training),
    )  # fmt: skip


def _warp_seconds(data: DataPlan, count: int) -> float:
    """Return the seconds that augmenting an image takes, where the data set's images are in memory."""
    samples = data.dataset.train
    assert isinstance(samples, Samples)
    out = np.zeros((count, *data.dataset.image_shape), np.float32)
    images, indices = for_kernels(samples.images), np.ascontiguousarray(data.training[:count])
    colours = data.normalization.arrays()
    count = len(indices)

    def augment() -> None:
        warp_batch(
            images, indices, out[:count], data.augmentation.ranges, np.uint64(0), *colours, np.float32(0)
        )  # fmt: skip

    return _best_time(augment) / count


def _picture_seconds(data: DataPlan) -> float:
    """Return the seconds that augmenting a decoded image takes, where images are decoded from files."""
    assert data.source is not None
    assert data.source.least is not None
    (height, width), channels = data.source.least, data.source.channels
    pixels: np.ndarray = np.random.default_rng(0).integers(0, 256, height * width * channels, np.uint8)
    out = np.zeros(data.dataset.image_shape, np.float32)
    warp, colours = PictureWarp(channels), data.normalization.arrays()

    def augment() -> None:
        for sample in range(_FEW_PICTURES):
            warp(pixels, height, width, out, data.augmentation.ranges, data.keep, 0, sample, colours, np.float32(0))

    return _best_time(augment) / _FEW_PICTURES


def divide_cores(cores: int, costs: Costs, epochs: int, data_servers: int | None) -> Split:
    """Divide `cores`; `data_servers` is how many the user asked for, or None.

    If serving an image takes `s` seconds and training it `t`, serving fills the share `s / (s + t)` of the cores. As
    many whole cores as it fills are set aside for data servers; each of the others has a worker, beside which the rest
    of the serving runs. A cache makes serving cheaper after the first epoch: there are data servers enough for the
    first epoch, but only so many cores are set aside as serving fills in the mean of all epochs.
    """
    if cores == 1 and data_servers is None:
        return Split(1, 1)  # one of each keeps the order of the batches, so that the run can be repeated
    first = _share(cores, costs.serve_seconds(1), costs.train_seconds)
    needed = max(1, math.ceil(first * _SERVER_MARGIN)) if data_servers is None else data_servers
    aside = min(needed, math.floor(_share(cores, costs.serve_seconds(epochs), costs.train_seconds)))
    return Split(max(1, cores - aside), min(needed, cores) if data_servers is None else needed)


def _share(cores: int, serve_seconds: float, train_seconds: float) -> float:
    """Return how many of the cores serving fills, as a fraction."""
    return cores * serve_seconds / (serve_seconds + train_seconds)


def _best_time(action: Callable[[], object]) -> float:
    """Return the shortest of three timed runs, after one that warms up, in seconds."""
    action()
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - start)
    return best
