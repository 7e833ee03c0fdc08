"""Activations, dropout, local response normalisation, loss."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import activation, dropout, loss, normalization
from adam_mp.kernels.statistics import channel_moments

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 9))


@given(SHAPES, st.booleans(), st.booleans())
def test_bias_there_and_back(shape, rectify, accumulate):
    generator = np.random.default_rng(sum(shape))
    rows, bias = generator.standard_normal(shape), generator.standard_normal(shape[1])
    expected = rows + bias
    activation.add_bias(rows, bias, rectify)
    np.testing.assert_allclose(rows, np.maximum(expected, 0) if rectify else expected)
    error, gradient = generator.standard_normal(shape), np.ones(shape[1])
    passed = np.where(rows > 0, error, 0) if rectify else error.copy()
    activation.bias_backward(error, rows, gradient, rectify, accumulate)
    np.testing.assert_allclose(error, passed)
    np.testing.assert_allclose(gradient, passed.sum(axis=0) + (1 if accumulate else 0), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "function", "slope"),
    [
        ("relu", lambda x: np.maximum(x, 0), lambda y: (y > 0) * 1.0),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), lambda y: y * (1 - y)),
        ("tanh", np.tanh, lambda y: 1 - y**2),
    ],
)
def test_activations_and_their_slopes(name, function, slope):
    x = np.linspace(-5, 5, 101)
    out, x_error = np.zeros_like(x), np.zeros_like(x)
    getattr(activation, f"{name}_forward")(x, out)
    np.testing.assert_allclose(out, function(x))
    error = np.cos(x)
    getattr(activation, f"{name}_backward")(error, out, x_error)
    np.testing.assert_allclose(x_error, error * slope(out))


def drop(x, key, layer=0, start=0, rate=0.4):
    out, mask = np.zeros_like(x), np.zeros_like(x)
    dropout.dropout_forward(x, out, mask, rate, np.array([key], np.uint64), np.uint64(layer), np.uint64(start))
    return out, mask


def test_dropout_drops_its_rate_and_keeps_the_mean():
    out, mask = drop(np.ones(100_000), key=3)
    assert np.mean(out == 0) == pytest.approx(0.4, abs=0.01)
    assert out.mean() == pytest.approx(1, abs=0.02)
    back = np.zeros_like(out)
    dropout.dropout_backward(np.full_like(out, 2.0), mask, back)
    np.testing.assert_array_equal(back, 2 * mask)


def test_dropout_depends_on_key_layer_and_position_alone():
    x = np.ones(1000)
    whole, _ = drop(x, key=5)
    parts = np.concatenate([drop(x[:300], key=5)[0], drop(x[300:], key=5, start=300)[0]])
    np.testing.assert_array_equal(whole, parts)
    assert (whole != drop(x, key=6)[0]).any()
    assert (whole != drop(x, key=5, layer=1)[0]).any()


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


@given(st.integers(1, 5), st.integers(2, 6), st.sampled_from([1.0, 1e4]))
def test_loss_and_its_gradient(rows, classes, size):
    generator = np.random.default_rng(rows * classes)
    scores = generator.standard_normal((rows, classes)) * size
    labels = generator.integers(classes, size=rows, dtype=np.int32)
    top = scores.max(axis=1, keepdims=True)
    logarithms = scores - top - np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
    error, totals, shares = np.zeros_like(scores), np.zeros(2), np.zeros_like(scores)
    loss.softmax_cross_entropy(scores, labels, error, totals)
    loss.softmax(scores, shares)
    np.testing.assert_allclose(shares, np.exp(logarithms), atol=1e-12)
    assert totals[0] == pytest.approx(-logarithms[np.arange(rows), labels].sum())
    assert totals[1] == np.sum(scores.argmax(axis=1) == labels)
    np.testing.assert_allclose(error, (shares - np.eye(classes)[labels]) / rows, atol=1e-12)


def test_ties_count_as_wrong_and_nan_shows():
    totals, error = np.zeros(2), np.zeros((1, 3))
    loss.softmax_cross_entropy(np.zeros((1, 3)), np.zeros(1, np.int32), error, totals)
    assert totals[1] == 0
    loss.softmax_cross_entropy(np.array([[0.0, np.nan, 1.0]]), np.zeros(1, np.int32), error, totals)
    assert np.isnan(totals[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_moments_of_some_samples(dtype):
    images = np.random.default_rng(0).integers(0, 255, (6, 4, 5, 3)).astype(dtype)
    chosen, moments = np.array([0, 2, 5]), np.zeros((2, 3))
    channel_moments(images, chosen, moments)
    np.testing.assert_allclose(moments[0], images[chosen].astype(float).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(moments[1], images[chosen].astype(float).std(axis=(0, 1, 2)))
