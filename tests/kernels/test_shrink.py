from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels.shrink import shrink


@given(st.integers(2, 60), st.integers(2, 60), st.integers(0, 99))
def test_shrinking_takes_the_mean_of_areas(height, width, seed):
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows, columns = int(generator.integers(1, height + 1)), int(generator.integers(1, width + 1))
    out = np.zeros((rows, columns, 3), np.uint8)
    shrink(image, out, np.zeros(width * 3, np.float32))

    def weights(size, parts):
        edges = np.arange(parts + 1) * size / parts
        low, high = np.maximum(edges[:-1, None], np.arange(size)), np.minimum(edges[1:, None], np.arange(size) + 1)
        return np.maximum(high - low, 0) * parts / size

    expected = np.einsum("yi,ijc,xj->yxc", weights(height, rows), image.astype(float), weights(width, columns))
    assert np.abs(out - expected).max() <= 0.51
