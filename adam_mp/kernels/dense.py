"""Dense layers: products forward and backward, and the update straight into shared weights.

Shapes: x [n, in], weight [in, out], bias [out], error [n, out], x_error [n, in], with n images. `rows` and `depths` are
the offset tables of a product's left factor, and `panel` its scratch (`kernels/product.py`). `numbers` is the
optimizer's array `[lr, weight_decay, ...]`, float64.

Small batches have kernels of their own, because reading the weight takes most of their time. With a few images, the
update and the input's error share one pass over the weight. With one image, the rows of inputs that are 0 (most of them
after ReLU or dropout) are not read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from adam_mp.kernels.compilation import kernel
from adam_mp.kernels.product import product, transpose
from adam_mp.kernels.vector import Vectors, address, integer

FEW = 8  # most images for which reading the weight only once is worth more than the faster product


@kernel("void(R[:,::1], i8[::1], i8[::1], R[:,::1], R[::1], R[:,::1], R[::1], b1)")
def dense_forward(x, rows, depths, weight, bias, out, panel, rectify):
    """`out = x @ weight + bias`, then `out = max(out, 0)` if `rectify`; out [n, out]."""
    real = out.dtype.type
    product(x.reshape(-1), rows, depths, weight, out, panel, real(1), real(0))
    for i in range(out.shape[0]):
        for j in range(bias.size):
            value = out[i, j] + bias[j]
            out[i, j] = max(value, 0) if rectify else value


@kernel("void(R[:,::1], i8[::1], i8[::1], R[:,::1], R[:,::1], R[::1], R)")
def dense_backward_weight(x, rows, depths, error, gradient, panel, beta):
    """`gradient = beta * gradient + x.T @ error`."""
    product(x.reshape(-1), rows, depths, error, gradient, panel, error.dtype.type(1), beta)


@kernel("void(R[:,::1], R[:,::1], i8[::1], i8[::1], R[:,::1], R[:,::1], R[:,::1], R[::1])")
def dense_backward_input(error, weight, rows, depths, error_columns, x_error_columns, x_error, panel):
    """`x_error = error @ weight.T`, computed as `(weight @ error.T).T`: transposing the batch costs less.

    Scratch: error_columns [out, n], x_error_columns [in, n].
    """
    real = error.dtype.type
    transpose(error, error_columns)
    product(weight.reshape(-1), rows, depths, error_columns, x_error_columns, panel, real(1), real(0))
    transpose(x_error_columns, x_error)


@kernel("void(R[:,::1], i8[::1], i8[::1], R[:,::1], R[:,::1], R[::1], f8[::1])")
def dense_update(x, rows, depths, error, weight, panel, numbers):
    """`weight = (1 - lr * weight_decay) * weight - lr * x.T @ error`.

    Gradient descent straight into the shared weight: the gradient `x.T @ error` is never written to memory.
    """
    real = error.dtype.type
    product(x.reshape(-1), rows, depths, error, weight, panel, real(-numbers[0]), real(1 - numbers[0] * numbers[1]))


@kernel("void(R[:,::1], R[:,::1], R[::1], R[:,::1], b1)")
def dense_forward_one(x, weight, bias, out, rectify):
    """`dense_forward` for one image, x [1, in]."""
    total, columns = out.reshape(-1), np.uint64(bias.size)
    flat = weight.reshape(-1)
    for j in range(columns):
        total[j] = bias[j]
    for i in range(x.shape[1]):
        value = x[0, i]
        if value != 0:
            start = np.uint64(i) * columns
            for j in range(columns):
                total[j] += value * flat[start + j]
    if rectify:
        for j in range(columns):
            total[j] = max(total[j], 0)


@kernel("void(R[:,::1], R[:,::1], R[:,::1])")
def dense_backward_input_one(error, weight, x_error):
    """`x_error = error @ weight.T` for one image, error [1, out]."""
    columns = np.uint64(error.shape[1])
    flat, slope = weight.reshape(-1), error.reshape(-1)
    for i in range(x_error.shape[1]):
        start = np.uint64(i) * columns
        total = error.dtype.type(0)
        for j in range(columns):
            total += flat[start + j] * slope[j]
        x_error[0, i] = total


@kernel("void(R[:,::1], R[:,::1], R[:,::1], R[:,::1], f8[::1], b1, b1)")
def dense_update_one(x, error, weight, x_error, numbers, wanted, dead):
    """For one image, in one pass over the weight: `x_error = error @ weight.T` if `wanted`, then `dense_update`.

    `dead` says that the error of an input of 0 is not needed, because ReLU or dropout made the 0 and stops the error:
    it becomes 0 without reading the weight.
    """
    real = weight.dtype.type
    columns = np.uint64(error.shape[1])
    flat, slope = weight.reshape(-1), error.reshape(-1)
    rate, keep = real(-numbers[0]), real(1 - numbers[0] * numbers[1])
    for i in range(x.shape[1]):
        value = x[0, i]
        start = np.uint64(i) * columns
        if wanted:
            total = real(0)
            if value != 0 or not dead:
                for j in range(columns):
                    total += flat[start + j] * slope[j]
            x_error[0, i] = total
        if value != 0 or keep != 1:
            step = rate * value
            for j in range(columns):
                flat[start + j] = keep * flat[start + j] + step * slope[j]


@intrinsic
def _update_row(_typing: Any, weight: Any, at: Any, errors: Any, columns: Any, steps: Any, keep: Any, sums: Any) -> Any:
    """One row of `dense_update_few`: `sums[n] = row @ errors[n]`, then `row = keep * row + steps @ errors`.

    `row` is weight[at : at + columns], `errors` [FEW, columns] flat, `steps` and `sums` [FEW].
    """
    signature = types.void(weight, types.int64, errors, types.int64, steps, keep, sums)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = Vectors(builder, context.get_value_type(keep))
        zero, images = integer(0), range(FEW)
        row = address(context, builder, weight, arguments[0], arguments[1])
        error = address(context, builder, errors, arguments[2], zero)
        first_step = address(context, builder, steps, arguments[4], zero)
        factors = [emit.splat(builder.load(builder.gep(first_step, [integer(n)]))) for n in images]
        decay = emit.splat(arguments[5])
        totals = [cgutils.alloca_once(builder, emit.type) for _ in images]
        for total in totals:
            builder.store(emit.zeros, total)
        for index, mask in emit.vectors_of(arguments[3]):
            place = builder.gep(row, [index])
            values = emit.load(place, mask)
            updated = builder.fmul(values, decay)
            for n, factor, total in zip(images, factors, totals, strict=True):
                offset = builder.add(index, builder.mul(arguments[3], integer(n)))
                slope = emit.load(builder.gep(error, [offset]), mask)
                builder.store(emit.multiply_add(values, slope, builder.load(total)), total)
                updated = emit.multiply_add(factor, slope, updated)
            emit.store(updated, place, mask)
        result = address(context, builder, sums, arguments[6], zero)
        for n, total in enumerate(totals):
            builder.store(emit.sum_lanes(builder.load(total)), builder.gep(result, [integer(n)]))
        return context.get_dummy_value()

    return signature, generate


@kernel("void(R[:,::1], R[:,::1], R[:,::1], R[:,::1], R[::1], f8[::1])")
def dense_update_few(x, error, weight, x_error, scratch, numbers):
    """For up to `FEW` images, in one pass over the weight: `x_error = error @ weight.T`, then `dense_update`.

    `scratch` holds `FEW * (out + 2)` numbers.
    """
    real = weight.dtype.type
    images, columns = error.shape
    rate, keep = real(-numbers[0]), real(1 - numbers[0] * numbers[1])
    flat = weight.reshape(-1)
    errors, steps = scratch[: FEW * columns], scratch[FEW * columns : FEW * (columns + 1)]
    sums = scratch[FEW * (columns + 1) :]
    scratch[:] = 0
    for n in range(images):
        for j in range(np.uint64(columns)):
            errors[np.uint64(n * columns) + j] = error[n, j]
    for i in range(weight.shape[0]):
        for n in range(images):
            steps[n] = rate * x[n, i]
        _update_row(flat, i * columns, errors, columns, steps, keep, sums)
        for n in range(images):
            x_error[n, i] = sums[n]
