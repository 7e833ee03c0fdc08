"""Products with an error matrix [pixels, filters] that is mostly 0.

Max-pooling over 2x2 gives one input in four an error; a ReLU stops some of these too. `compress_rows` lists the errors
that are not 0, row by row; `group_by_column` sorts this list by columns. Then a row of `error @ b` is a sum of a few
rows of b, and a column of `patches.T @ error` is a sum of a few patches. The sums stay in registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from adam_mp.kernels.compilation import inline, kernel
from adam_mp.kernels.conv import sum_patches
from adam_mp.kernels.vector import VECTOR_BYTES, Vectors, address, integer

_WIDE, _NARROW = 8, 4  # vectors of a strip of columns
GROUP = 4  # elements of a list that one round of a loop adds; lists are padded to a multiple
_IMAGES_BYTES = 32 << 10  # bytes of images that are done together: every filter reads them, so they stay in L1


@intrinsic
def _not_zero(_typing: Any, array: Any, at: Any, count: Any) -> Any:
    """Return, for a vector of numbers from `at` on, a bit each, set if the number is not 0; `count` lanes are read."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = Vectors(builder, context.get_value_type(array.dtype))
        values = emit.load(address(context, builder, array, arguments[0], arguments[1]), emit.first_lanes(arguments[2]))
        bits = builder.bitcast(builder.fcmp_unordered("!=", values, emit.zeros), ir.IntType(emit.lanes))
        return builder.zext(bits, ir.IntType(64))

    return types.uint64(array, types.int64, types.int64), generate


@intrinsic
def _lowest_bit(_typing: Any, bits: Any) -> Any:
    """Return the number of the lowest bit that is set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@kernel("void(R[:,::1], i8[::1], i4[::1], R[::1])")
def compress_rows(error, starts, columns, values):
    """List the elements of `error` [rows, n] that are not 0, by their columns and values.

    `columns` and `values` have those of row i from `starts[i]` to before `starts[i + 1]`, in order. Each row's list is
    padded to a multiple of `GROUP` with value 0 at column n. `starts` is [rows + 1].
    """
    rows, width = error.shape
    flat, lanes = error.reshape(-1), VECTOR_BYTES // error.itemsize
    found = np.uint64(0)
    for i in range(rows):
        starts[i] = found
        for first in range(0, width, lanes):
            begin = i * width + first
            bits: Any = _not_zero(flat, begin, width - first)
            while bits:
                lane = _lowest_bit(bits)
                columns[found] = first + lane
                values[found] = flat[np.uint64(begin + lane)]
                found += np.uint64(1)
                bits &= bits - np.uint64(1)
        while (found - np.uint64(starts[i])) % np.uint64(GROUP):
            columns[found] = width
            values[found] = 0
            found += np.uint64(1)
    starts[rows] = found


@kernel("void(i8[::1], i4[::1], R[::1], i8, i8, i8[::1], i8[::1], i4[::1], R[::1])")
def group_by_column(starts, columns, values, first, last, begins, filled, rows, sorted_values):
    """Sort the list of `compress_rows`, of rows `first` to before `last`, by columns, and within a column by rows.

    `rows` and `sorted_values` have the elements of column j from `begins[j]` to before `begins[j + 1]`. Each column's
    list is padded to a multiple of `GROUP` with value 0 at row `first`. `begins` and `filled` (scratch) have two
    elements more than there are columns: the padding of `compress_rows`, at column n, is sorted after all columns.
    """
    filled[:] = 0
    for k in range(np.uint64(starts[first]), np.uint64(starts[last])):
        filled[columns[k]] += 1
    begins[0] = 0
    for j in range(begins.size - 1):
        begins[j + 1] = begins[j] + (filled[j] + GROUP - 1) // GROUP * GROUP
        filled[j] = begins[j]
    for i in range(first, last):
        for k in range(np.uint64(starts[i]), np.uint64(starts[i + 1])):
            column = np.uint64(columns[k])
            to = np.uint64(filled[column])
            rows[to] = i
            sorted_values[to] = values[k]
            filled[column] += 1
    for j in range(begins.size - 1):
        for place in range(np.uint64(filled[j]), np.uint64(begins[j + 1])):
            rows[place] = first
            sorted_values[place] = 0


def _by_groups(builder: Any, begin: Any, end: Any) -> Iterator[Any]:
    """Emit a loop over a list whose length is a multiple of `GROUP`; yields the index of each element of a group.

    With lists of any length, the processor would often mispredict when the loop ends.
    """
    with cgutils.for_range_slice(builder, begin, end, integer(GROUP)) as (index, _):
        for number in range(GROUP):
            yield builder.add(index, integer(number))


def _define_row(vectors: int) -> Any:
    @intrinsic
    def row(_typing: Any, listed: Any, b: Any, b_at: Any, stride: Any, out: Any, out_at: Any, count: Any) -> Any:
        """Write the first `count` numbers, in `vectors` vectors, of the sum of the listed rows of b times their values.

        `listed` is (columns, values, begin, end): a column is the number n of a row of b, which begins at
        `b_at + n * stride` and is padded to whole vectors.
        """
        i8 = types.int64
        signature = types.void(listed, b, i8, i8, out, i8, i8)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            columns, values, begin, end = cgutils.unpack_tuple(builder, arguments[0])
            kinds = signature.args[0].types
            emit = Vectors(builder, context.get_value_type(b.dtype))
            sums = [cgutils.alloca_once(builder, emit.type) for _ in range(vectors)]
            for total in sums:
                builder.store(emit.zeros, total)
            first = address(context, builder, b, arguments[1], arguments[2])
            for index in _by_groups(builder, begin, end):
                column = builder.load(address(context, builder, kinds[0], columns, index))
                line = builder.gep(first, [builder.mul(builder.sext(column, ir.IntType(64)), arguments[3])])
                factor = emit.splat(builder.load(address(context, builder, kinds[1], values, index)))
                for number, total in enumerate(sums):
                    values_b = emit.load(builder.gep(line, [integer(number * emit.lanes)]))
                    builder.store(emit.multiply_add(factor, values_b, builder.load(total)), total)
            place = address(context, builder, out, arguments[4], arguments[5])
            for number, total in enumerate(sums):
                offset = integer(number * emit.lanes)
                mask = emit.first_lanes(builder.sub(arguments[6], offset))
                emit.store(builder.load(total), builder.gep(place, [offset]), mask)
            return context.get_dummy_value()

        return signature, generate

    return row


_wide_row, _narrow_row = _define_row(_WIDE), _define_row(_NARROW)


@kernel("void(i8[::1], i4[::1], R[::1], R[:,::1], R[:,::1], i8)")
def sparse_product(starts, columns, values, b, out, first):
    """`out = error @ b`, for m rows from `first` on of a compressed error.

    out is [m, width], b [n + 1, `padded_width(width)`]; the last row of b and the columns from `width` on are 0.
    """
    count, width = out.shape
    lanes = VECTOR_BYTES // out.itemsize
    right, result, stride = b.reshape(-1), out.reshape(-1), b.shape[1]
    at = 0
    while at < width:  # one strip of b at a time, which stays in the L1 cache
        wide = width - at > _NARROW * lanes
        for i in range(count):
            listed = (columns, values, starts[first + i], starts[first + i + 1])
            if wide:
                _wide_row(listed, right, at, stride, result, i * width + at, width - at)
            else:
                _narrow_row(listed, right, at, stride, result, i * width + at, width - at)
        at += (_WIDE if wide else _NARROW) * lanes


def padded_width(width: int, itemsize: int) -> int:
    """Return how many columns `sparse_product`'s right factor must have for `width` used ones.

    It is an odd number of vectors: with an even one, rows would share a few sets of the L1 cache and evict each other.
    """
    lanes = VECTOR_BYTES // itemsize
    vectors = -(-width // (_WIDE * lanes)) * _WIDE
    return (vectors + 1 - vectors % 2) * lanes


@kernel("void(i8[::1], i4[::1], R[::1], R[:,::1], R[:,::1], R[:,:,:,::1], i8, i8, i8)")
def sparse_backward_input(starts, columns, values, transposed, patches, image_error, size, stride, padding):
    """The error of a convolution's input, as `conv_backward_input`, from the compressed error of its output.

    `transposed` is the weight's transpose as the right factor of `sparse_product`, with k filters and width
    size * size * c. The scratch `patches` has room for some images, which are done at a time.
    """
    out_height = (image_error.shape[1] + 2 * padding - size) // stride + 1
    out_width = (image_error.shape[2] + 2 * padding - size) // stride + 1
    pixels = out_height * out_width
    step = patches.shape[0] // pixels
    for first in range(0, image_error.shape[0], step):
        images = image_error[first : first + step]
        part = patches[: images.shape[0] * pixels]
        sparse_product(starts, columns, values, transposed, part, first * pixels)
        sum_patches(part, images, size, stride, padding)


def _define_patches(vectors: int) -> Any:
    @intrinsic
    def patches(_typing: Any, listed: Any, image: Any, pixels: Any, shift: Any, out: Any, out_at: Any, count: Any,
                keep: Any) -> Any:  # fmt: skip
        """Write the sum of listed runs of the image times their values: `count` numbers, in `vectors` vectors.

        `listed` is (rows, values, begin, end); the run of row n begins at `pixels[n] + shift` of the image. With `keep`
        the sum is added to what `out` holds.
        """
        i8 = types.int64
        signature = types.void(listed, image, pixels, i8, out, i8, i8, types.boolean)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            rows, values, begin, end = cgutils.unpack_tuple(builder, arguments[0])
            kinds = signature.args[0].types
            emit = Vectors(builder, context.get_value_type(image.dtype))
            offsets = [integer(number * emit.lanes) for number in range(vectors)]
            masks = [None] * (vectors - 1) + [emit.first_lanes(builder.sub(arguments[6], offsets[-1]))]
            place = address(context, builder, out, arguments[4], arguments[5])
            sums = [cgutils.alloca_once(builder, emit.type) for _ in range(vectors)]
            for total, offset, mask in zip(sums, offsets, masks, strict=True):
                with builder.if_else(arguments[7]) as (add, overwrite):
                    with add:
                        builder.store(emit.load(builder.gep(place, [offset]), mask), total)
                    with overwrite:
                        builder.store(emit.zeros, total)
            first = address(context, builder, image, arguments[1], arguments[3])
            for index in _by_groups(builder, begin, end):
                row = builder.sext(builder.load(address(context, builder, kinds[0], rows, index)), ir.IntType(64))
                run = builder.gep(first, [builder.load(address(context, builder, pixels, arguments[2], row))])
                factor = emit.splat(builder.load(address(context, builder, kinds[1], values, index)))
                for total, offset, mask in zip(sums, offsets, masks, strict=True):
                    numbers = emit.load(builder.gep(run, [offset]), mask)
                    builder.store(emit.multiply_add(factor, numbers, builder.load(total)), total)
            for total, offset, mask in zip(sums, offsets, masks, strict=True):
                emit.store(builder.load(total), builder.gep(place, [offset]), mask)
            return context.get_dummy_value()

        return signature, generate

    return patches


_patches_1, _patches_2, _patches_3, _patches_4 = (_define_patches(vectors) for vectors in (1, 2, 3, 4))
_patches_5, _patches_6, _patches_7, _patches_8 = (_define_patches(vectors) for vectors in (5, 6, 7, 8))
_MOST_VECTORS = 8


@inline
def _sum_run(listed, image, pixels, shift, out, at, count, keep):
    """Call the intrinsic for `count` numbers, which are at most `_MOST_VECTORS` vectors: see `_define_patches`."""
    vectors = (count * image.itemsize + VECTOR_BYTES - 1) // VECTOR_BYTES
    if vectors == 1:
        _patches_1(listed, image, pixels, shift, out, at, count, keep)
    elif vectors == 2:
        _patches_2(listed, image, pixels, shift, out, at, count, keep)
    elif vectors == 3:
        _patches_3(listed, image, pixels, shift, out, at, count, keep)
    elif vectors == 4:
        _patches_4(listed, image, pixels, shift, out, at, count, keep)
    elif vectors == 5:
        _patches_5(listed, image, pixels, shift, out, at, count, keep)
    elif vectors == 6:
        _patches_6(listed, image, pixels, shift, out, at, count, keep)
    elif vectors == 7:
        _patches_7(listed, image, pixels, shift, out, at, count, keep)
    else:
        _patches_8(listed, image, pixels, shift, out, at, count, keep)


@kernel(
    "void(R[:,:,:,::1], i8[::1], i8[::1], i8, i8[::1], i4[::1], R[::1], "
    "i8[::1], i8[::1], i4[::1], R[::1], R[:,::1], b1)"
)
def sparse_backward_weight(
    images, pixels, taps, run, starts, columns, values, begins, filled, rows, sorted_values, gradient, keep
):
    """`gradient = (patches.T @ error).T` [k, taps], from a compressed error; added to what it holds if `keep`.

    `pixels` and `taps` are as in `conv_forward`; the taps consist of runs of length `run`. `begins`, `filled`, `rows`
    and `sorted_values` are scratch for `group_by_column`.
    """
    flat, out = images.reshape(-1), gradient.reshape(-1)
    most = _MOST_VECTORS * VECTOR_BYTES // images.itemsize
    per_image = pixels.size // images.shape[0]
    step = per_image * max(1, _IMAGES_BYTES // (images[0].size * images.itemsize))
    for begin in range(0, pixels.size, step):
        end = min(begin + step, pixels.size)
        group_by_column(starts, columns, values, begin, end, begins, filled, rows, sorted_values)
        add = keep or begin > 0
        for j in range(gradient.shape[0]):
            listed = (rows, sorted_values, begins[j], begins[j + 1])
            for top in range(0, taps.size, run):
                for first in range(0, run, most):
                    count = min(most, run - first)
                    _sum_run(listed, flat, pixels, taps[top] + first, out, j * taps.size + top + first, count, add)
