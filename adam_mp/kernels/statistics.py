"""Mean and standard deviation of a data set's channels, for normalisation."""

from __future__ import annotations

import numpy as np

from adam_mp.kernels.compilation import kernel


@kernel("void(u1[:,:,:,::1], i8[::1], f8[:,::1])", "void(f4[:,:,:,::1], i8[::1], f8[:,::1])")
def channel_moments(images, samples, moments):
    """Set `moments` [2, c] to mean and standard deviation of each channel, over `images[samples]`.

    `images` is [n, h, w, c].
    """
    _, height, width, channels = images.shape
    moments[:] = 0
    for k in range(samples.size):
        image = images[samples[k]]
        for c in range(channels):
            total = 0.0
            squares = 0.0
            for y in range(height):
                for x in range(width):
                    value = np.float64(image[y, x, c])
                    total += value
                    squares += value * value
            moments[0, c] += total
            moments[1, c] += squares
    pixels = max(1, samples.size * height * width)
    for c in range(channels):
        mean = moments[0, c] / pixels
        moments[0, c] = mean
        moments[1, c] = np.sqrt(max(moments[1, c] / pixels - mean * mean, 0.0))
