"""Dense layers: products forward and backward, and the update straight into shared weights.

`rows` and `depths` are the offset tables of a product's left factor (`kernels/product.py`). A batch of one image has
kernels of its own: its work is to read the weights once, and rows of inputs that are 0 (most, behind ReLU and dropout)
need not be read at all.
"""

from __future__ import annotations

import numpy as np

from adam_mp.kernels.compilation import kernel
from adam_mp.kernels.product import product, transpose


@kernel("void(R[:,::1], i8[::1], i8[::1], R[:,::1], R[::1], R[:,::1], R[::1], b1)")
def dense_forward(x, rows, depths, weight, bias, out, panel, rectify):
    """`out = x @ weight + bias`, then `max(out, 0)` if `rectify`; x [n, in], weight [in, out], bias [out]."""
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
    """`x_error = error @ weight.T`, as `(weight @ error.T).T`: of the weight and the batch, the batch is small."""
    real = error.dtype.type
    transpose(error, error_columns)
    product(weight.reshape(-1), rows, depths, error_columns, x_error_columns, panel, real(1), real(0))
    transpose(x_error_columns, x_error)


@kernel("void(R[:,::1], i8[::1], i8[::1], R[:,::1], R[:,::1], R[::1], f8[::1])")
def dense_update(x, rows, depths, error, weight, panel, hyper):
    """Gradient descent straight into the shared weight, with no gradient in between (a rank-n update).

    `weight = (1 - lr * weight_decay) * weight - lr * x.T @ error` with `hyper = [lr, weight_decay, ...]`.
    """
    real = error.dtype.type
    product(x.reshape(-1), rows, depths, error, weight, panel, real(-hyper[0]), real(1 - hyper[0] * hyper[1]))


@kernel("void(R[:,::1], R[:,::1], R[::1], R[:,::1], b1)")
def dense_forward_one(x, weight, bias, out, rectify):
    """`dense_forward` of one image, x [1, in]."""
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
    """`x_error = error @ weight.T` of one image, error [1, out]."""
    columns = np.uint64(error.shape[1])
    flat, slope = weight.reshape(-1), error.reshape(-1)
    for i in range(x_error.shape[1]):
        start = np.uint64(i) * columns
        total = error.dtype.type(0)
        for j in range(columns):
            total += flat[start + j] * slope[j]
        x_error[0, i] = total


@kernel("void(R[:,::1], R[:,::1], R[:,::1], R[:,::1], f8[::1], b1, b1)")
def dense_update_one(x, error, weight, x_error, hyper, wanted, dead):
    """The update and, where `wanted`, before it the input's error, of one image, in one pass over the weight.

    With `dead` an input of 0 takes no error further down (ReLU or dropout made it), so its row is not read.
    """
    real = weight.dtype.type
    columns = np.uint64(error.shape[1])
    flat, slope = weight.reshape(-1), error.reshape(-1)
    rate, keep = real(-hyper[0]), real(1 - hyper[0] * hyper[1])
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
