"""Group normalisation (Wu and He 2018) and layer normalisation (Ba et al. 2016): statistics of one image alone.

A group has neighbouring channels, and its mean and variance are those over all its pixels and channels of one image.
Layer normalisation takes the channels of each pixel. Both compute
`out = (x - mean) / sqrt(variance + epsilon) * gamma + beta`.

Shapes: x, out and errors of images [n, pixels, channels], of rows [rows, channels]; gamma, beta and their gradients
[channels].
"""

from __future__ import annotations

import math

from adam_mp.kernels.batch_norm import add_error_sums, add_moments, norm_backward, scale_channels
from adam_mp.kernels.compilation import kernel


@kernel("void(R[:,:,::1], R[::1], R[::1], R[:,:,::1], R[:,:,::1], f8[:,::1], R[:,::1], i8, f8, b1)")
def group_norm_forward(x, gamma, beta, out, factors, sums, scratch, groups, epsilon, rectify):
    """Normalise each group of channels of each image, then `out = max(out, 0)` if `rectify`.

    `factors` [n, 4, channels] keeps scale, offset, mean and 1 / deviation for the backward pass. `sums` and `scratch`
    are [2, channels].
    """
    count, pixels, channels = x.shape
    width = channels // groups
    for n in range(count):
        add_moments(x[n], sums[0], sums[1], 0, scratch)
        for group in range(groups):
            begin = group * width
            mean, square = 0.0, 0.0
            for j in range(begin, begin + width):
                mean += sums[0, j]
            mean /= width
            for j in range(begin, begin + width):
                apart = sums[0, j] - mean
                square += sums[1, j] + pixels * apart * apart
            one = 1.0 / math.sqrt(square / (pixels * width) + epsilon)
            for j in range(begin, begin + width):
                factors[n, 0, j] = gamma[j] * one
                factors[n, 1, j] = beta[j] - mean * gamma[j] * one
                factors[n, 2, j] = mean
                factors[n, 3, j] = one
        scale_channels(x[n], factors[n, 0], factors[n, 1], out[n], rectify)


@kernel(
    "void(R[:,:,::1], R[:,:,::1], R[::1], R[:,:,::1], R[::1], R[::1], R[:,:,::1], f8[:,::1], R[:,::1], i8, b1, b1, b1)"
)
def group_norm_backward(error, x, gamma, factors, gamma_gradient, beta_gradient, x_error, sums, scratch, groups,
                        rectify, accumulate, adds):  # fmt: skip
    """The backward pass; the gradients are added to what they hold if `accumulate`, the errors of x if `adds`.

    `factors` is as the forward pass left it. `sums` and `scratch` are [2, channels].
    """
    count, pixels, channels = x.shape
    width = channels // groups
    if not accumulate:
        gamma_gradient[:] = 0
        beta_gradient[:] = 0
    slope, level = scratch[0], scratch[1]
    for n in range(count):
        scale, offset, middle, inverse = factors[n, 0], factors[n, 1], factors[n, 2], factors[n, 3]
        add_error_sums(error[n], x[n], scale, offset, middle, inverse, sums[0], sums[1], rectify, False, scratch)
        for group in range(groups):
            begin = group * width
            plain, times = 0.0, 0.0
            for j in range(begin, begin + width):
                beta_gradient[j] += sums[0, j]
                gamma_gradient[j] += sums[1, j]
                plain += gamma[j] * sums[0, j]
                times += gamma[j] * sums[1, j]
            one, mean = float(inverse[begin]), float(middle[begin])
            tilt = -one * one * times / (pixels * width)
            for j in range(begin, begin + width):
                slope[j] = tilt
                level[j] = -one * plain / (pixels * width) - tilt * mean
        norm_backward(error[n], x[n], scale, offset, slope, level, x_error[n], rectify, adds)


@kernel("void(R[:,::1], R[::1], R[::1], R[:,::1], R[:,::1], f8)")
def layer_norm_forward(x, gamma, beta, out, factors, epsilon):
    """Normalise each row. `factors` [2, rows] keeps mean and 1 / deviation for the backward pass."""
    rows, channels = x.shape
    real = x.dtype.type
    for i in range(rows):
        total = real(0)
        for j in range(channels):
            total += x[i, j]
        mean = total / channels
        square = real(0)
        for j in range(channels):
            square += (x[i, j] - mean) * (x[i, j] - mean)
        one = real(1.0 / math.sqrt(square / channels + epsilon))
        factors[0, i], factors[1, i] = mean, one
        for j in range(channels):
            out[i, j] = (x[i, j] - mean) * one * gamma[j] + beta[j]


@kernel("void(R[:,::1], R[:,::1], R[::1], R[:,::1], R[::1], R[::1], R[:,::1], b1, b1)")
def layer_norm_backward(error, x, gamma, factors, gamma_gradient, beta_gradient, x_error, accumulate, adds):
    """The backward pass; the gradients are added to what they hold if `accumulate`, the errors of x if `adds`."""
    rows, channels = x.shape
    real = x.dtype.type
    if not accumulate:
        gamma_gradient[:] = 0
        beta_gradient[:] = 0
    for i in range(rows):
        mean, one = factors[0, i], factors[1, i]
        plain, times = real(0), real(0)
        for j in range(channels):
            normal = (x[i, j] - mean) * one
            slope = error[i, j] * gamma[j]
            plain += slope
            times += slope * normal
            beta_gradient[j] += error[i, j]
            gamma_gradient[j] += error[i, j] * normal
        plain /= channels
        times /= channels
        for j in range(channels):
            value = one * (error[i, j] * gamma[j] - plain - (x[i, j] - mean) * one * times)
            x_error[i, j] = value + x_error[i, j] if adds else value
