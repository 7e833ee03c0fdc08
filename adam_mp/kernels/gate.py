"""Activation functions that let a part of each value through: `x * gate(x)`, and leaky or limited ReLU.

Each kernel is one pass over its arrays, all [n]. The backward passes of `leaky` and `relu6` read the output, the others
the input.
"""

from __future__ import annotations

import math

from adam_mp.kernels.compilation import kernel
from adam_mp.kernels.exponential import error_function, exponential

_ROOT_HALF = math.sqrt(0.5)
_DENSITY = 1.0 / math.sqrt(2.0 * math.pi)  # of the normal distribution at 0


@kernel("void(R[::1], R[::1], R)")
def leaky_forward(x, out, slope):
    """`out = x` where `x > 0`, else `slope * x`."""
    for i in range(x.size):
        out[i] = x[i] if x[i] > 0 else slope * x[i]


@kernel("void(R[::1], R[::1], R[::1], R)")
def leaky_backward(error, out, x_error, slope):
    """`x_error = error` where `out > 0`, else `slope * error`; slope > 0."""
    for i in range(error.size):
        x_error[i] = error[i] if out[i] > 0 else slope * error[i]


@kernel("void(R[::1], R[::1])")
def relu6_forward(x, out):
    """`out = min(max(x, 0), 6)`; NaN stays NaN."""
    for i in range(x.size):
        value = max(x[i], 0)
        out[i] = x.dtype.type(6) if value > 6 else value


@kernel("void(R[::1], R[::1], R[::1])")
def relu6_backward(error, out, x_error):
    """`x_error = error` where `0 < out < 6`, else 0."""
    for i in range(error.size):
        x_error[i] = error[i] if 0 < out[i] < 6 else error.dtype.type(0)


@kernel("void(R[::1], R[::1])")
def hard_swish_forward(x, out):
    """`out = x * min(max(x + 3, 0), 6) / 6`."""
    sixth = x.dtype.type(1.0 / 6.0)
    zero, six = x.dtype.type(0), x.dtype.type(6)
    for i in range(x.size):
        gate = x[i] + 3
        gate = zero if gate < 0 else gate
        gate = six if gate > 6 else gate
        out[i] = x[i] * gate * sixth


@kernel("void(R[::1], R[::1], R[::1])")
def hard_swish_backward(error, x, x_error):
    """`x_error = error * (2 x + 3) / 6` where `-3 < x < 3`; `error` above, 0 below."""
    third, half = x.dtype.type(1.0 / 3.0), x.dtype.type(0.5)
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for i in range(error.size):
        slope = x[i] * third + half
        slope = one if x[i] >= 3 else slope
        slope = zero if x[i] <= -3 else slope
        x_error[i] = error[i] * slope


@kernel("void(R[::1], R[::1])")
def silu_forward(x, out):
    """`out = x / (1 + exp(-x))`."""
    one = x.dtype.type(1)
    for i in range(x.size):
        out[i] = x[i] / (one + exponential(-x[i]))


@kernel("void(R[::1], R[::1], R[::1])")
def silu_backward(error, x, x_error):
    """`x_error = error * s * (1 + x * (1 - s))`, where `s = 1 / (1 + exp(-x))`."""
    one = x.dtype.type(1)
    for i in range(error.size):
        share = one / (one + exponential(-x[i]))
        x_error[i] = error[i] * share * (one + x[i] * (one - share))


@kernel("void(R[::1], R[::1])")
def gelu_forward(x, out):
    """`out = x * P(x)`, where P is the normal distribution: `(1 + erf(x / sqrt(2))) / 2`."""
    half, one, root = x.dtype.type(0.5), x.dtype.type(1), x.dtype.type(_ROOT_HALF)
    for i in range(x.size):
        out[i] = x[i] * half * (one + error_function(x[i] * root))


@kernel("void(R[::1], R[::1], R[::1])")
def gelu_backward(error, x, x_error):
    """`x_error = error * (P(x) + x * p(x))`, where p is the density of the normal distribution."""
    half, one, root = x.dtype.type(0.5), x.dtype.type(1), x.dtype.type(_ROOT_HALF)
    density = x.dtype.type(_DENSITY)
    for i in range(error.size):
        share = half * (one + error_function(x[i] * root))
        x_error[i] = error[i] * (share + x[i] * density * exponential(-half * x[i] * x[i]))
