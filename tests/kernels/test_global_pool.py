from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import global_pool


@given(st.integers(1, 3), st.integers(1, 30), st.integers(1, 40), st.sampled_from([np.float32, np.float64]))
def test_means_of_whole_images_there_and_back(images, pixels, channels, real):
    x = np.random.default_rng(pixels).standard_normal((images, pixels, channels)).astype(real)
    out = np.full((images, channels), np.nan, real)
    global_pool.global_average_forward(x, out)
    np.testing.assert_allclose(out, x.mean(axis=1), rtol=1e-4, atol=1e-6)
    x_error = np.full_like(x, np.nan)
    global_pool.global_average_backward(out, x_error)
    np.testing.assert_allclose(x_error, np.repeat(out[:, None] / pixels, pixels, axis=1), rtol=1e-6)
