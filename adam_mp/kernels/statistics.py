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
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    value = np.float64(image[y, x, c])
                    moments[0, c] += value
                    moments[1, c] += value * value
    total = max(1, samples.size * height * width)
    for c in range(channels):
        mean = moments[0, c] / total
        moments[0, c] = mean
        moments[1, c] = np.sqrt(max(moments[1, c] / total - mean * mean, 0.0))
