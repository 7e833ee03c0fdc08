from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import depthwise


@st.composite
def problems(draw):
    """(x, weight, stride, dilation): channels from less than a vector to more than two, windows of any size."""
    size, dilation = draw(st.sampled_from([1, 2, 3, 3, 4, 5, 5, 7])), draw(st.integers(1, 2))
    extent = dilation * (size - 1) + 1
    height, width = (extent + draw(st.integers(0, 4)) for _ in range(2))
    channels = draw(st.sampled_from([1, 3, 7, 8, 16, 17, 31, 32, 40]))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    real = draw(st.sampled_from([np.float32, np.float64]))
    x = generator.standard_normal((draw(st.integers(1, 3)), height, width, channels)).astype(real)
    weight = generator.standard_normal((size * size, channels)).astype(real)
    return x, weight, draw(st.integers(1, 3)), dilation


def windows(x, size, stride, dilation):
    """[n, out_h, out_w, size * size, c], one tap at a time."""
    extent = dilation * (size - 1) + 1
    height, width = ((side - extent) // stride + 1 for side in x.shape[1:3])
    taps = [
        x[:, i * dilation :, j * dilation :][:, ::stride, ::stride][:, :height, :width]
        for i in range(size)
        for j in range(size)
    ]
    return np.stack(taps, axis=3)


def size_of(weight):
    return round(len(weight) ** 0.5)


def tolerance(array):
    return 2e-4 if array.dtype == np.float32 else 1e-10


@given(problems())
def test_a_sum_is_that_of_the_taps_times_the_weight(problem):
    x, weight, stride, dilation = problem
    size = size_of(weight)
    expected = (windows(x, size, stride, dilation) * weight).sum(axis=3)
    out = np.full_like(expected, np.nan)
    depthwise.window_sums(x, weight, out, size, stride, dilation)
    np.testing.assert_allclose(out, expected, atol=tolerance(x))


@given(problems(), st.booleans())
def test_products_are_those_of_the_taps_and_the_error(problem, accumulate):
    x, weight, stride, dilation = problem
    seen = windows(x, size_of(weight), stride, dilation)
    error = np.random.default_rng(1).standard_normal(seen[:, :, :, 0].shape).astype(x.dtype)
    expected = (seen * error[:, :, :, None]).sum(axis=(0, 1, 2)) + (weight if accumulate else 0)
    gradient = weight.copy()
    depthwise.window_products(x, error, gradient, size_of(weight), stride, dilation, accumulate)
    np.testing.assert_allclose(gradient, expected, atol=10 * tolerance(x))


@given(problems())
def test_spreading_is_the_transpose_of_summing(problem):
    x, weight, stride, dilation = problem
    size = size_of(weight)
    seen = windows(x, size, stride, dilation)
    error = np.random.default_rng(1).standard_normal(seen[:, :, :, 0].shape).astype(x.dtype)
    back = np.full_like(x, np.nan)
    depthwise.window_spread(back, weight, error, size, stride, dilation)
    expected = np.zeros_like(x)
    extent = dilation * (size - 1) + 1
    for y in range(error.shape[1]):
        for z in range(error.shape[2]):
            down, along = y * stride, z * stride
            part = expected[:, down : down + extent : dilation, along : along + extent : dilation]
            part += error[:, y, z, None, None] * weight.reshape(size, size, -1)
    np.testing.assert_allclose(back, expected, atol=10 * tolerance(x))


@pytest.mark.parametrize("size", [3, 5, 6])
def test_one_value_that_is_not_a_number_stays_in_its_windows_and_its_channel(size):
    x = np.ones((1, 9, 9, 20), np.float32)
    x[0, 4, 4, 17] = np.nan
    out = np.empty((1, 10 - size, 10 - size, 20), np.float32)
    depthwise.window_sums(x, np.ones((size * size, 20), np.float32), out, size, 1, 1)
    wrong = np.argwhere(np.isnan(out))
    assert set(wrong[:, 3]) == {17}
    assert all(max(0, 5 - size) <= place <= 4 for place in wrong[:, 1:3].ravel())
