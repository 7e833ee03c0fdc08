from __future__ import annotations

import math

import numpy as np
import pytest

from adam_mp.kernels import gate

FORMULAS = {
    "leaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + np.array([math.erf(value / math.sqrt(2)) for value in x])),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_functions_and_their_slopes(name):
    formula, more = FORMULAS[name], (0.1,) if name == "leaky" else ()
    x = np.concatenate([np.linspace(-9.013, 9.017, 301), [-600.0, 600.0]])
    out, x_error = np.full_like(x, np.nan), np.full_like(x, np.nan)
    getattr(gate, f"{name}_forward")(x, out, *more)
    np.testing.assert_allclose(out, formula(x), rtol=1e-12, atol=1e-12)
    error = np.random.default_rng(0).standard_normal(x.size)
    slope = (formula(x + 1e-6) - formula(x - 1e-6)) / 2e-6
    read = out if name in ("leaky", "relu6") else x
    getattr(gate, f"{name}_backward")(error, read, x_error, *more)
    np.testing.assert_allclose(x_error, error * slope, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", FORMULAS)
def test_divergence_shows(name):
    out = np.zeros(1, np.float32)
    more = (np.float32(0.1),) if name == "leaky" else ()
    getattr(gate, f"{name}_forward")(np.full(1, np.nan, np.float32), out, *more)
    assert np.isnan(out[0])


@pytest.mark.parametrize("name", ["silu", "gelu"])
def test_polynomials_of_float32_are_as_exact_as_it_is(name):
    x = np.concatenate([np.linspace(-20, 20, 5000), [-1000.0, -88.0, 88.5, 1000.0]]).astype(np.float32)
    out, x_error = np.zeros_like(x), np.zeros_like(x)
    getattr(gate, f"{name}_forward")(x, out)
    with np.errstate(over="ignore"):
        exact = FORMULAS[name](x.astype(np.float64))
    np.testing.assert_allclose(out, exact, rtol=1e-6, atol=3e-6)
    getattr(gate, f"{name}_backward")(np.ones_like(x), x, x_error)
    near = np.abs(x) < 15
    wide = x[near].astype(np.float64)
    slope = (FORMULAS[name](wide + 1e-6) - FORMULAS[name](wide - 1e-6)) / 2e-6
    np.testing.assert_allclose(x_error[near], slope, atol=5e-6)
