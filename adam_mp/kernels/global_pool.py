"""Average pooling over whole images: from [n, pixels, c] to [n, c]."""

from __future__ import annotations

import numpy as np

from adam_mp.kernels.compilation import kernel


@kernel("void(R[:,:,::1], R[:,::1])")
def global_average_forward(x, out):
    """`out = mean of x over the pixels`."""
    share = out.dtype.type(1.0 / x.shape[1])
    source, target = x.reshape(-1), out.reshape(-1)
    channels = np.uint64(x.shape[2])
    for n in range(x.shape[0]):
        row = np.uint64(n) * channels
        for c in range(channels):
            target[row + c] = 0
        for pixel in range(x.shape[1]):
            begin = (np.uint64(n * x.shape[1]) + np.uint64(pixel)) * channels
            for c in range(channels):
                target[row + c] += source[begin + c]
        for c in range(channels):
            target[row + c] *= share


@kernel("void(R[:,::1], R[:,:,::1])")
def global_average_backward(error, x_error):
    """`x_error = error / pixels` at each pixel."""
    share = error.dtype.type(1.0 / x_error.shape[1])
    source, target = error.reshape(-1), x_error.reshape(-1)
    channels = np.uint64(x_error.shape[2])
    for n in range(x_error.shape[0]):
        row = np.uint64(n) * channels
        for pixel in range(x_error.shape[1]):
            begin = (np.uint64(n * x_error.shape[1]) + np.uint64(pixel)) * channels
            for c in range(channels):
                target[begin + c] = source[row + c] * share
