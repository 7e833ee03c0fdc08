from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import pool


@st.composite
def problems(draw):
    size = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(low, high)) for low, high in ((1, 3), (size, 8), (size, 8), (1, 20)))
    x = np.random.default_rng(draw(st.integers(0, 99))).standard_normal(shape)
    return np.round(x, 1), size, draw(st.integers(1, 3))  # rounded, so that ties occur


def windows(x, size, stride):
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    return view.reshape(*view.shape[:4], size * size)


@given(problems(), st.booleans())
def test_max_pooling_there_and_back(problem, rectify):
    x, size, stride = problem
    generator = np.random.default_rng(1)
    bias = generator.standard_normal(x.shape[3])
    seen = windows(x, size, stride)
    expected = seen.max(axis=-1) + bias
    out, choice = np.zeros(expected.shape), np.zeros(expected.shape, np.uint8)
    pool.max_pool_forward(x, bias, out, choice, size, stride, rectify)
    np.testing.assert_allclose(out, np.maximum(expected, 0) if rectify else expected)
    np.testing.assert_array_equal(choice, seen.argmax(axis=-1))

    error = generator.standard_normal(out.shape)
    passed = error * (out > 0) if rectify else error
    x_error, bias_gradient = np.full_like(x, np.nan), np.full_like(bias, 7.0)
    pool.max_pool_backward(error, out, choice, x_error, bias_gradient, size, stride, rectify, True)
    expected_error = np.zeros_like(x)
    for n, y, z, c in np.ndindex(out.shape):
        row, column = divmod(int(choice[n, y, z, c]), size)
        expected_error[n, y * stride + row, z * stride + column, c] += passed[n, y, z, c]
    np.testing.assert_allclose(x_error, expected_error, atol=1e-12)
    np.testing.assert_allclose(bias_gradient, 7.0 + passed.sum(axis=(0, 1, 2)))


@given(problems())
def test_average_pooling_there_and_back(problem):
    x, size, stride = problem
    expected = windows(x, size, stride).mean(axis=-1)
    out = np.full(expected.shape, np.nan)
    pool.average_pool_forward(x, out, size, stride)
    np.testing.assert_allclose(out, expected, atol=1e-12)
    error = np.random.default_rng(2).standard_normal(out.shape)
    x_error = np.full_like(x, np.nan)
    pool.average_pool_backward(error, x_error, size, stride)
    # A linear map and its transpose: <out(x), error> = <x, x_error>.
    assert np.sum(out * error) == pytest.approx(np.sum(x * x_error), abs=1e-9)
    assert x_error.sum() == pytest.approx(error.sum(), abs=1e-9)


@pytest.mark.parametrize("place", range(4))
def test_nan_anywhere_in_a_window_reaches_the_output(place):
    x = np.zeros((1, 2, 2, 3), np.float32)
    x.reshape(4, 3)[place, 1] = np.nan
    out, choice = np.zeros((1, 1, 1, 3), np.float32), np.zeros((1, 1, 1, 3), np.uint8)
    pool.max_pool_forward(x, np.zeros(3, np.float32), out, choice, 2, 2, True)
    np.testing.assert_array_equal(out.reshape(3), [0, np.nan, 0])
