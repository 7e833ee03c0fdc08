from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import conv, crop


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(0, 3))
def test_cropping_undoes_padding(count, height, width, channels, padding):
    images = np.random.default_rng(height).standard_normal((count, height, width, channels)).astype(np.float32)
    padded = np.full((count, height + 2 * padding, width + 2 * padding, channels), np.nan, np.float32)
    conv.pad_images(images, padded, padding)
    out = np.full_like(images, np.nan)
    crop.crop_images(padded, out, padding)
    np.testing.assert_array_equal(out, images)
