"""Max and average pooling, and the fused pass bias + max-pool + ReLU over a convolution's output.

`choice` remembers, for each pooled value, which position of its window won (row-major, the first among equals), so
that the way back needs neither the input nor a second search.
"""

from __future__ import annotations

from adam_mp.kernels.compilation import kernel


@kernel("void(R[:,:,:,::1], R[::1], R[:,:,:,::1], u1[:,:,:,::1], i8, i8, b1)")
def max_pool_forward(x, bias, out, choice, size, stride, rectify):
    """`out = max over size x size windows of x + bias`, then `max(out, 0)` if `rectify`; an empty bias is 0."""
    count, out_height, out_width, channels = out.shape
    for n in range(count):
        for y in range(out_height):
            for z in range(out_width):
                best, won = out[n, y, z], choice[n, y, z]
                first = x[n, y * stride, z * stride]
                for c in range(channels):
                    best[c] = first[c]
                    won[c] = 0
                for i in range(size):
                    for j in range(size):
                        position = i * size + j
                        candidate = x[n, y * stride + i, z * stride + j]
                        for c in range(channels):
                            if candidate[c] > best[c]:
                                best[c] = candidate[c]
                                won[c] = position
                if bias.size:
                    for c in range(channels):
                        best[c] += bias[c]
                if rectify:
                    for c in range(channels):
                        best[c] = max(best[c], 0)


@kernel("void(R[:,:,:,::1], R[:,:,:,::1], u1[:,:,:,::1], R[:,:,:,::1], R[::1], i8, i8, b1, b1)")
def max_pool_backward(error, out, choice, x_error, bias_gradient, size, stride, rectify, accumulate):
    """Send each error to the winner of its window; `x_error` is overwritten.

    Errors of outputs that `rectify` cut are dropped. What passes is also summed into `bias_gradient`, unless empty.
    """
    count, out_height, out_width, channels = out.shape
    x_error[:] = 0
    if not accumulate:
        bias_gradient[:] = 0
    for n in range(count):
        for y in range(out_height):
            for z in range(out_width):
                for c in range(channels):
                    if rectify and not out[n, y, z, c] > 0:
                        continue
                    value = error[n, y, z, c]
                    won = choice[n, y, z, c]
                    x_error[n, y * stride + won // size, z * stride + won % size, c] += value
                    if bias_gradient.size:
                        bias_gradient[c] += value


@kernel("void(R[:,:,:,::1], R[:,:,:,::1], i8, i8)")
def average_pool_forward(x, out, size, stride):
    """`out = mean over size x size windows of x`."""
    count, out_height, out_width, channels = out.shape
    share = out.dtype.type(1) / (size * size)
    for n in range(count):
        for y in range(out_height):
            for z in range(out_width):
                mean = out[n, y, z]
                mean[:] = 0
                for i in range(size):
                    for j in range(size):
                        for c in range(channels):
                            mean[c] += x[n, y * stride + i, z * stride + j, c] * share


@kernel("void(R[:,:,:,::1], R[:,:,:,::1], i8, i8)")
def average_pool_backward(error, x_error, size, stride):
    """Share each error equally among its window; `x_error` is overwritten."""
    count, out_height, out_width, channels = error.shape
    share = error.dtype.type(1) / (size * size)
    x_error[:] = 0
    for n in range(count):
        for y in range(out_height):
            for z in range(out_width):
                for i in range(size):
                    for j in range(size):
                        for c in range(channels):
                            x_error[n, y * stride + i, z * stride + j, c] += error[n, y, z, c] * share
