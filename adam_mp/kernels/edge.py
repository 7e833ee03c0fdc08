"""The last two columns of a product whose number of columns is two more than whole vectors.

With 50 columns and vectors of 16, only an eighth of a fourth vector would be used. If the offsets of the left factor
consist of runs (consecutive numbers), the two columns are computed with vectors along these runs instead: along the
depth (a convolution's forward pass) or along the rows (its weight gradient). `depth` is the inner dimension of the
product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from adam_mp.kernels.compilation import inline
from adam_mp.kernels.vector import VECTOR_BYTES, Vectors, address, integer

EDGE_COLUMNS = 2
_ROWS = 4  # rows that a call of _dot_runs computes
_VECTORS = 4  # vectors of rows that a call of _sum_columns computes at most


@intrinsic
def _dot_runs(_typing: Any, left: Any, right: Any, depth: Any, result: Any) -> Any:
    """Write the dot products of `_ROWS` rows with two columns to `result` (array, position), `EDGE_COLUMNS` a row.

    `left` is (array, row offsets, first row, last row, depth offsets, length of their runs); rows after the last repeat
    it. `right` has the two columns, `depth` numbers each, one after the other.
    """
    signature = types.void(left, right, types.int64, result)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, row_table, row, last, depth_table, run = cgutils.unpack_tuple(builder, arguments[0])
        kinds, depth = signature.args[0].types, arguments[2]
        emit = Vectors(builder, context.get_value_type(right.dtype))
        pointers = []
        for number in range(_ROWS):
            place = builder.add(row, integer(number))
            place = builder.select(builder.icmp_signed("<", place, last), place, last)
            offset = builder.load(address(context, builder, kinds[1], row_table, place))
            pointers.append(address(context, builder, kinds[0], a, offset))
        sums = [[cgutils.alloca_once(builder, emit.type) for _ in range(EDGE_COLUMNS)] for _ in pointers]
        for total in (total for line in sums for total in line):
            builder.store(emit.zeros, total)
        with cgutils.for_range(builder, builder.sdiv(depth, run)) as loop:
            top = builder.mul(loop.index, run)
            begin = builder.load(address(context, builder, kinds[4], depth_table, top))
            for index, mask in emit.vectors_of(run):
                column = builder.add(top, index)
                columns = []
                for _ in range(EDGE_COLUMNS):
                    columns.append(emit.load(address(context, builder, right, arguments[1], column), mask))
                    column = builder.add(column, depth)
                for pointer, line in zip(pointers, sums, strict=True):
                    values = emit.load(builder.gep(pointer, [builder.add(begin, index)]), mask)
                    for factor, total in zip(columns, line, strict=True):
                        builder.store(emit.multiply_add(values, factor, builder.load(total)), total)
        out, at = cgutils.unpack_tuple(builder, arguments[3])
        first = address(context, builder, signature.args[3].types[0], out, at)
        for number, total in enumerate(total for line in sums for total in line):
            builder.store(emit.sum_lanes(builder.load(total)), builder.gep(first, [integer(number)]))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _sum_columns(_typing: Any, left: Any, right: Any, count: Any, result: Any) -> Any:
    """Write two columns for `count` rows of one run, up to `_VECTORS` vectors, to `result`, one after the other.

    `left` is (array, beginning of the run, depth offsets, depth); `right` is (array, position of the two columns,
    distance of its rows); `result` is (array, distance of the two columns).
    """
    signature = types.void(left, right, types.int64, result)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, begin, depth_table, depth = cgutils.unpack_tuple(builder, arguments[0])
        b, at, stride = cgutils.unpack_tuple(builder, arguments[1])
        out, distance = cgutils.unpack_tuple(builder, arguments[3])
        kinds, right_kind = signature.args[0].types, signature.args[1].types[0]
        emit = Vectors(builder, context.get_value_type(right_kind.dtype))
        places = [integer(number * emit.lanes) for number in range(_VECTORS)]
        masks = [emit.first_lanes(builder.sub(arguments[2], place)) for place in places]
        sums = [[cgutils.alloca_once(builder, emit.type) for _ in range(EDGE_COLUMNS)] for _ in places]
        for total in (total for line in sums for total in line):
            builder.store(emit.zeros, total)
        run = address(context, builder, kinds[0], a, begin)
        with cgutils.for_range(builder, depth) as loop:
            offset = builder.load(address(context, builder, kinds[2], depth_table, loop.index))
            line = builder.gep(run, [offset])
            place = builder.add(at, builder.mul(loop.index, stride))
            pair = address(context, builder, right_kind, b, place)
            factors = [emit.splat(builder.load(builder.gep(pair, [integer(n)]))) for n in range(EDGE_COLUMNS)]
            for mask, where, totals in zip(masks, places, sums, strict=True):
                values = emit.load(builder.gep(line, [where]), mask)
                for factor, total in zip(factors, totals, strict=True):
                    builder.store(emit.multiply_add(values, factor, builder.load(total)), total)
        first = address(context, builder, signature.args[3].types[0], out, integer(0))
        for mask, where, totals in zip(masks, places, sums, strict=True):
            for number, total in enumerate(totals):
                place = builder.add(where, builder.mul(distance, integer(number)))
                emit.store(builder.load(total), builder.gep(first, [place]), mask)
        return context.get_dummy_value()

    return signature, generate


@inline
def run_length(table):
    """Return the length of runs if all of `table` consists of equally long runs of consecutive offsets, else 1."""
    size = 1
    while size < table.size and table[size] == table[size - 1] + 1:
        size += 1
    if table.size % size:
        return 1
    for start in range(0, table.size, size):
        if table[start + size - 1] - table[start] != size - 1:
            return 1
    return size


@inline
def edge_by_depth(a, rows, depths, run, b, c, scratch, alpha, beta):
    """The last two columns of `c = alpha * a @ b + beta * c`, if the depth offsets are in runs of length `run`.

    `scratch` has room for two columns of b and the results of `_ROWS` rows.
    """
    columns, depth = b.shape[1], depths.size
    first, out = columns - EDGE_COLUMNS, EDGE_COLUMNS * depth
    for k in range(np.uint64(depth)):
        for j in range(EDGE_COLUMNS):
            scratch[np.uint64(j * depth) + k] = b[k, first + j]
    for i in range(0, rows.size, _ROWS):
        _dot_runs((a, rows, i, rows.size - 1, depths, run), scratch, depth, (scratch, out))
        for row in range(min(_ROWS, rows.size - i)):
            for j in range(EDGE_COLUMNS):
                value = alpha * scratch[out + row * EDGE_COLUMNS + j]
                c[i + row, first + j] = value if beta == 0 else value + beta * c[i + row, first + j]


@inline
def edge_by_rows(a, rows, depths, run, b, c, scratch, alpha, beta):
    """The last two columns of `c = alpha * a @ b + beta * c`, if the row offsets are in runs of length `run`."""
    columns = b.shape[1]
    first = columns - EDGE_COLUMNS
    most = _VECTORS * (VECTOR_BYTES // c.itemsize)
    right = b.reshape(-1)
    for start in range(0, rows.size, run):
        for i in range(start, start + run, most):
            count = min(most, start + run - i)
            _sum_columns((a, rows[i], depths, depths.size), (right, first, columns), count, (scratch, most))
            for row in range(count):
                for j in range(EDGE_COLUMNS):
                    value = alpha * scratch[j * most + row]
                    c[i + row, first + j] = value if beta == 0 else value + beta * c[i + row, first + j]
