"""Matrix products, blocked for the caches around the tiles of `kernels/tile.py`.

`product` computes `c = alpha * a @ b + beta * c`. Its left factor is an array with two tables of offsets: so it reads
plain and transposed matrices, and the patch matrix of a convolution, without copying them. It divides the right factor
into panels of `PANEL_DEPTH` rows and one tile's columns. A panel stays in the L1 cache while all rows of the left
factor are multiplied with it.
"""

from __future__ import annotations

import numpy as np

from adam_mp.kernels.compilation import inline, kernel
from adam_mp.kernels.edge import EDGE_COLUMNS, edge_by_depth, edge_by_rows, run_length
from adam_mp.kernels.tile import MOST_VECTORS, TILE_ROWS, tile_1, tile_2, tile_3, tile_4
from adam_mp.kernels.vector import VECTOR_BYTES

PANEL_DEPTH = 128  # rows of the right factor in a panel
PANEL_BYTES = PANEL_DEPTH * MOST_VECTORS * VECTOR_BYTES
_ROWS_1, _ROWS_2 = TILE_ROWS[1], TILE_ROWS[2]
_ROWS_3, _ROWS_4 = TILE_ROWS.get(3, 1), TILE_ROWS.get(4, 1)
_EDGE_PAYS = 6  # below this many vectors of columns, `edge` is faster than a vector with two columns used
_EDGE_ROOM = 8  # rows of results for which `edge` needs room in the panel beside its columns
_PACKING_PAYS = 12  # above this many rows of the left factor, copying a panel pays


@inline
def _strips(rows, vectors):
    """Return into how many strips of columns to divide c: for the widest tiles, unless tiles of three vectors do less.

    A tile also computes rows that do not exist if `rows` is no multiple of its height.
    """
    strips = (vectors + MOST_VECTORS - 1) // MOST_VECTORS
    if MOST_VECTORS < 4 or vectors <= 3:
        return strips
    narrower = (vectors + 2) // 3
    wide_work = (rows + _ROWS_4 - 1) // _ROWS_4 * _ROWS_4 * strips * 4
    return narrower if (rows + _ROWS_3 - 1) // _ROWS_3 * _ROWS_3 * narrower * 3 < wide_work else strips


@kernel("void(R[::1], i8[::1], i8[::1], R[:,::1], R[:,::1], R[::1], R, R)")
def product(a, rows, depths, b, c, panel, alpha, beta):
    """`c[i, j] = alpha * sum over k of a[rows[i] + depths[k]] * b[k, j] + beta * c[i, j]`.

    a is flat, b [len(depths), columns], c [len(rows), columns]. c is not read if `beta` is 0. `panel` is scratch of
    `PANEL_BYTES`.
    """
    columns = b.shape[1]
    right, result = b.reshape(-1), c.reshape(-1)
    lanes = VECTOR_BYTES // c.itemsize
    tiled = columns  # the columns left to the tiles
    if columns % lanes == EDGE_COLUMNS and lanes < columns < _EDGE_PAYS * lanes:
        depth_run, row_run = run_length(depths), run_length(rows)
        if depth_run >= lanes and EDGE_COLUMNS * (depths.size + _EDGE_ROOM) <= panel.size:
            edge_by_depth(a, rows, depths, depth_run, b, c, panel, alpha, beta)
            tiled -= EDGE_COLUMNS
        elif row_run >= lanes:
            edge_by_rows(a, rows, depths, row_run, b, c, panel, alpha, beta)
            tiled -= EDGE_COLUMNS
    vectors = (tiled + lanes - 1) // lanes
    strips = _strips(rows.size, vectors)
    packed = strips > 1 and rows.size > _PACKING_PAYS
    end = 0
    for strip in range(strips):
        begin, end = end, vectors * (strip + 1) // strips
        wide, first = end - begin, begin * lanes
        used = min(tiled, end * lanes) - first
        tall = _ROWS_1 if wide == 1 else _ROWS_2 if wide == 2 else _ROWS_3 if wide == 3 else _ROWS_4
        for top in range(0, depths.size, PANEL_DEPTH):
            deep = min(depths.size - top, PANEL_DEPTH)
            keep = beta if top == 0 else c.dtype.type(1)
            if packed:
                for k in range(np.uint64(deep)):
                    source, target = np.uint64((top + k) * columns + first), k * np.uint64(wide * lanes)
                    for j in range(np.uint64(used)):
                        panel[target + j] = right[source + j]
                factor, at, stride = panel, 0, wide * lanes
            else:
                factor, at, stride = right, top * columns + first, columns
            for i in range(0, rows.size, tall):
                left, here = (a, rows, i, depths, top, deep), (result, i * columns + first, columns)
                size = (min(tall, rows.size - i), used)
                if wide == 1:
                    tile_1(left, factor, at, stride, here, size, alpha, keep)
                elif wide == 2:
                    tile_2(left, factor, at, stride, here, size, alpha, keep)
                elif wide == 3:
                    tile_3(left, factor, at, stride, here, size, alpha, keep)
                else:
                    tile_4(left, factor, at, stride, here, size, alpha, keep)


@kernel("void(R[:,::1], R[:,::1])")
def transpose(a, out):
    """`out = a.T`: a [m, n], out [n, m] or wider. In squares of 16, so that both arrays use whole cache lines."""
    rows, columns = a.shape
    stride = np.uint64(out.shape[1])
    source, target = a.reshape(-1), out.reshape(-1)
    for top in range(0, rows, 16):
        for left in range(0, columns, 16):
            high, wide = min(16, rows - top), np.uint64(min(16, columns - left))
            for i in range(np.uint64(high)):
                line = np.uint64((top + i) * columns + left)
                for j in range(wide):
                    target[(np.uint64(left) + j) * stride + np.uint64(top) + i] = source[line + j]
