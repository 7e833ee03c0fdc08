"""Bias and activation functions, in place, in one pass over the rows while they are in cache."""

from __future__ import annotations

import math

from adam_mp.kernels.compilation import kernel


@kernel("void(R[:,::1], R[::1], b1)")
def add_bias(rows, bias, rectify):
    """`rows += bias`, then `max(rows, 0)` if `rectify`; rows [m, n], bias [n]."""
    for i in range(rows.shape[0]):
        if rectify:
            for j in range(bias.size):
                rows[i, j] = max(rows[i, j] + bias[j], 0)
        else:
            for j in range(bias.size):
                rows[i, j] += bias[j]


@kernel("void(R[:,::1], R[:,::1], R[::1], b1, b1)")
def bias_backward(error, out, gradient, rectify, accumulate):
    """Undo `add_bias`: zero `error` where `rectify` cut `out`, and sum its rows into `gradient` [n]."""
    if not accumulate:
        gradient[:] = 0
    for i in range(error.shape[0]):
        if rectify:
            for j in range(gradient.size):
                value = error[i, j] if out[i, j] > 0 else error.dtype.type(0)
                error[i, j] = value
                gradient[j] += value
        else:
            for j in range(gradient.size):
                gradient[j] += error[i, j]


@kernel("void(R[::1], R[::1])")
def relu_forward(x, out):
    """`out = max(x, 0)`."""
    for i in range(x.size):
        out[i] = max(x[i], 0)


@kernel("void(R[::1], R[::1], R[::1])")
def relu_backward(error, out, x_error):
    """`x_error = error` where the output was positive, else 0."""
    for i in range(error.size):
        x_error[i] = error[i] if out[i] > 0 else error.dtype.type(0)


@kernel("void(R[::1], R[::1])")
def sigmoid_forward(x, out):
    """`out = 1 / (1 + exp(-x))`."""
    one = x.dtype.type(1)
    for i in range(x.size):
        out[i] = one / (one + math.exp(-x[i]))


@kernel("void(R[::1], R[::1], R[::1])")
def sigmoid_backward(error, out, x_error):
    """`x_error = error * out * (1 - out)`."""
    for i in range(error.size):
        x_error[i] = error[i] * out[i] * (1 - out[i])


@kernel("void(R[::1], R[::1])")
def tanh_forward(x, out):
    """`out = tanh(x)`."""
    for i in range(x.size):
        out[i] = math.tanh(x[i])


@kernel("void(R[::1], R[::1], R[::1])")
def tanh_backward(error, out, x_error):
    """`x_error = error * (1 - out ** 2)`."""
    for i in range(error.size):
        x_error[i] = error[i] * (1 - out[i] * out[i])
