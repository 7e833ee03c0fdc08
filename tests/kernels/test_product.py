from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels.product import PANEL_BYTES, PANEL_DEPTH, product, transpose
from adam_mp.kernels.tile import MOST_VECTORS, TILE_ROWS
from adam_mp.kernels.vector import VECTOR_BYTES

# Around every edge of a tile, a panel and a vector, and far from them.
sides = st.one_of(st.integers(1, 40), st.integers(1, 5 * MOST_VECTORS * VECTOR_BYTES // 8), st.integers(120, 300))


@given(sides, sides, sides, st.sampled_from([0.0, 1.0, 0.5]), st.sampled_from([1.0, -0.25]), st.booleans())
def test_product_of_plain_and_transposed_matrices(rows, depth, columns, beta, alpha, single):
    real = np.float32 if single else np.float64
    generator = np.random.default_rng(rows + 1000 * depth)
    a, b = generator.standard_normal((rows, depth)).astype(real), generator.standard_normal((depth, columns))
    b = b.astype(real)
    before = generator.standard_normal((rows, columns)).astype(real)
    expected = alpha * (a.astype(float) @ b) + beta * before
    for left, row_step, depth_step in ((a, depth, 1), (np.ascontiguousarray(a.T), 1, rows)):
        c = before.copy() if beta else np.full_like(before, np.nan)
        panel = np.full(PANEL_BYTES // c.itemsize, np.nan, real)
        tables = (np.arange(rows) * row_step, np.arange(depth) * depth_step)
        product(left.reshape(-1), *tables, b, c, panel, real(alpha), real(beta))
        np.testing.assert_allclose(c, expected, atol=1e-10 if real is np.float64 else 1e-3)


def test_nothing_beside_the_result_is_touched():
    for columns in range(1, MOST_VECTORS * VECTOR_BYTES // 4 + 2):
        for rows in (1, max(TILE_ROWS.values()) + 1):
            memory = np.full((rows + 2) * columns, 7, np.float32)
            a, b = np.ones((rows, PANEL_DEPTH + 1), np.float32), np.ones((PANEL_DEPTH + 1, columns), np.float32)
            tables = (np.arange(rows) * a.shape[1], np.arange(a.shape[1]))
            panel = np.zeros(PANEL_BYTES // 4, np.float32)
            inner = memory[columns:-columns].reshape(rows, columns)
            product(a.reshape(-1), *tables, b, inner, panel, np.float32(1), np.float32(0))
            assert (inner == PANEL_DEPTH + 1).all()
            assert (memory[:columns] == 7).all()
            assert (memory[-columns:] == 7).all()


@given(st.integers(1, 50), st.integers(1, 50))
def test_transpose(rows, columns):
    a = np.random.default_rng(0).standard_normal((rows, columns))
    out = np.full((columns, rows), np.nan)
    transpose(a, out)
    np.testing.assert_array_equal(out, a.T)
