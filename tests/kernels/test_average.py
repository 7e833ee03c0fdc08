from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels.average import move_average


@given(st.integers(0, 10**6), st.integers(0, 70), st.floats(0, 1))
def test_the_average_moves_by_a_share_of_the_way(seed, count, share):
    average, w = np.random.default_rng(seed).standard_normal((2, count)).astype(np.float32)
    expected, weights = average + np.float32(share) * (w - average), w.copy()
    move_average(average, w, share)
    np.testing.assert_allclose(average, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(w, weights)


@pytest.mark.parametrize("share", [0.0, 1 / 3, 1.0])
def test_an_average_of_equal_weights_is_these_bits(share):
    w = np.random.default_rng(1).standard_normal(37).astype(np.float32)
    average = w.copy()
    move_average(average, w, share)
    np.testing.assert_array_equal(average, w)
