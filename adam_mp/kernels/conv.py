"""Convolution as matrix multiplication over the patches of a block of images (im2col).

A patch row holds the `kernel * kernel * channels` inputs under one output pixel, in the order of the weight rows, so
that forward, weight gradient and input gradient are one `gemm` each. Blocks are chosen by the caller such that the
patches of a block stay in the L2 cache between being written and being multiplied.

Inner loops count with unsigned numbers: with signed ones numba also compiles Python's negative indices, and they no
longer vectorise (measured: 18 against 1.3 microseconds for the patches of 12x12x24 pixels).
"""

from __future__ import annotations

import numpy as np

from adam_mp.kernels.blas import gemm
from adam_mp.kernels.compilation import inline, kernel


@inline
def _clip(first, size, limit):
    """Return which of the `size` positions from `first` on lie in 0 .. limit - 1, as a range of offsets."""
    return min(max(0, -first), size), max(min(size, limit - first), min(max(0, -first), size))


@inline
def _spans(begin, end, size, channels):
    """Return how many numbers of a patch's row lie before, inside and after the image, unsigned."""
    return np.uint64(begin * channels), np.uint64((end - begin) * channels), np.uint64((size - end) * channels)


@kernel("void(R[:,:,:,::1], R[:,::1], i8, i8, i8)")
def gather_patches(images, patches, size, stride, padding):
    """Copy the patches of `images` [n, h, w, c] into `patches` [n * out_h * out_w, size * size * c]."""
    count, height, width, channels = images.shape
    out_height = (height + 2 * padding - size) // stride + 1
    out_width = (width + 2 * padding - size) // stride + 1
    source, target = images.reshape(-1), patches.reshape(-1)
    at = np.uint64(0)
    for n in range(count):
        for y in range(out_height):
            for x in range(out_width):
                left = x * stride - padding
                begin, end = _clip(left, size, width)
                before, inside, after = _spans(begin, end, size, channels)
                for i in range(size):
                    row = y * stride - padding + i
                    if row < 0 or row >= height:
                        for k in range(before + inside + after):
                            target[at + k] = 0
                    else:
                        start = np.uint64(((n * height + row) * width + left + begin) * channels)
                        for k in range(before):
                            target[at + k] = 0
                        for k in range(inside):
                            target[at + before + k] = source[start + k]
                        for k in range(after):
                            target[at + before + inside + k] = 0
                    at += before + inside + after


@kernel("void(R[:,::1], R[:,:,:,::1], i8, i8, i8)")
def scatter_patches(patches, images, size, stride, padding):
    """Add up `patches` into the pixels they were gathered from; `images` is overwritten. Transpose of gathering."""
    count, height, width, channels = images.shape
    out_height = (height + 2 * padding - size) // stride + 1
    out_width = (width + 2 * padding - size) // stride + 1
    source, target = patches.reshape(-1), images.reshape(-1)
    images[:] = 0
    at = np.uint64(0)
    for n in range(count):
        for y in range(out_height):
            for x in range(out_width):
                left = x * stride - padding
                begin, end = _clip(left, size, width)
                before, inside, after = _spans(begin, end, size, channels)
                for i in range(size):
                    row = y * stride - padding + i
                    if 0 <= row < height:
                        start = np.uint64(((n * height + row) * width + left + begin) * channels)
                        for k in range(inside):
                            target[start + k] += source[at + before + k]
                    at += before + inside + after


@kernel("void(R[:,:,:,::1], R[:,::1], i8, i8, i8)")
def gather_columns(images, columns, size, stride, padding):
    """Copy the patches of one-channel `images` [n, h, w, 1] into `columns` [size * size, n * out_h * out_w].

    The transpose of what `gather_patches` makes. With one channel the runs there have `size` numbers, here `out_w`.
    """
    count, height, width, _ = images.shape
    out_height = (height + 2 * padding - size) // stride + 1
    out_width = (width + 2 * padding - size) // stride + 1
    source, target = images.reshape(-1), columns.reshape(-1)
    at, step = np.uint64(0), np.uint64(stride)
    for i in range(size):
        for j in range(size):
            # The outputs whose input column exists: 0 <= x * stride + j - padding < width.
            first = min(out_width, max(0, (padding - j + stride - 1) // stride))
            last = max(first, min(out_width, (width + padding - j + stride - 1) // stride))
            before, inside, after = _spans(first, last, out_width, 1)
            for n in range(count):
                for y in range(out_height):
                    row = y * stride + i - padding
                    if row < 0 or row >= height:
                        for k in range(before + inside + after):
                            target[at + k] = 0
                    else:
                        start = np.uint64((n * height + row) * width + first * stride + j - padding)
                        for k in range(before):
                            target[at + k] = 0
                        if stride == 1:
                            for k in range(inside):
                                target[at + before + k] = source[start + k]
                        else:
                            for k in range(inside):
                                target[at + before + k] = source[start + k * step]
                        for k in range(after):
                            target[at + before + inside + k] = 0
                    at += before + inside + after


@kernel("void(R[:,::1], R[:,:,:,::1], i8, i8, i8)")
def scatter_columns(columns, images, size, stride, padding):
    """Add up `columns` into the pixels they were gathered from; `images` [n, h, w, 1] is overwritten."""
    count, height, width, _ = images.shape
    out_height = (height + 2 * padding - size) // stride + 1
    out_width = (width + 2 * padding - size) // stride + 1
    source, target = columns.reshape(-1), images.reshape(-1)
    images[:] = 0
    at, step = np.uint64(0), np.uint64(stride)
    for i in range(size):
        for j in range(size):
            first = min(out_width, max(0, (padding - j + stride - 1) // stride))
            last = max(first, min(out_width, (width + padding - j + stride - 1) // stride))
            before, inside, after = _spans(first, last, out_width, 1)
            for n in range(count):
                for y in range(out_height):
                    row = y * stride + i - padding
                    if 0 <= row < height:
                        start = np.uint64((n * height + row) * width + first * stride + j - padding)
                        for k in range(inside):
                            target[start + k * step] += source[at + before + k]
                    at += before + inside + after


@kernel("void(R[:,:,:,::1], R[:,::1], R[:,::1], R[:,::1], i8, i8, i8)")
def conv_forward(images, weight, patches, out, size, stride, padding):
    """`out = patches(images) @ weight`, without the bias.

    The patches stay in `patches` [rows, size * size * channels], transposed where there is one channel.
    """
    if images.shape[3] == 1:
        columns = patches.reshape(patches.shape[1], patches.shape[0])
        gather_columns(images, columns, size, stride, padding)
        gemm(columns, True, weight, False, 1, 0, out)
    else:
        gather_patches(images, patches, size, stride, padding)
        gemm(patches, False, weight, False, 1, 0, out)


@kernel("void(R[:,:,:,::1], R[:,::1], R[:,::1], R[:,::1], i8, i8, i8, b1, R)")
def conv_backward_weight(images, patches, error, gradient, size, stride, padding, gather, beta):
    """`gradient = beta * gradient + patches(images).T @ error`; gathers the patches first where `gather` says so."""
    if images.shape[3] == 1:
        columns = patches.reshape(patches.shape[1], patches.shape[0])
        if gather:
            gather_columns(images, columns, size, stride, padding)
        gemm(columns, False, error, False, 1, beta, gradient)
    else:
        if gather:
            gather_patches(images, patches, size, stride, padding)
        gemm(patches, True, error, False, 1, beta, gradient)


@kernel("void(R[:,::1], R[:,::1], R[:,::1], R[:,:,:,::1], i8, i8, i8)")
def conv_backward_input(error, weight, patches, image_error, size, stride, padding):
    """Error of the input images from the error of the outputs: `error @ weight.T`, added up over the patches."""
    if image_error.shape[3] == 1:
        columns = patches.reshape(patches.shape[1], patches.shape[0])
        gemm(weight, False, error, True, 1, 0, columns)
        scatter_columns(columns, image_error, size, stride, padding)
    else:
        gemm(error, False, weight, True, 1, 0, patches)
        scatter_patches(patches, image_error, size, stride, padding)
