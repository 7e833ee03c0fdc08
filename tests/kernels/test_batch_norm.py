"""Batch normalisation, pass by pass, against its formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import batch_norm


def whole(x, gamma, beta, epsilon=1e-5):
    mean, variance = x.mean(axis=0), x.var(axis=0)
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


class Norm:
    """All passes over one batch, which is cut into spans."""

    def __init__(self, x, gamma, beta, cuts, rectify):
        real, channels = x.dtype.type, x.shape[1]
        self.x, self.gamma, self.beta, self.rectify = x, gamma, beta, rectify
        self.spans = list(zip([0, *cuts], [*cuts, len(x)], strict=True))
        self.mean, self.squares, self.errors, self.products = np.full((4, channels), 7.0)
        self.factors = np.full((6, channels), 7, real)
        self.scratch = np.full((2, channels), 7, real)

    def forward(self):
        scale, offset, middle, inverse, _, _ = self.factors
        for start, end in self.spans:
            batch_norm.add_moments(self.x[start:end], self.mean, self.squares, start, self.scratch)
        batch_norm.norm_scales(
            self.mean, self.squares, len(self.x), self.gamma, self.beta, 1e-5, scale, offset, middle, inverse
        )
        self.out = np.full_like(self.x, 7)
        for start, end in self.spans:
            batch_norm.scale_channels(self.x[start:end], scale, offset, self.out[start:end], self.rectify)
        return self.out

    def backward(self, error, adds=False):
        scale, offset, middle, inverse, slope, level = self.factors
        x_error = np.full_like(self.x, 7)
        for start, end in reversed(self.spans):
            batch_norm.add_error_sums(
                error[start:end], self.x[start:end], scale, offset, middle, inverse, self.errors, self.products,
                self.rectify, end < len(self.x), self.scratch,
            )  # fmt: skip
        batch_norm.norm_slopes(self.errors, self.products, len(self.x), scale, middle, inverse, slope, level)
        for start, end in self.spans:
            batch_norm.norm_backward(
                error[start:end], self.x[start:end], scale, offset, slope, level, x_error[start:end], self.rectify, adds
            )
        return x_error


@st.composite
def batches(draw):
    pixels, channels = draw(st.integers(2, 600)), draw(st.integers(1, 40))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    x = generator.standard_normal((pixels, channels)) * generator.uniform(0.5, 2, channels)
    x += draw(st.sampled_from([0.0, 30.0])) * generator.standard_normal(channels)
    cuts = sorted(draw(st.sets(st.integers(1, pixels - 1), max_size=3)))
    return x, generator.standard_normal(channels), generator.standard_normal(channels), cuts, draw(st.booleans())


@given(batches())
def test_a_batch_is_normalised_whatever_its_spans(batch):
    x, gamma, beta, _, rectify = batch
    expected = whole(x, gamma, beta)
    norm = Norm(*batch)
    np.testing.assert_allclose(norm.forward(), np.maximum(expected, 0) if rectify else expected, atol=1e-9)
    np.testing.assert_allclose(norm.mean, x.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(norm.squares, x.var(axis=0) * len(x), rtol=1e-9, atol=1e-12)


@given(batches(), st.integers(0, 99))
def test_the_backward_pass_is_the_slope_of_the_forward_pass(batch, seed):
    x, gamma, beta, _, rectify = batch
    generator = np.random.default_rng(seed)
    error, direction = generator.standard_normal((2, *x.shape))
    norm = Norm(*batch)
    out = norm.forward()
    passed = error * (out > 0) if rectify else error
    x_error = norm.backward(error)
    step = 1e-6
    ahead, behind = (whole(x + sign * step * direction, gamma, beta) for sign in (1, -1))
    assert np.sum(x_error * direction) == pytest.approx(
        np.sum(passed * (ahead - behind)) / (2 * step), rel=1e-4, abs=1e-4
    )
    np.testing.assert_allclose(norm.backward(error, adds=True), x_error + 7, atol=1e-12)
    normal = whole(x, np.ones_like(gamma), np.zeros_like(beta))
    np.testing.assert_allclose(norm.products, np.sum(passed * normal, axis=0), atol=1e-8)
    np.testing.assert_allclose(norm.errors, passed.sum(axis=0), atol=1e-9)


def test_the_mean_may_be_far_from_zero():
    """Sums of squares in float32 would leave nothing of a variance of 1 beside a mean of 10,000."""
    x = (np.random.default_rng(1).standard_normal((5000, 3)) + 10_000).astype(np.float32)
    one, none = np.ones(3, np.float32), np.zeros(3, np.float32)
    norm = Norm(x, one, none, [777], rectify=False)
    norm.forward()
    np.testing.assert_allclose(norm.squares / 5000, x.astype(np.float64).var(axis=0), rtol=1e-3)
    np.testing.assert_allclose(norm.out.std(axis=0), 1, rtol=1e-3)
