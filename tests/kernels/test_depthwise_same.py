from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels.depthwise_same import same_products, same_sums


@st.composite
def problems(draw):
    """(x, weight, error): images from one pixel on, channels from less than a vector to more than a group of them."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.sampled_from([1, 2, 3, 5, 8, 33])))
    channels = draw(st.sampled_from([1, 3, 7, 8, 16, 17, 40, 64, 200]))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    real = draw(st.sampled_from([np.float32, np.float64]))
    x, error = (generator.standard_normal((*shape, channels)).astype(real) for _ in range(2))
    return x, generator.standard_normal((9, channels)).astype(real), error


def windows(x):
    """[n, height, width, 9, c]: each pixel with those around it, of which those outside of the image are 0."""
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.stack([padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=3)


def nothing(x):
    return np.zeros(x.shape[2] * x.shape[3], x.dtype)


def tolerance(array):
    return 2e-5 if array.dtype == np.float32 else 1e-12


@given(problems())
def test_a_sum_is_that_of_the_pixels_around_times_the_weight(problem):
    x, weight, _ = problem
    out = np.full_like(x, np.nan)
    same_sums(x, weight, out, nothing(x))
    np.testing.assert_allclose(out, (windows(x) * weight).sum(axis=3), atol=tolerance(x))


@given(problems(), st.booleans())
def test_products_are_those_of_the_pixels_around_and_the_error(problem, accumulate):
    x, weight, error = problem
    gradient = weight.copy()
    same_products(x, error, gradient, nothing(x), accumulate)
    expected = (windows(x) * error[:, :, :, None]).sum(axis=(0, 1, 2)) + (weight if accumulate else 0)
    np.testing.assert_allclose(gradient, expected, atol=30 * tolerance(x))


@given(problems())
def test_with_a_flipped_weight_sums_are_the_transpose(problem):
    x, weight, error = problem
    out, back = np.empty_like(x), np.empty_like(x)
    same_sums(x, weight, out, nothing(x))
    same_sums(error, np.ascontiguousarray(weight[::-1]), back, nothing(x))
    sums = np.array([(out * error).sum(dtype=float), (back * x).sum(dtype=float)])
    assert abs(sums[0] - sums[1]) <= 100 * tolerance(x) * max(1.0, np.abs(x).sum(dtype=float) ** 0.5)
