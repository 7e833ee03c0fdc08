"""Local response normalisation across neighbouring channels (Krizhevsky et al. 2012, section 3.3)."""

from __future__ import annotations

from adam_mp.kernels.compilation import kernel


@kernel("void(R[:,::1], R[:,::1], R[:,::1], i8, R, R, R)")
def local_response_forward(x, out, scale, size, alpha, beta, offset):
    """`scale = offset + alpha / size * s; out = x / scale ** beta`; all [pixels, channels].

    s is the sum of the squares of `size` neighbouring channels: from c - size // 2 on for channel c.
    """
    rows, channels = x.shape
    half = size // 2
    for i in range(rows):
        for c in range(channels):
            total = x.dtype.type(0)
            for k in range(max(0, c - half), min(channels, c - half + size)):
                total += x[i, k] * x[i, k]
            scale[i, c] = offset + alpha / size * total
            out[i, c] = x[i, c] * scale[i, c] ** -beta


@kernel("void(R[:,::1], R[:,::1], R[:,::1], R[:,::1], R[:,::1], i8, R, R)")
def local_response_backward(error, x, out, scale, x_error, size, alpha, beta):
    """The error of the input, all [pixels, channels]: an input acts on its own output and, by `scale`, on neighbours'.

    `x_error[c] = error[c] / scale[c] ** beta - 2 * alpha * beta / size * x[c] * sum of error * out / scale`, over the
    outputs whose channels include c.
    """
    rows, channels = x.shape
    half = size // 2
    for i in range(rows):
        for c in range(channels):
            shared = x.dtype.type(0)
            # The outputs whose window covers channel c: those k with k - half <= c < k - half + size.
            for k in range(max(0, c + half - size + 1), min(channels, c + half + 1)):
                shared += error[i, k] * out[i, k] / scale[i, k]
            x_error[i, c] = error[i, c] * scale[i, c] ** -beta - 2 * alpha * beta / size * x[i, c] * shared
