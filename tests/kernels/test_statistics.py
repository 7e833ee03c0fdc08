from __future__ import annotations

import numpy as np
import pytest

from adam_mp.kernels.statistics import channel_moments


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_moments_of_some_samples(dtype):
    images = np.random.default_rng(0).integers(0, 255, (6, 4, 5, 3)).astype(dtype)
    chosen, moments = np.array([0, 2, 5]), np.zeros((2, 3))
    channel_moments(images, chosen, moments)
    np.testing.assert_allclose(moments[0], images[chosen].astype(float).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(moments[1], images[chosen].astype(float).std(axis=(0, 1, 2)))
