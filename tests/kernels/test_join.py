from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import join

FLAGS = [(False, False), (False, True), (True, False), (True, True)]


@given(st.integers(1, 70), st.booleans(), st.sampled_from([np.float32, np.float64]))
def test_sums(size, rectify, real):
    first, second = np.random.default_rng(size).standard_normal((2, size)).astype(real)
    expected = np.maximum(first + second, 0) if rectify else first + second
    out = np.full(size, np.nan, real)
    join.add_forward(first, second, out, rectify)
    np.testing.assert_array_equal(out, expected)
    join.add_forward(first, second, first, rectify)  # in place
    np.testing.assert_array_equal(first, expected)
    join.add_to(second, first)
    np.testing.assert_array_equal(first, expected + second)


@pytest.mark.parametrize(("rectify", "add"), FLAGS)
@pytest.mark.parametrize("size", [1, 17, 64])
def test_errors_of_sums(rectify, add, size):
    generator = np.random.default_rng(size)
    error, out, *held = generator.standard_normal((4, size))
    out[::3] = 0
    out[1::5] = np.nan  # of no matter unless the sum is rectified
    passed = np.where(out > 0, error, 0) if rectify else error
    expected = [start + passed if add else passed for start in held]
    one, (first, second) = held[0].copy(), (each.copy() for each in held)
    join.pass_error(error, out, one, rectify, add)
    join.pass_error_twice(error, out, first, second, rectify, add)
    np.testing.assert_array_equal(one, expected[0])
    np.testing.assert_array_equal(first, expected[0])
    np.testing.assert_array_equal(second, expected[1])


@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(1, 5), st.booleans())
def test_columns_there_and_back(widths, rows, add):
    generator = np.random.default_rng(rows)
    values = [generator.standard_normal((rows, width)) for width in widths]
    first = generator.standard_normal((rows, sum(widths)))
    out = first.copy()
    for number, value in enumerate(values):
        join.put_columns(value, out, sum(widths[:number]), add)
    np.testing.assert_array_equal(out, np.concatenate(values, axis=1) + (first if add else 0))
    for number, value in enumerate(values):
        join.put_columns(value, out, sum(widths[:number]), False)
    for number, value in enumerate(values):
        held = generator.standard_normal(value.shape)
        x_error = held.copy()
        join.take_columns(out, sum(widths[:number]), x_error, add)
        np.testing.assert_array_equal(x_error, held + value if add else value)


@given(st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 3, 16, 33]), st.booleans())
def test_products(count, pixels, channels, add):
    generator = np.random.default_rng(channels)
    x, error, held = (generator.standard_normal((count, pixels, channels)) for _ in range(3))
    factors, held_factors = (generator.standard_normal((count, channels)) for _ in range(2))
    out, x_error, factors_error = np.full_like(x, np.nan), held.copy(), held_factors.copy()
    join.multiply(x, factors, out, False)
    join.multiply(error, factors, x_error, add)
    join.multiply_backward(error, x, factors_error, add)
    np.testing.assert_array_equal(out, x * factors[:, None])
    np.testing.assert_allclose(x_error, error * factors[:, None] + (held if add else 0), rtol=1e-12)
    np.testing.assert_allclose(factors_error, (error * x).sum(axis=1) + (held_factors if add else 0), atol=1e-12)
