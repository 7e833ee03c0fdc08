"""Update rules: one pass over the flat space of weights, gradients and optimizer state, in place, with no lock.

`hyper` is `[lr, weight_decay, momentum, beta1, beta2, epsilon, step]`. Weight decay adds `weight_decay * w` to the
gradient (L2), except in `adamw`, where it shrinks the weights directly.
"""

from __future__ import annotations

import math

import numpy as np

from adam_mp.kernels.compilation import kernel

HYPER = ("lr", "weight_decay", "momentum", "beta1", "beta2", "epsilon", "step")


@kernel("void(R[::1], R[::1], f8[::1])")
def sgd(w, g, hyper):
    """`w -= lr * (g + weight_decay * w)`."""
    real = w.dtype.type
    lr, decay = real(hyper[0]), real(hyper[1])
    for i in range(w.size):
        w[i] -= lr * (g[i] + decay * w[i])


@kernel("void(R[::1], R[::1], R[::1], f8[::1])")
def momentum(w, g, v, hyper):
    """`v = momentum * v + g; w -= lr * v` (Polyak's heavy ball)."""
    real = w.dtype.type
    lr, decay, keep = real(hyper[0]), real(hyper[1]), real(hyper[2])
    for i in range(w.size):
        speed = keep * v[i] + g[i] + decay * w[i]
        v[i] = speed
        w[i] -= lr * speed


@kernel("void(R[::1], R[::1], R[::1], f8[::1])")
def nesterov(w, g, v, hyper):
    """`v = momentum * v + g; w -= lr * (g + momentum * v)` (Sutskever et al. 2013)."""
    real = w.dtype.type
    lr, decay, keep = real(hyper[0]), real(hyper[1]), real(hyper[2])
    for i in range(w.size):
        slope = g[i] + decay * w[i]
        speed = keep * v[i] + slope
        v[i] = speed
        w[i] -= lr * (slope + keep * speed)


@kernel("void(R[::1], R[::1], R[::1], f8[::1])")
def adagrad(w, g, s, hyper):
    """`s += g ** 2; w -= lr * g / (sqrt(s) + epsilon)` (Duchi et al. 2011)."""
    real = w.dtype.type
    lr, decay, epsilon = real(hyper[0]), real(hyper[1]), real(hyper[5])
    for i in range(w.size):
        slope = g[i] + decay * w[i]
        total = s[i] + slope * slope
        s[i] = total
        w[i] -= lr * slope / (math.sqrt(total) + epsilon)


@kernel("void(R[::1], R[::1], R[::1], f8[::1])")
def rmsprop(w, g, s, hyper):
    """`s = beta2 * s + (1 - beta2) * g ** 2; w -= lr * g / (sqrt(s) + epsilon)` (Tieleman and Hinton 2012)."""
    real = w.dtype.type
    lr, decay, keep, epsilon = real(hyper[0]), real(hyper[1]), real(hyper[4]), real(hyper[5])
    for i in range(w.size):
        slope = g[i] + decay * w[i]
        mean = keep * s[i] + (1 - keep) * slope * slope
        s[i] = mean
        w[i] -= lr * slope / (math.sqrt(mean) + epsilon)


@kernel("void(R[::1], R[::1], R[::1], R[::1], f8[::1], b1)")
def adam(w, g, m, s, hyper, decoupled):
    """Adam (Kingma and Ba 2015); with `decoupled`, AdamW (Loshchilov and Hutter 2019).

    `m = beta1 * m + (1 - beta1) * g; s = beta2 * s + (1 - beta2) * g ** 2;
    w -= lr * (m / (1 - beta1 ** step)) / (sqrt(s / (1 - beta2 ** step)) + epsilon)`, steps counted from 1.
    """
    real = w.dtype.type
    lr, decay, keep1, keep2, epsilon = real(hyper[0]), real(hyper[1]), real(hyper[3]), real(hyper[4]), real(hyper[5])
    rate = real(hyper[0] / (1 - hyper[3] ** hyper[6]))
    correction = real(1 / math.sqrt(1 - hyper[4] ** hyper[6]))
    l2 = real(0) if decoupled else decay
    shrink = lr * decay if decoupled else real(0)
    for i in range(w.size):
        slope = g[i] + l2 * w[i]
        first = keep1 * m[i] + (1 - keep1) * slope
        second = keep2 * s[i] + (1 - keep2) * slope * slope
        m[i] = first
        s[i] = second
        w[i] -= shrink * w[i] + rate * first / (math.sqrt(second) * correction + epsilon)


@kernel("void(f4[:, ::1], f8[::1], i8, f4[::1])")
def combine(gradients, shares, start, out):
    """`out = sum over k of shares[k] * gradients[k, start:start + out.size]`, in the order of k; not where it is 0."""
    out[:] = np.float32(0)
    for k in range(shares.size):
        share = np.float32(shares[k])
        if share != 0:
            for i in range(out.size):
                out[i] += share * gradients[k, start + i]
