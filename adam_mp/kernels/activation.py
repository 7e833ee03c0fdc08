"""Bias and activation functions. Each kernel is one pass over its arrays."""

from __future__ import annotations

import math

from adam_mp.kernels.compilation import kernel


@kernel("void(R[:,::1], R[::1], b1)")
def add_bias(rows, bias, rectify):
    """`rows = rows + bias`, then `rows = max(rows, 0)` if `rectify`; rows [m, n], bias [n]."""
    for i in range(rows.shape[0]):
        if rectify:
            for j in range(bias.size):
                rows[i, j] = max(rows[i, j] + bias[j], 0)
        else:
            for j in range(bias.size):
                rows[i, j] += bias[j]


@kernel("void(R[:,::1], R[:,::1], R[::1], b1, b1)")
def bias_backward(error, out, gradient, rectify, accumulate):
    """The backward pass of `add_bias`. `error` and `out`, the result of `add_bias`, are [m, n]; `gradient` is [n].

    If `rectify`, `error = 0` where `out <= 0`. Then `gradient = sum of the rows of error`, added to what `gradient`
    holds if `accumulate`.
    """
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
    """`out = max(x, 0)`; both [n]."""
    for i in range(x.size):
        out[i] = max(x[i], 0)


@kernel("void(R[::1], R[::1], R[::1])")
def relu_backward(error, out, x_error):
    """`x_error = error` where `out > 0`, else 0; all [n], here and below."""
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
