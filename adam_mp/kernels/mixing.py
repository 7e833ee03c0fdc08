"""Mixing each image of a batch with its partner, the image as far from the batch's other end, in place.

The images of a pair change together, so that no copy of the batch is needed. The middle image of an odd number is its
own partner, and stays as it is.
"""

from __future__ import annotations

import numpy as np

from adam_mp.kernels.compilation import kernel


@kernel("void(f4[:,:,:,::1], f8)")
def blend_images(images, mixed):
    """`images[i] = (1 - mixed) * images[i] + mixed * images[n - 1 - i]`, of the images as they were; [n, h, w, c]."""
    count, flat = images.shape[0], images.reshape(-1)
    size = np.uint64(images.shape[1] * images.shape[2] * images.shape[3])
    taken, kept = np.float32(mixed), np.float32(1.0 - mixed)
    for i in range(np.uint64(count // 2)):
        begin, partner = i * size, (np.uint64(count - 1) - i) * size
        for k in range(size):
            first, second = flat[begin + k], flat[partner + k]
            flat[begin + k] = kept * first + taken * second
            flat[partner + k] = kept * second + taken * first


@kernel("void(f4[:,:,:,::1], i8, i8, i8, i8)")
def exchange_rectangle(images, top, bottom, left, right):
    """Exchange rows `top:bottom`, columns `left:right` between images i and n - 1 - i; images [n, h, w, c]."""
    count, height, width, channels = images.shape
    flat, line = images.reshape(-1), np.uint64((right - left) * channels)
    for i in range(count // 2):
        for y in range(top, bottom):
            begin = np.uint64(((i * height + y) * width + left) * channels)
            partner = np.uint64((((count - 1 - i) * height + y) * width + left) * channels)
            for k in range(line):
                first = flat[begin + k]
                flat[begin + k] = flat[partner + k]
                flat[partner + k] = first
