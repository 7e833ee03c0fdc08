"""What a data server does all day: warp and normalise a batch into a slot; one thread."""

from __future__ import annotations

import numpy as np
import pytest

from adam_mp.data.augmentation import parse_augmentation
from adam_mp.kernels.warp import warp_batch

BATCH = 64


@pytest.mark.parametrize("side", [28, 224])
@pytest.mark.parametrize("augmentation", ["none", "translate=2,rotate=10,scale=0.1", "mnist"])
def test_serve_batch(benchmark, side, augmentation):
    shape = (side, side, 1 if side == 28 else 3)
    images = np.random.default_rng(1).integers(256, size=(BATCH, *shape), dtype=np.uint8)
    slot = np.zeros((BATCH, *shape), np.float32)
    one, directions = np.ones(shape[2], np.float32), np.zeros((shape[2], shape[2]), np.float32)
    ranges = parse_augmentation(augmentation, shape).ranges
    samples = np.arange(BATCH)
    benchmark(lambda: warp_batch(images, samples, slot, ranges, np.uint64(1), one, one, directions, np.float32(0)))
    benchmark.extra_info["images/s"] = BATCH / benchmark.stats.stats.median
