"""Dropout (Srivastava et al. 2014) of values and of whole images, scaled so that evaluation needs no change."""

from __future__ import annotations

import numpy as np

from adam_mp.kernels.compilation import kernel
from adam_mp.kernels.random import mix, uniform


@kernel("void(R[::1], R, u8[::1], u8, u8)")
def draw_mask(mask, rate, key, layer, start):
    """Set each value of `mask` [n] to 0 with probability `rate`, else to `1 / (1 - rate)`; mask[0] is at `start`."""
    kept = mask.dtype.type(1) / (1 - rate)
    stream = mix(key[0], layer)
    for i in range(mask.size):
        mask[i] = kept if uniform(stream, start + np.uint64(i)) >= rate else mask.dtype.type(0)


@kernel("void(R[:,::1], R[:,::1], R[:,::1], R, u8[::1], u8, u8, i8, u8, u8)")
def dropout_forward(x, out, mask, rate, key, layer, start, pixels, of_image, of_pixel):
    """`out = x * mask`, where a mask value is 0 with probability `rate`, else `1 / (1 - rate)`; all [n * pixels, m].

    A draw depends on `key[0]` (the batch), on `layer`, and on the value's position in the whole batch: x[0, 0] is at
    `start`, the next pixel `of_pixel` behind it, the next image, `pixels` pixels later, `of_image` behind it.
    """
    kept = mask.dtype.type(1) / (1 - rate)
    stream = mix(key[0], layer)
    for n in range(x.shape[0] // pixels):
        for p in range(pixels):
            i = n * pixels + p
            begin = start + np.uint64(n) * of_image + np.uint64(p) * of_pixel
            for j in range(x.shape[1]):
                mask[i, j] = kept if uniform(stream, begin + np.uint64(j)) >= rate else mask.dtype.type(0)
                out[i, j] = x[i, j] * mask[i, j]


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
