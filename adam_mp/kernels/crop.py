"""The way back from padding: the middle of padded images."""

from __future__ import annotations

import numpy as np

from adam_mp.kernels.compilation import kernel


@kernel("void(R[:,:,:,::1], R[:,:,:,::1], i8)")
def crop_images(padded, images, padding):
    """Copy the middle of `padded` [n, h + 2 padding, w + 2 padding, c] into `images` [n, h, w, c]."""
    count, height, width, channels = images.shape
    source, target = padded.reshape(-1), images.reshape(-1)
    for n in range(count):
        for y in range(height):
            begin = np.uint64((n * height + y) * width * channels)
            line = np.uint64(((n * padded.shape[1] + y + padding) * padded.shape[2] + padding) * channels)
            for k in range(np.uint64(width * channels)):
                target[begin + k] = source[line + k]
