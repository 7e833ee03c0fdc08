"""Matrix products, blocked for the caches around the tiles of `kernels/tile.py`.

`product` computes `c = alpha * a @ b + beta * c`. Its left factor is an array with two tables of offsets, so that
plain, transposed and convolution patch matrices all are read where they lie. The right factor is cut into panels of
`PANEL_DEPTH` rows and one tile's columns, which stay in the L1 cache while the rows of the left factor pass by.
"""

from __future__ import annotations

import numpy as np

from adam_mp.kernels.compilation import inline, kernel
from adam_mp.kernels.edge import EDGE_COLUMNS, edge_by_depth, edge_by_rows, run_length
from adam_mp.kernels.tile import MOST_VECTORS, TILE_ROWS, tile_1, tile_2, tile_3, tile_4
from adam_mp.kernels.vector import VECTOR_BYTES

PANEL_DEPTH = 128
PANEL_BYTES = PANEL_DEPTH * MOST_VECTORS * VECTOR_BYTES
_ROWS_1, _ROWS_2 = TILE_ROWS[1], TILE_ROWS[2]
_ROWS_3, _ROWS_4 = TILE_ROWS.get(3, 1), TILE_ROWS.get(4, 1)
_EDGE_PAYS = 6  # vectors of columns; with more, two columns in one more vector are cheap
_EDGE_ROOM = 8  # rows of results beside the columns in the panel
_PACKING_PAYS = 12  # rows of the left factor from which a copied panel is read often enough


@inline
def _strips(rows, vectors):
    """Return into how many strips of columns to cut: widest tiles, unless narrower ones leave fewer rows unused."""
    strips = (vectors + MOST_VECTORS - 1) // MOST_VECTORS
    if MOST_VECTORS < 4 or vectors <= 3:
        return strips
    narrower = (vectors + 2) // 3
    wide_work = (rows + _ROWS_4 - 1) // _ROWS_4 * _ROWS_4 * strips * 4
    return narrower if (rows + _ROWS_3 - 1) // _ROWS_3 * _ROWS_3 * narrower * 3 < wide_work else strips


@kernel("void(R[::1], i8[::1], i8[::1], R[:,::1], R[:,::1], R[::1], R, R)")
def product(a, rows, depths, b, c, panel, alpha, beta):
    """`c[i, j] = alpha * sum over k of a[rows[i] + depths[k]] * b[k, j] + beta * c[i, j]`.

    b is [len(depths), columns], c [len(rows), columns], not read if `beta` is 0; `panel` is scratch of `PANEL_BYTES`.
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
    """`out = a.T`, square by square so that both are read and written in whole cache lines; out may be wider."""
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
