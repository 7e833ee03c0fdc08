"""Where branches of a network meet: sums, products, and values side by side. Each kernel is one pass over arrays."""

from __future__ import annotations

import numpy as np

from adam_mp.kernels.compilation import kernel


@kernel("void(R[::1], R[::1], R[::1], b1)")
def add_forward(first, second, out, rectify):
    """`out = first + second`, then `out = max(out, 0)` if `rectify`; all [n]. `out` may be one of the others."""
    if rectify:
        for i in range(out.size):
            out[i] = max(first[i] + second[i], 0)
    else:
        for i in range(out.size):
            out[i] = first[i] + second[i]


@kernel("void(R[::1], R[::1])")
def add_to(values, total):
    """`total = total + values`; both [n]."""
    for i in range(total.size):
        total[i] += values[i]


@kernel("void(R[::1], R[::1], R[::1], b1, b1)")
def pass_error(error, out, x_error, rectify, add):
    """`x_error = error`, added to what it holds if `add`; if `rectify`, errors where `out <= 0` count as 0. All [n]."""
    zero = error.dtype.type(0)
    if rectify and add:
        for i in range(error.size):
            x_error[i] += error[i] if out[i] > 0 else zero
    elif rectify:
        for i in range(error.size):
            x_error[i] = error[i] if out[i] > 0 else zero
    elif add:
        for i in range(error.size):
            x_error[i] += error[i]
    else:
        for i in range(error.size):
            x_error[i] = error[i]


@kernel("void(R[::1], R[::1], R[::1], R[::1], b1, b1)")
def pass_error_twice(error, out, first, second, rectify, add):
    """`first = error` and `second = error` as in `pass_error`, in one pass.

    `add` is for both; with it they may be the same array.
    """
    zero = error.dtype.type(0)
    if add:
        for i in range(error.size):
            value = error[i] if out[i] > 0 or not rectify else zero
            first[i] += value
            second[i] += value
    else:
        for i in range(error.size):
            value = error[i] if out[i] > 0 or not rectify else zero
            first[i] = value
            second[i] = value


@kernel("void(R[:,::1], R[:,::1], i8, b1)")
def put_columns(values, out, begin, add):
    """`out[:, begin : begin + k] = values`, added to what it holds if `add`; values [m, k], out [m, n]."""
    for i in range(values.shape[0]):
        if add:
            for j in range(values.shape[1]):
                out[i, begin + j] += values[i, j]
        else:
            for j in range(values.shape[1]):
                out[i, begin + j] = values[i, j]


@kernel("void(R[:,:,::1], R[:,::1], R[:,:,::1], b1)")
def multiply(x, factors, out, add):
    """`out = x * factors`, added to what it holds if `add`; x and out [n, pixels, channels], factors [n, channels]."""
    count, pixels, channels = x.shape
    source, shares, target = x.reshape(-1), factors.reshape(-1), out.reshape(-1)
    for n in range(count):
        own = np.uint64(n * channels)
        for i in range(pixels):
            at = np.uint64((n * pixels + i) * channels)
            if add:
                for j in range(np.uint64(channels)):
                    target[at + j] += source[at + j] * shares[own + j]
            else:
                for j in range(np.uint64(channels)):
                    target[at + j] = source[at + j] * shares[own + j]


@kernel("void(R[:,:,::1], R[:,:,::1], R[:,::1], b1)")
def multiply_backward(error, x, factors_error, add):
    """`factors_error = sum over pixels of error * x`, added to what it holds if `add`; shapes as in `multiply`."""
    count, pixels, channels = error.shape
    slopes, source, target = error.reshape(-1), x.reshape(-1), factors_error.reshape(-1)
    if not add:
        target[:] = 0
    for n in range(count):
        own = np.uint64(n * channels)
        for i in range(pixels):
            at = np.uint64((n * pixels + i) * channels)
            for j in range(np.uint64(channels)):
                target[own + j] += slopes[at + j] * source[at + j]


@kernel("void(R[:,::1], i8, R[:,::1], b1)")
def take_columns(error, begin, x_error, add):
    """`x_error = error[:, begin : begin + k]`, added to what it holds if `add`; x_error [m, k], error [m, n]."""
    for i in range(x_error.shape[0]):
        if add:
            for j in range(x_error.shape[1]):
                x_error[i, j] += error[i, begin + j]
        else:
            for j in range(x_error.shape[1]):
                x_error[i, j] = error[i, begin + j]
