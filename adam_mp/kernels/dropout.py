"""Dropout (Srivastava et al. 2014) of values and of whole images, scaled so that evaluation needs no change."""

from __future__ import annotations

import numpy as np

from adam_mp.kernels.compilation import kernel
from adam_mp.kernels.random import mix, uniform


@kernel("void(R[::1], R, u8[::1], u8, u8)")
def draw_mask(mask, rate, key, layer, start):
    """Set each value of `mask` [n] to 0 with probability `rate`, else to `1 / (1 - rate)`; see `dropout_forward`."""
    kept = mask.dtype.type(1) / (1 - rate)
    stream = mix(key[0], layer)
    for i in range(mask.size):
        mask[i] = kept if uniform(stream, start + np.uint64(i)) >= rate else mask.dtype.type(0)


@kernel("void(R[::1], R[::1], R[::1], R, u8[::1], u8, u8)")
def dropout_forward(x, out, mask, rate, key, layer, start):
    """`out = x * mask`, where a mask value is 0 with probability `rate`, else `1 / (1 - rate)`; all [n].

    A draw depends on `key[0]` (the batch), on `layer`, and on the value's position in the whole batch: x[0] is at
    `start`.
    """
    draw_mask(mask, rate, key, layer, start)
    for i in range(x.size):
        out[i] = x[i] * mask[i]


@kernel("void(R[::1], R[::1], R[::1])")
def dropout_backward(error, mask, x_error):
    """`x_error = error * mask`; all [n]."""
    for i in range(error.size):
        x_error[i] = error[i] * mask[i]


@kernel("void(R[:,::1], R[::1], R[:,::1])")
def scale_images(x, factors, out):
    """`out = x * factors`, with a factor for each image; x and out [n, m], factors [n]."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = x[i, j] * factors[i]
