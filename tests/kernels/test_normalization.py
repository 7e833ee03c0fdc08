from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import normalization

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 9))


@given(SHAPES, st.integers(1, 6))
def test_local_response_there_and_back(shape, size):
    alpha, beta, offset = 0.3, 0.75, 1.5
    x = np.random.default_rng(sum(shape)).standard_normal(shape)

    def forward(values):
        scale = np.empty_like(values)
        for c in range(shape[1]):
            low = max(0, c - size // 2)
            around = values[:, low : c - size // 2 + size]
            scale[:, c] = offset + alpha / size * (around**2).sum(axis=1)
        return values * scale**-beta, scale

    out, scale = np.zeros_like(x), np.zeros_like(x)
    normalization.local_response_forward(x, out, scale, size, alpha, beta, offset)
    np.testing.assert_allclose(out, forward(x)[0])
    np.testing.assert_allclose(scale, forward(x)[1])
    error, direction = np.cos(x), np.sin(3 * x)
    x_error = np.full_like(x, np.nan)
    normalization.local_response_backward(error, x, out, scale, x_error, size, alpha, beta)
    step = 1e-6
    slope = (forward(x + step * direction)[0] - forward(x - step * direction)[0]) / (2 * step)
    assert np.sum(slope * error) == pytest.approx(np.sum(x_error * direction), abs=1e-7)
