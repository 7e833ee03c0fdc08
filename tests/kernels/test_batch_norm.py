from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import batch_norm

EPSILON = 1e-5


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 20), st.sampled_from([np.float32, np.float64])
)
def test_moments_of_blocks_are_those_of_all_rows(blocks, channels, real):
    x = np.random.default_rng(sum(blocks)).standard_normal((sum(blocks), channels)) * 3 + 1000  # a mean far from 0
    x = x.astype(real)
    totals, scratch = np.full((2, channels), np.nan), np.full((3, channels), np.nan, real)
    before = 0
    for count in blocks:
        batch_norm.moments(np.ascontiguousarray(x[before : before + count]), totals, scratch, before)
        before += count
    exact = x.astype(np.float64)
    np.testing.assert_allclose(totals[0], exact.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(totals[1], ((exact - exact.mean(axis=0)) ** 2).sum(axis=0), rtol=1e-3, atol=1e-3)
    mean, inverse, other = np.zeros((3, channels), real)
    batch_norm.settle(totals, before, EPSILON, mean, inverse)
    np.testing.assert_allclose(inverse, 1 / np.sqrt(totals[1] / before + EPSILON), rtol=1e-6)
    batch_norm.invert((totals[1] / before).astype(real), EPSILON, other)
    np.testing.assert_allclose(other, inverse, rtol=1e-5)


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("blocks", [1, 2])
def test_normalising_there_and_back(rectify, blocks):
    generator = np.random.default_rng(0)
    count, channels = 12, 7
    x, error = generator.standard_normal((2, count, channels))
    scale, shift = generator.standard_normal((2, channels))
    mean, variance = x.mean(axis=0), x.var(axis=0)
    inverse = 1 / np.sqrt(variance + EPSILON)
    normal = (x - mean) * inverse
    out, x_error = np.full((2, count, channels), np.nan)
    scale_gradient, shift_gradient = np.full((2, channels), np.nan)
    masked = error.copy()
    parts = [slice(part * count // blocks, (part + 1) * count // blocks) for part in range(blocks)]
    for part in parts:
        batch_norm.normalize(x[part], mean, inverse, scale, shift, out[part], rectify)
    expected = normal * scale + shift
    np.testing.assert_allclose(out, np.maximum(expected, 0) if rectify else expected)
    for part in parts:
        sums = (scale_gradient, shift_gradient, rectify, part.start > 0)
        batch_norm.error_sums(masked[part], x[part], out[part], mean, inverse, *sums)
    passed = np.where(expected > 0, error, 0) if rectify else error
    np.testing.assert_allclose(masked, passed)
    np.testing.assert_allclose(scale_gradient, (passed * normal).sum(axis=0))
    np.testing.assert_allclose(shift_gradient, passed.sum(axis=0))
    for part in parts:
        sums = (scale, scale_gradient, shift_gradient, count)
        batch_norm.input_error(masked[part], x[part], mean, inverse, *sums, x_error[part])
    even = (shift_gradient + normal * scale_gradient) / count
    np.testing.assert_allclose(x_error, scale * inverse * (passed - even))
