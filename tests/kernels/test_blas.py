from __future__ import annotations

import numba
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import dense
from adam_mp.kernels.blas import blas_name, gemm


@numba.njit
def product(a, transpose_a, b, transpose_b, alpha, beta, c):
    gemm(a, transpose_a, b, transpose_b, alpha, beta, c)


@given(
    st.tuples(*[st.integers(1, 9)] * 3), st.booleans(), st.booleans(), st.sampled_from([0.0, 1.0, -0.5]),
    st.sampled_from([np.float32, np.float64]),
)  # fmt: skip
def test_gemm_in_all_orientations(sizes, transpose_a, transpose_b, beta, real):
    m, n, k = sizes
    generator = np.random.default_rng(sum(sizes))
    a = generator.standard_normal((k, m) if transpose_a else (m, k)).astype(real)
    b = generator.standard_normal((n, k) if transpose_b else (k, n)).astype(real)
    c = generator.standard_normal((m, n)).astype(real)
    expected = 2 * (a.T if transpose_a else a) @ (b.T if transpose_b else b) + beta * c
    product(a, transpose_a, b, transpose_b, 2.0, beta, c)
    np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-4)


@given(st.tuples(*[st.integers(1, 9)] * 3), st.booleans())
def test_dense_there_and_back(sizes, rectify):
    n, inputs, units = sizes
    generator = np.random.default_rng(sum(sizes))
    x, weight = generator.standard_normal((n, inputs)), generator.standard_normal((inputs, units))
    bias, out = generator.standard_normal(units), np.full((n, units), np.nan)
    dense.dense_forward(x, weight, bias, out, rectify)
    expected = x @ weight + bias
    np.testing.assert_allclose(out, np.maximum(expected, 0) if rectify else expected, atol=1e-12)
    error, gradient = generator.standard_normal((n, units)), np.ones_like(weight)
    dense.dense_backward_weight(x, error, gradient, 1.0)
    np.testing.assert_allclose(gradient, 1 + x.T @ error)
    x_error = np.full_like(x, np.nan)
    dense.dense_backward_input(error, weight, x_error)
    np.testing.assert_allclose(x_error, error @ weight.T)
    updated = weight.copy()
    dense.dense_update(x, error, updated, np.array([0.1, 0.01]))
    np.testing.assert_allclose(updated, weight - 0.1 * (x.T @ error + 0.01 * weight))


def test_the_blas_has_a_name():
    assert blas_name()
