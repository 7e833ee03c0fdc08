"""Batch normalisation of rows [m, c]: statistics of each column, normalising by them, and the way back.

A batch comes in blocks of rows. `moments` merges the mean and squared deviations of each block into those of earlier
ones (Chan, Golub and LeVeque 1979), in double precision, so that large means cost no digits. `totals` is [2, c]: means,
and sums of squared deviations. Scratch is [3, c].
"""

from __future__ import annotations

import math

import numpy as np

from adam_mp.kernels.compilation import kernel


@kernel("void(R[:,::1], f8[:,::1], R[:,::1], i8)")
def moments(x, totals, scratch, before):
    """Merge the rows of `x` into `totals`, which are those of `before` rows."""
    count, channels = x.shape
    center, sums, squares = scratch[0], scratch[1], scratch[2]
    scratch[:] = 0
    for i in range(count):
        for j in range(channels):
            center[j] += x[i, j]
    for j in range(channels):
        center[j] /= count
    for i in range(count):
        for j in range(channels):
            off = x[i, j] - center[j]
            sums[j] += off
            squares[j] += off * off
    for j in range(channels):
        rest = np.float64(sums[j]) / count
        mean, square = np.float64(center[j]) + rest, np.float64(squares[j]) - rest * rest * count
        if before:
            apart, all_rows = mean - totals[0, j], np.float64(before + count)
            totals[0, j] += apart * (count / all_rows)
            totals[1, j] += square + apart * apart * (before * (count / all_rows))
        else:
            totals[0, j], totals[1, j] = mean, square


@kernel("void(f8[:,::1], i8, f8, R[::1], R[::1])")
def settle(totals, count, epsilon, mean, inverse):
    """`mean` and `inverse = 1 / sqrt(variance + epsilon)` of `count` rows, of the `totals` of all of them."""
    for j in range(mean.size):
        mean[j] = totals[0, j]
        inverse[j] = 1.0 / math.sqrt(totals[1, j] / count + epsilon)


@kernel("void(R[::1], f8, R[::1])")
def invert(variance, epsilon, inverse):
    """`inverse = 1 / sqrt(variance + epsilon)`."""
    for j in range(variance.size):
        inverse[j] = 1.0 / math.sqrt(np.float64(variance[j]) + epsilon)


@kernel("void(R[:,::1], R[::1], R[::1], R[::1], R[::1], R[:,::1], b1)")
def normalize(x, mean, inverse, scale, shift, out, rectify):
    """`out = (x - mean) * inverse * scale + shift`, then `out = max(out, 0)` if `rectify`."""
    for i in range(x.shape[0]):
        if rectify:
            for j in range(x.shape[1]):
                out[i, j] = max((x[i, j] - mean[j]) * (inverse[j] * scale[j]) + shift[j], 0)
        else:
            for j in range(x.shape[1]):
                out[i, j] = (x[i, j] - mean[j]) * (inverse[j] * scale[j]) + shift[j]


@kernel("void(R[:,::1], R[:,::1], R[:,::1], R[::1], R[::1], R[::1], R[::1], b1, b1)")
def error_sums(error, x, out, mean, inverse, scale_gradient, shift_gradient, rectify, accumulate):
    """`scale_gradient = sum of error * (x - mean) * inverse` and `shift_gradient = sum of error`, over the rows.

    They are added to what the arrays hold if `accumulate`. If `rectify`, `error = 0` where `out <= 0`, before that.
    """
    if not accumulate:
        scale_gradient[:] = 0
        shift_gradient[:] = 0
    for i in range(error.shape[0]):
        if rectify:
            for j in range(error.shape[1]):
                error[i, j] = error[i, j] if out[i, j] > 0 else error.dtype.type(0)
        for j in range(error.shape[1]):
            shift_gradient[j] += error[i, j]
            scale_gradient[j] += error[i, j] * ((x[i, j] - mean[j]) * inverse[j])


@kernel("void(R[:,::1], R[:,::1], R[::1], R[::1], R[::1], R[::1], R[::1], i8, R[:,::1])")
def input_error(error, x, mean, inverse, scale, scale_gradient, shift_gradient, count, x_error):
    """The error of the input, where mean and deviation are those of all `count` rows of the batch.

    `x_error = scale * inverse * (error - shift_gradient / count - (x - mean) * inverse * scale_gradient / count)`.
    """
    share = error.dtype.type(1.0 / count)
    for i in range(error.shape[0]):
        for j in range(error.shape[1]):
            even = shift_gradient[j] + (x[i, j] - mean[j]) * inverse[j] * scale_gradient[j]
            x_error[i, j] = scale[j] * inverse[j] * (error[i, j] - even * share)
