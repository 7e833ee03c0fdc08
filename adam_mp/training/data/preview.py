"""A preview of a data set: some samples as they are stored, and as the workers will see them."""

from __future__ import annotations

import dataclasses

import numpy as np

from adam_mp.data.augmentation import picture_key
from adam_mp.data.pictures import PictureWarp
from adam_mp.data.reading.faults import SampleError
from adam_mp.data.reading.read_only import for_kernels
from adam_mp.data.reading.records import Records, RecordTable
from adam_mp.data.reading.samples import Samples
from adam_mp.data.reading.sources import open_source
from adam_mp.kernels.warp import warp_batch
from adam_mp.training.data.data_plan import DataPlan


@dataclasses.dataclass(frozen=True)
class Preview:
    """One sample: `original` as stored, and `picture`, float32, as a worker sees it but not normalised.

    If the sample cannot be read, both are None and `fault` says why.
    """

    place: str
    label: int
    original: np.ndarray | None
    picture: np.ndarray | None
    fault: str = ""


def preview(data: DataPlan, count: int, seed: int, epoch: int) -> list[Preview]:
    """Return `count` training samples, chosen by the seed, as they are stored and as `epoch` (from 0) augments them."""
    generator = np.random.Generator(np.random.PCG64([seed, 0x5EE]))
    samples = generator.permutation(data.training)[:count]
    return [_preview(data, int(sample), picture_key(seed, epoch)) for sample in samples]


def _preview(data: DataPlan, sample: int, key: int) -> Preview:
    dataset, label = data.dataset, int(data.dataset.train.labels[sample])
    mean, deviation, directions = data.normalization.arrays()
    fill, ranges = np.float32(data.normalization.fill), data.augmentation.ranges
    picture = np.zeros((1, *dataset.image_shape), np.float32)
    if isinstance(dataset.train, Samples):
        original = dataset.train.images[sample]
        warp_batch(
            for_kernels(dataset.train.images), np.array([sample]), picture, ranges, np.uint64(key), mean, deviation,
            directions, fill,
        )  # fmt: skip
    else:
        assert data.source is not None
        table: RecordTable | None = dataset.train.table if isinstance(dataset.train, Records) else None
        try:
            original = open_source(data.source, table).pixels(sample)
        except SampleError as error:
            return Preview(dataset.place(sample), label, None, None, str(error))
        height, width, channels = original.shape
        PictureWarp(channels)(
            original.reshape(-1), height, width, picture[0], ranges, data.keep, key, sample,
            (mean, deviation, directions), fill,
        )  # fmt: skip
    return Preview(dataset.place(sample), label, original, picture[0] * deviation + mean)
