"""Boxes of images: copied between arrays of different sizes, with padding around them. Values go so between partitions.

Images are [n, height, width, channels]. A box has the same rows, columns and channels of every image.
"""

from __future__ import annotations

import numpy as np

from adam_mp.kernels.compilation import kernel


@kernel("void(R[:,:,:,::1], i8, i8, i8, R[:,:,:,::1], i8, i8, i8, i8, i8, i8, b1)")
def copy_box(source, row, column, channel, target, to_row, to_column, to_channel, rows, columns, channels, add):
    """Copy a box of `source` into `target`, or add it to what `target` holds there if `add`.

    The box begins at `row`, `column` and `channel` of source, and at `to_row`, `to_column` and `to_channel` of target;
    it has `rows` x `columns` x `channels` numbers of each image.
    """
    values, places = source.reshape(-1), target.reshape(-1)
    whole = channels == source.shape[3] and channels == target.shape[3]
    count = columns * channels if whole else channels
    stretches = 1 if whole else columns
    for n in range(source.shape[0]):
        for y in range(rows):
            line = (n * source.shape[1] + row + y) * source.shape[2] + column
            to_line = (n * target.shape[1] + to_row + y) * target.shape[2] + to_column
            for x in range(stretches):
                begin = np.uint64((line + x) * source.shape[3] + channel)
                to_begin = np.uint64((to_line + x) * target.shape[3] + to_channel)
                if add:
                    for k in range(np.uint64(count)):
                        places[to_begin + k] += values[begin + k]
                else:
                    for k in range(np.uint64(count)):
                        places[to_begin + k] = values[begin + k]


@kernel("void(R[:,:,:,::1], i8, i8, i8, i8, R)")
def fill_around(images, first_row, end_row, first_column, end_column, value):
    """Set all pixels outside of rows `first_row` to `end_row` and columns `first_column` to `end_column` to `value`."""
    count, height, width, channels = images.shape
    places = images.reshape(-1)
    size = width * channels
    for n in range(count):
        for y in range(height):
            line = np.uint64((n * height + y) * size)
            if y < first_row or y >= end_row:
                for k in range(np.uint64(size)):
                    places[line + k] = value
            else:
                for k in range(np.uint64(first_column * channels)):
                    places[line + k] = value
                for k in range(np.uint64(end_column * channels), np.uint64(size)):
                    places[line + k] = value


@kernel("void(R[::1], R, R[::1], b1)")
def add_share(x, share, total, add):
    """`total = share * x`, added to what `total` holds if `add`; all [n]."""
    if add:
        for i in range(total.size):
            total[i] += share * x[i]
    else:
        for i in range(total.size):
            total[i] = share * x[i]


@kernel("void(f8[:,::1], f8[:,::1], i8[::1], f8[::1], f8[::1])")
def merge_moments(means, squares, pixels, mean, total):
    """Merge the moments of parts of a batch (Chan, Golub and LeVeque 1979), part after part.

    Part p has `pixels[p]` pixels, the mean `means[p]` [channels], and in `squares[p]` the sums of the squares of their
    distances from it. `mean` and `total` [channels] are those of all pixels.
    """
    mean[:] = means[0]
    total[:] = squares[0]
    known = float(pixels[0])
    for part in range(1, len(pixels)):
        count = float(pixels[part])
        weight = count / (known + count)
        for j in range(mean.size):
            apart = means[part, j] - mean[j]
            total[j] += squares[part, j] + apart * apart * known * weight
            mean[j] += apart * weight
        known += count


@kernel("void(f8[:,:,::1], f8[:,::1])")
def sum_of_parts(parts, total):
    """`total` [m, n] `= sum over p of parts[:, p]` [m, parts, n], in the order of the parts."""
    total[:] = parts[:, 0]
    for part in range(1, parts.shape[1]):
        total += parts[:, part]
