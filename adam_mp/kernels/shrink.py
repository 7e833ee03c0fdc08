"""Making a decoded image smaller: each new pixel is the mean of the area that it covers, which prevents aliasing."""

from __future__ import annotations

import numpy as np

from adam_mp.kernels.compilation import kernel


@kernel("void(u1[:,:,::1], u1[:,:,::1], f4[::1])")
def shrink(image, out, line):
    """Write `image` uint8 [h, w, c], made smaller, into `out` uint8 [rows, columns, c]; `line` [w * c] is scratch."""
    height, width, channels = image.shape
    rows, columns, _ = out.shape
    down, across = height / rows, width / columns
    area = np.float32(1.0 / (down * across))
    half = np.float32(0.5)
    flat, target = image.reshape(-1), out.reshape(-1)
    size = np.uint64(width * channels)
    for y in range(rows):
        begin, end = y * down, min((y + 1) * down, float(height))
        for i in range(size):
            line[i] = 0
        first, last = int(begin), min(int(np.ceil(end)), height)
        for source in range(first, last):
            weight = np.float32(min(end, source + 1.0) - max(begin, float(source)))
            at = np.uint64(source) * size
            for i in range(size):
                line[i] += weight * np.float32(flat[at + i])
        for x in range(columns):
            left, right = x * across, min((x + 1) * across, float(width))
            from_x, to_x = int(left), min(int(np.ceil(right)), width)
            place = np.uint64((y * columns + x) * channels)
            for c in range(np.uint64(channels)):
                total = np.float32(0)
                for source in range(from_x, to_x):
                    weight = np.float32(min(right, source + 1.0) - max(left, float(source)))
                    total += weight * line[np.uint64(source * channels) + c]
                target[place + c] = np.uint8(min(total * area + half, np.float32(255)))
