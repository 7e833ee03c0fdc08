"""The innermost kernel of all products: one small tile of the result, kept in vector registers.

    c[i, j] = alpha * sum over k of a[rows[i] + depths[k]] * b[k, j] + beta * c[i, j]

The left factor is read through two tables of offsets. With `rows[i] = i * width` and `depths[k] = k` it is a plain
matrix; with the tables swapped it is the transposed matrix. With the offsets of output pixels and of taps it is the
patch matrix of a convolution (`kernels/conv.py`), which is never written to memory. The depth is the inner dimension.

A tile has up to `TILE_ROWS[vectors]` rows and `vectors` vectors of columns; the last vector may be partly used.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from adam_mp.kernels.vector import VECTOR_BYTES, Vectors, address, integer

# AVX-512 and NEON have 32 vector registers, AVX has 16. A tile needs rows * vectors for its sums, `vectors` for a row
# of b, and one for an element of a.
TILE_ROWS = {1: 6, 2: 6} if VECTOR_BYTES == 32 else {1: 8, 2: 8, 3: 8, 4: 6}
MOST_VECTORS = max(TILE_ROWS)


class _Tile(Vectors):
    """Emits the instructions of one tile of `rows` x `vectors` vectors; only the first `columns` columns are used."""

    def __init__(self, builder: Any, real: ir.Type, rows: int, vectors: int, columns: Any) -> None:
        super().__init__(builder, real)
        self.rows, self.vectors = rows, vectors
        self.last = self.first_lanes(builder.sub(columns, integer((vectors - 1) * self.lanes)))

    def column(self, line: Any, number: int) -> tuple[Any, Any]:
        """Return the address of vector `number` of a line, and its mask (None: all lanes are used)."""
        place = self.builder.gep(line, [integer(number * self.lanes)])
        return place, self.last if number == self.vectors - 1 else None

    def row_pointers(self, a: Any, table: Any, used: Any) -> list[Any]:
        """Return the address of each row of the left factor; rows from `used` on repeat the last used one."""
        last = self.builder.sub(used, integer(1))
        pointers = []
        for row in range(self.rows):
            exists = self.builder.icmp_signed("<", integer(row), used)
            number = self.builder.select(exists, integer(row), last)
            pointers.append(self.builder.gep(a, [self.builder.load(self.builder.gep(table, [number]))]))
        return pointers

    def sum_up(self, pointers: list[Any], depths: Any, depth: Any, b: Any, stride: Any) -> list[list[Any]]:
        """Emit the loop over the depth; return the sums, rows x vectors."""
        builder = self.builder
        sums = [[cgutils.alloca_once_value(builder, self.zeros) for _ in range(self.vectors)] for _ in pointers]
        place = cgutils.alloca_once_value(builder, b)
        with cgutils.for_range(builder, depth) as loop:
            line = builder.load(place)
            right = [self.load(*self.column(line, number)) for number in range(self.vectors)]
            offset = builder.load(builder.gep(depths, [loop.index]))
            for pointer, row in zip(pointers, sums, strict=True):
                left = self.splat(builder.load(builder.gep(pointer, [offset])))
                for factor, total in zip(right, row, strict=True):
                    builder.store(self.multiply_add(left, factor, builder.load(total)), total)
            builder.store(builder.gep(line, [stride]), place)
        return [[builder.load(total) for total in row] for row in sums]

    def write(self, sums: list[list[Any]], c: Any, stride: Any, used: Any, alpha: Any, beta: Any) -> None:
        """Write `alpha * sums + beta * c` into the first `used` rows of c; if beta is 0, c is not read."""
        builder = self.builder
        factor, keep = self.splat(alpha), self.splat(beta)
        fresh = builder.fcmp_ordered("==", beta, ir.Constant(self.real, 0.0))
        with builder.if_else(fresh) as (overwrite, add):
            for branch, reads in ((overwrite, False), (add, True)):
                with branch:
                    for row, totals in enumerate(sums):
                        with builder.if_then(builder.icmp_signed("<", integer(row), used)):
                            line = builder.gep(c, [builder.mul(integer(row), stride)])
                            for number, total in enumerate(totals):
                                value = builder.fmul(factor, total)
                                place = self.column(line, number)
                                if reads:
                                    value = self.multiply_add(keep, self.load(*place), value)
                                self.store(value, *place)


def _define(rows: int, vectors: int) -> Any:
    """Return the intrinsic for tiles of `rows` rows and `vectors` vectors of columns."""

    @intrinsic
    def tile(
        _typing: Any, left: Any, right: Any, right_at: Any, right_stride: Any, result: Any, size: Any,
        alpha: Any, beta: Any,
    ) -> Any:  # fmt: skip
        """Compute one tile of a product.

        `left` is (array, row offsets, first row, depth offsets, first depth, depth). `right` begins at `right_at`, its
        rows are `right_stride` apart. `result` is (array, beginning of the tile, distance of rows); `size` is (used
        rows, used columns).
        """
        signature = types.void(left, right, types.int64, types.int64, result, size, alpha, beta)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, row_table, row, depth_table, top, depth = cgutils.unpack_tuple(builder, arguments[0])
            c, c_at, c_stride = cgutils.unpack_tuple(builder, arguments[4])
            used, columns = cgutils.unpack_tuple(builder, arguments[5])
            kinds = signature.args[0].types
            emit = _Tile(builder, context.get_value_type(alpha), rows, vectors, columns)
            first_row = address(context, builder, kinds[1], row_table, row)
            pointers = emit.row_pointers(address(context, builder, kinds[0], a, integer(0)), first_row, used)
            depths = address(context, builder, kinds[3], depth_table, top)
            b = address(context, builder, right, arguments[1], arguments[2])
            sums = emit.sum_up(pointers, depths, depth, b, arguments[3])
            place = address(context, builder, signature.args[4].types[0], c, c_at)
            emit.write(sums, place, c_stride, used, arguments[6], arguments[7])
            return context.get_dummy_value()

        return signature, generate

    return tile


tile_1, tile_2 = (_define(TILE_ROWS[vectors], vectors) for vectors in (1, 2))
tile_3, tile_4 = (_define(TILE_ROWS.get(vectors, 1), vectors) for vectors in (3, 4))
