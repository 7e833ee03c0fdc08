from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import activation

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
