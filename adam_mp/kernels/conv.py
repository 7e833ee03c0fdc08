"""Convolution as matrix multiplication over the patches of a block of images (im2col).

A patch row holds the `kernel * kernel * channels` inputs under one output pixel, in the order of the weight rows, so
that forward, weight gradient and input gradient are one `gemm` each. Blocks are chosen by the caller such that the
patches of a block stay in the L2 cache between being written and being multiplied.
"""

from __future__ import annotations

from adam_mp.kernels.blas import gemm
from adam_mp.kernels.compilation import kernel


@kernel("void(R[:,:,:,::1], R[:,::1], i8, i8, i8)")
def gather_patches(images, patches, size, stride, padding):
    """Copy the patches of `images` [n, h, w, c] into `patches` [n * out_h * out_w, size * size * c]."""
    count, height, width, channels = images.shape
    out_height = (height + 2 * padding - size) // stride + 1
    out_width = (width + 2 * padding - size) // stride + 1
    span = size * channels
    row = 0
    for n in range(count):
        for y in range(out_height):
            top = y * stride - padding
            for x in range(out_width):
                left = x * stride - padding
                patch = patches[row]
                row += 1
                if top >= 0 and left >= 0 and top + size <= height and left + size <= width:
                    for i in range(size):
                        source = images[n, top + i].reshape(width * channels)
                        start = left * channels
                        for j in range(span):
                            patch[i * span + j] = source[start + j]
                    continue
                for i in range(size):
                    for j in range(size):
                        inside = 0 <= top + i < height and 0 <= left + j < width
                        for c in range(channels):
                            at = i * span + j * channels + c
                            patch[at] = images[n, top + i, left + j, c] if inside else 0


@kernel("void(R[:,::1], R[:,:,:,::1], i8, i8, i8)")
def scatter_patches(patches, images, size, stride, padding):
    """Add up `patches` into the pixels they were gathered from; `images` is overwritten. Transpose of gathering."""
    count, height, width, channels = images.shape
    out_height = (height + 2 * padding - size) // stride + 1
    out_width = (width + 2 * padding - size) // stride + 1
    span = size * channels
    images[:] = 0
    row = 0
    for n in range(count):
        for y in range(out_height):
            top = y * stride - padding
            for x in range(out_width):
                left = x * stride - padding
                patch = patches[row]
                row += 1
                if top >= 0 and left >= 0 and top + size <= height and left + size <= width:
                    for i in range(size):
                        target = images[n, top + i].reshape(width * channels)
                        start = left * channels
                        for j in range(span):
                            target[start + j] += patch[i * span + j]
                    continue
                for i in range(size):
                    for j in range(size):
                        if 0 <= top + i < height and 0 <= left + j < width:
                            for c in range(channels):
                                images[n, top + i, left + j, c] += patch[i * span + j * channels + c]


@kernel("void(R[:,:,:,::1], R[:,::1], i8, i8, i8)")
def gather_columns(images, columns, size, stride, padding):
    """Copy the patches of one-channel `images` [n, h, w, 1] into `columns` [size * size, n * out_h * out_w].

    The transpose of what `gather_patches` makes. With one channel the runs there have `size` numbers, here `out_w`.
    """
    count, height, width, _ = images.shape
    out_height = (height + 2 * padding - size) // stride + 1
    out_width = (width + 2 * padding - size) // stride + 1
    for i in range(size):
        for j in range(size):
            target = columns[i * size + j]
            # The outputs whose input column exists: 0 <= x * stride + j - padding < width.
            first = min(out_width, max(0, (padding - j + stride - 1) // stride))
            last = max(first, min(out_width, (width + padding - j + stride - 1) // stride))
            at = 0
            for n in range(count):
                for y in range(out_height):
                    row = y * stride + i - padding
                    if row < 0 or row >= height:
                        for x in range(out_width):
                            target[at + x] = 0
                    else:
                        source = images[n, row].reshape(width)
                        for x in range(first):
                            target[at + x] = 0
                        if stride == 1:
                            for x in range(first, last):
                                target[at + x] = source[x + j - padding]
                        else:
                            for x in range(first, last):
                                target[at + x] = source[x * stride + j - padding]
                        for x in range(last, out_width):
                            target[at + x] = 0
                    at += out_width


@kernel("void(R[:,::1], R[:,:,:,::1], i8, i8, i8)")
def scatter_columns(columns, images, size, stride, padding):
    """Add up `columns` into the pixels they were gathered from; `images` [n, h, w, 1] is overwritten."""
    count, height, width, _ = images.shape
    out_height = (height + 2 * padding - size) // stride + 1
    out_width = (width + 2 * padding - size) // stride + 1
    images[:] = 0
    for i in range(size):
        for j in range(size):
            at = 0
            for n in range(count):
                for y in range(out_height):
                    row = y * stride + i - padding
                    if 0 <= row < height:
                        for x in range(out_width):
                            column = x * stride + j - padding
                            if 0 <= column < width:
                                images[n, row, column, 0] += columns[i * size + j, at + x]
                    at += out_width


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
