from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import dense
from adam_mp.kernels.product import PANEL_BYTES


@st.composite
def problems(draw):
    n, inputs, outputs = draw(st.integers(1, 9)), draw(st.integers(1, 70)), draw(st.integers(1, 70))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    x = np.maximum(generator.standard_normal((n, inputs)), 0)  # half of it 0, as behind a ReLU
    weight, bias = generator.standard_normal((inputs, outputs)), generator.standard_normal(outputs)
    return x, weight, bias, generator.standard_normal((n, outputs))


def tables(shape, transposed=False):
    rows, depths = np.arange(shape[0]) * shape[1], np.arange(shape[1])
    return (depths, rows) if transposed else (rows, depths)


def panel():
    return np.full(PANEL_BYTES // 8, np.nan)


@given(problems(), st.booleans())
def test_forward(problem, rectify):
    x, weight, bias, _ = problem
    expected = x @ weight + bias
    expected = np.maximum(expected, 0) if rectify else expected
    out = np.full(expected.shape, np.nan)
    dense.dense_forward(x, *tables(x.shape), weight, bias, out, panel(), rectify)
    np.testing.assert_allclose(out, expected, atol=1e-9)
    if len(x) == 1:
        out[:] = np.nan
        dense.dense_forward_one(x, weight, bias, out, rectify)
        np.testing.assert_allclose(out, expected, atol=1e-9)


@given(problems(), st.sampled_from([0.0, 1.0]))
def test_both_gradients(problem, beta):
    x, weight, _, error = problem
    gradient = np.full_like(weight, 3.0) if beta else np.full_like(weight, np.nan)
    dense.dense_backward_weight(x, *tables(x.shape, True), error, gradient, panel(), beta)
    np.testing.assert_allclose(gradient, beta * 3.0 + x.T @ error, atol=1e-9)

    columns, x_columns = np.zeros(error.shape[::-1]), np.zeros(x.shape[::-1])
    x_error = np.full_like(x, np.nan)
    dense.dense_backward_input(error, weight, *tables(weight.shape), columns, x_columns, x_error, panel())
    np.testing.assert_allclose(x_error, error @ weight.T, atol=1e-9)
    if len(x) == 1:
        x_error[:] = np.nan
        dense.dense_backward_input_one(error, weight, x_error)
        np.testing.assert_allclose(x_error, error @ weight.T, atol=1e-9)


@given(problems(), st.sampled_from([0.0, 0.3]), st.booleans(), st.booleans())
def test_direct_update(problem, decay, wanted, dead):
    x, weight, _, error = problem
    numbers = np.array([0.1, decay])
    expected, expected_error = (1 - 0.1 * decay) * weight - 0.1 * x.T @ error, error @ weight.T
    updated = weight.copy()
    dense.dense_update(x, *tables(x.shape, True), error, updated, panel(), numbers)
    np.testing.assert_allclose(updated, expected, atol=1e-9)
    if len(x) <= dense.FEW:
        updated, x_error = weight.copy(), np.full_like(x, np.nan)
        scratch = np.full(dense.FEW * (weight.shape[1] + 2), np.nan)
        dense.dense_update_few(x, error, updated, x_error, scratch, numbers)
        np.testing.assert_allclose(updated, expected, atol=1e-9)
        np.testing.assert_allclose(x_error, expected_error, atol=1e-9)
    if len(x) == 1:
        updated, x_error = weight.copy(), np.full_like(x, 7.0)
        dense.dense_update_one(x, error, updated, x_error, numbers, wanted, dead)
        np.testing.assert_allclose(updated, expected, atol=1e-9)
        if wanted:
            np.testing.assert_allclose(x_error[x != 0], expected_error[x != 0], atol=1e-9)
            np.testing.assert_allclose(x_error[x == 0], 0 if dead else expected_error[x == 0], atol=1e-9)
        else:
            assert (x_error == 7.0).all()
