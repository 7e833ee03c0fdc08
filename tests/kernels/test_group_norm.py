"""Group and layer normalisation against their formulas in NumPy, slopes against differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import group_norm


def normal(x, groups):
    """Return x [n, pixels, channels] with each group of channels of each image normalised."""
    parts = x.reshape(*x.shape[:2], groups, -1)
    mean, variance = (way(parts, axis=(1, 3), keepdims=True) for way in (np.mean, np.var))
    return ((parts - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)


@st.composite
def images(draw):
    """(x [n, pixels, channels], gamma, beta, groups)."""
    groups = draw(st.integers(1, 4))
    count, pixels, channels = draw(st.integers(1, 3)), draw(st.integers(1, 70)), groups * draw(st.integers(2, 20))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    x = generator.standard_normal((count, pixels, channels)) + 3 * generator.standard_normal(channels)
    return x, generator.standard_normal(channels), generator.standard_normal(channels), groups


@given(images(), st.booleans())
def test_groups_there_and_back(problem, rectify):
    x, gamma, beta, groups = problem
    channels = len(gamma)
    expected = normal(x, groups) * gamma + beta
    out, factors = np.full_like(x, 7), np.full((len(x), 4, channels), 7.0)
    sums, scratch = np.full((2, 2, channels), 7.0)
    group_norm.group_norm_forward(x, gamma, beta, out, factors, sums, scratch, groups, 1e-5, rectify)
    np.testing.assert_allclose(out, np.maximum(expected, 0) if rectify else expected, atol=1e-9)

    error, direction = np.random.default_rng(1).standard_normal((2, *x.shape))
    passed = error * (out > 0) if rectify else error
    gamma_gradient, beta_gradient, x_error = np.full_like(gamma, 5), np.full_like(beta, 5), np.full_like(x, 7)
    back = (error, x, gamma, factors, gamma_gradient, beta_gradient, x_error, sums, scratch, groups, rectify)
    group_norm.group_norm_backward(*back, True, False)
    np.testing.assert_allclose(gamma_gradient, 5 + np.sum(passed * normal(x, groups), axis=(0, 1)), atol=1e-8)
    np.testing.assert_allclose(beta_gradient, 5 + passed.sum(axis=(0, 1)), atol=1e-9)
    step = 1e-6
    ahead, behind = (normal(x + sign * step * direction, groups) * gamma for sign in (1, -1))
    slope = np.sum(passed * (ahead - behind)) / (2 * step)
    assert np.sum(x_error * direction) == pytest.approx(slope, rel=1e-4, abs=1e-4)
    once = x_error.copy()
    group_norm.group_norm_backward(*back, False, True)
    np.testing.assert_allclose(x_error, 2 * once, atol=1e-9)
    np.testing.assert_allclose(beta_gradient, passed.sum(axis=(0, 1)), atol=1e-9)


@given(images())
def test_layers_there_and_back(problem):
    x, gamma, beta, _ = problem
    flat = x.reshape(-1, len(gamma))
    whole = normal(flat[:, None], 1)[:, 0]
    out, factors = np.full_like(flat, 7), np.full((2, len(flat)), 7.0)
    group_norm.layer_norm_forward(flat, gamma, beta, out, factors, 1e-5)
    np.testing.assert_allclose(out, whole * gamma + beta, atol=1e-9)

    error, direction = np.random.default_rng(1).standard_normal((2, *flat.shape))
    gamma_gradient, beta_gradient, x_error = np.full_like(gamma, 5), np.full_like(beta, 5), np.full_like(flat, 7)
    back = (error, flat, gamma, factors, gamma_gradient, beta_gradient, x_error)
    group_norm.layer_norm_backward(*back, True, False)
    np.testing.assert_allclose(gamma_gradient, 5 + np.sum(error * whole, axis=0), atol=1e-8)
    np.testing.assert_allclose(beta_gradient, 5 + error.sum(axis=0), atol=1e-9)
    step = 1e-6
    ahead, behind = (normal((flat + sign * step * direction)[:, None], 1)[:, 0] * gamma for sign in (1, -1))
    slope = np.sum(error * (ahead - behind)) / (2 * step)
    assert np.sum(x_error * direction) == pytest.approx(slope, rel=1e-3, abs=1e-3)
    once = x_error.copy()
    group_norm.layer_norm_backward(*back, False, True)
    np.testing.assert_allclose(x_error, 2 * once, atol=1e-9)
