"""Update rules: one pass over the flat weights w, gradient g and optimizer state, all [n], in place and without a lock.

A rule's kernel takes w, g, the rule's state tensors, `stretches`, and `numbers`, float64: `lr` and `weight_decay`
first, then the numbers that the rule names in `RULES`, in that order. In all formulas but sgd's, g stands for
`g + weight_decay * w` (L2); in `adamw` weight decay shrinks the weights directly instead.

`stretches`, float64 [k, 3], cuts [n] into k parts, one after the other. A row has where its part ends, and the shares
of `lr` and of `weight_decay` that the part's weights take. With a share of `lr` that is 0, the part is frozen: neither
weights nor state change.

To add a rule, write its kernel here, with the formula and its source, and its line in `RULES`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from adam_mp.kernels.compilation import inline, kernel

ALWAYS = ("lr", "weight_decay")  # the numbers that every rule takes, first
LR, WEIGHT_DECAY = range(len(ALWAYS))
END, RATE_SHARE, DECAY_SHARE = range(3)  # columns of `stretches`


@inline
def _part(stretches, number, numbers):
    """Return where part `number` begins and ends, its learning rate and its weight decay; a frozen part is empty."""
    begin = np.uint64(0) if number == 0 else np.uint64(stretches[number - 1, END])
    share = stretches[number, RATE_SHARE]
    end = begin if share == 0 else np.uint64(stretches[number, END])
    return begin, end, numbers[LR] * share, numbers[WEIGHT_DECAY] * stretches[number, DECAY_SHARE]


@kernel("void(R[::1], R[::1], f8[:,::1], f8[::1])")
def sgd(w, g, stretches, numbers):
    """`w -= lr * (g + weight_decay * w)`."""
    real = w.dtype.type
    for number in range(len(stretches)):
        begin, end, part_lr, part_decay = _part(stretches, number, numbers)
        lr, decay = real(part_lr), real(part_decay)
        for i in range(begin, end):
            w[i] -= lr * (g[i] + decay * w[i])


@kernel("void(R[::1], R[::1], R[::1], f8[:,::1], f8[::1])")
def momentum(w, g, v, stretches, numbers):
    """`v = momentum * v + g; w -= lr * v` (Polyak's heavy ball), for each worker with a velocity `v` of its own.

    By the time a worker's gradient counts, the velocities of the others have moved the weights on. So w is where they
    will be then (Hakimi et al. 2019): ahead of Polyak's by `lr * momentum * others * sum(v)`, where `others` is the
    share of the workers that are not this one, 0 for a worker alone. As in Nesterov's rule, which `others = 1` gives,
    w is kept there: `u = momentum * v + g; w -= lr * (u + momentum * others * (u - v)); v = u`.
    """
    real = w.dtype.type
    keep, ahead = real(numbers[2]), real(numbers[2] * numbers[3])
    for number in range(len(stretches)):
        begin, end, part_lr, part_decay = _part(stretches, number, numbers)
        lr, decay = real(part_lr), real(part_decay)
        for i in range(begin, end):
            before = v[i]
            speed = keep * before + g[i] + decay * w[i]
            v[i] = speed
            w[i] -= lr * (speed + ahead * (speed - before))


@kernel("void(R[::1], R[::1], R[::1], f8[:,::1], f8[::1])")
def nesterov(w, g, v, stretches, numbers):
    """`v = momentum * v + g; w -= lr * (g + momentum * v)` (Sutskever et al. 2013).

    With a velocity for each worker, this is DANA-Slim (Hakimi et al. 2019): w is where the velocities of all will have
    moved it.
    """
    real = w.dtype.type
    keep = real(numbers[2])
    for number in range(len(stretches)):
        begin, end, part_lr, part_decay = _part(stretches, number, numbers)
        lr, decay = real(part_lr), real(part_decay)
        for i in range(begin, end):
            slope = g[i] + decay * w[i]
            speed = keep * v[i] + slope
            v[i] = speed
            w[i] -= lr * (slope + keep * speed)


@kernel("void(R[::1], R[::1], R[::1], f8[:,::1], f8[::1])")
def adagrad(w, g, s, stretches, numbers):
    """`s += g ** 2; w -= lr * g / (sqrt(s) + epsilon)` (Duchi et al. 2011)."""
    real = w.dtype.type
    epsilon = real(numbers[2])
    for number in range(len(stretches)):
        begin, end, part_lr, part_decay = _part(stretches, number, numbers)
        lr, decay = real(part_lr), real(part_decay)
        for i in range(begin, end):
            slope = g[i] + decay * w[i]
            total = s[i] + slope * slope
            s[i] = total
            w[i] -= lr * slope / (math.sqrt(total) + epsilon)


@kernel("void(R[::1], R[::1], R[::1], f8[:,::1], f8[::1])")
def rmsprop(w, g, s, stretches, numbers):
    """`s = beta2 * s + (1 - beta2) * g ** 2; w -= lr * g / (sqrt(s) + epsilon)` (Tieleman and Hinton 2012)."""
    real = w.dtype.type
    keep, epsilon = real(numbers[2]), real(numbers[3])
    for number in range(len(stretches)):
        begin, end, part_lr, part_decay = _part(stretches, number, numbers)
        lr, decay = real(part_lr), real(part_decay)
        for i in range(begin, end):
            slope = g[i] + decay * w[i]
            mean = keep * s[i] + (1 - keep) * slope * slope
            s[i] = mean
            w[i] -= lr * slope / (math.sqrt(mean) + epsilon)


@kernel("void(R[::1], R[::1], R[::1], R[::1], f8[:,::1], f8[::1], b1)")
def adam(w, g, m, s, stretches, numbers, decoupled):
    """Adam (Kingma and Ba 2015); with `decoupled`, AdamW (Loshchilov and Hutter 2019).

    `m = beta1 * m + (1 - beta1) * g; s = beta2 * s + (1 - beta2) * g ** 2;
    w -= lr * (m / (1 - beta1 ** step)) / (sqrt(s / (1 - beta2 ** step)) + epsilon)`, where `step` counts updates from
    1. AdamW also does `w -= lr * weight_decay * w`, and g is then without weight decay.
    """
    real = w.dtype.type
    beta1, beta2, epsilon, step = numbers[2], numbers[3], real(numbers[4]), numbers[5]
    keep1, keep2 = real(beta1), real(beta2)
    correction = real(1 / math.sqrt(1 - beta2**step))
    for number in range(len(stretches)):
        begin, end, part_lr, part_decay = _part(stretches, number, numbers)
        lr, decay = real(part_lr), real(part_decay)
        rate = real(part_lr / (1 - beta1**step))
        l2 = real(0) if decoupled else decay
        shrink = lr * decay if decoupled else real(0)
        for i in range(begin, end):
            slope = g[i] + l2 * w[i]
            first = keep1 * m[i] + (1 - keep1) * slope
            second = keep2 * s[i] + (1 - keep2) * slope * slope
            m[i] = first
            s[i] = second
            w[i] -= shrink * w[i] + rate * first / (math.sqrt(second) * correction + epsilon)


@kernel("void(f4[:, ::1], f8[::1], i8, f4[::1])")
def combine(gradients, shares, start, out):
    """`out = sum over k of shares[k] * gradients[k, start : start + out.size]`, added in the order of k.

    Gradients whose share is 0 are not read.
    """
    out[:] = np.float32(0)
    for k in range(shares.size):
        share = np.float32(shares[k])
        if share != 0:
            for i in range(out.size):
                out[i] += share * gradients[k, start + i]


@kernel("void(R[::1], f8[:,::1], f8[::1])")
def square_sum(g, stretches, total):
    """`total[0] = sum(g ** 2)` without the frozen parts, added in double precision."""
    total[0] = 0.0
    for number in range(len(stretches)):
        begin = np.uint64(0) if number == 0 else np.uint64(stretches[number - 1, END])
        if stretches[number, RATE_SHARE] != 0:
            part = 0.0
            for i in range(begin, np.uint64(stretches[number, END])):
                part += np.float64(g[i]) * np.float64(g[i])
            total[0] += part


@kernel("void(R[::1], f8)")
def scale(g, share):
    """`g *= share`."""
    factor = g.dtype.type(share)
    for i in range(g.size):
        g[i] *= factor


class Rule(NamedTuple):
    """An update rule: its kernel, the names of its state tensors, and the names of its numbers after `ALWAYS`.

    A number's value is the setting of its name; `step` is the number of the update, from 1, and `others` the share of
    the workers with states of their own that are not the one that updates, 0 for a worker alone. `rate` is the default
    learning rate, before the schedule changes it; `rate_of_means` that of networks whose scores are those of means
    behind norms (`Network.scores_means`), 0 if it is the same. `flags` are the kernel's arguments after the numbers.
    `own` are the states of which each worker of an asynchronous run has one of its own: the velocities of momentum
    (Hakimi et al. 2019, "Taming Momentum in a Distributed Asynchronous Environment").
    """

    kernel: Any
    states: tuple[str, ...]
    numbers: tuple[str, ...]
    rate: float
    rate_of_means: float = 0.0
    flags: tuple[bool, ...] = ()
    own: tuple[str, ...] = ()


_ADAM_STATES, _ADAM_NUMBERS = ("m", "s"), ("beta1", "beta2", "epsilon", "step")

RULES = {
    "sgd": Rule(sgd, (), (), 0.07, 0.5),
    "momentum": Rule(momentum, ("v",), ("momentum", "others"), 0.007, 0.05, own=("v",)),
    "nesterov": Rule(nesterov, ("v",), ("momentum",), 0.007, 0.05, own=("v",)),
    "adagrad": Rule(adagrad, ("s",), ("epsilon",), 0.01),
    "rmsprop": Rule(rmsprop, ("s",), ("beta2", "epsilon"), 0.001),
    "adam": Rule(adam, _ADAM_STATES, _ADAM_NUMBERS, 0.001, flags=(False,)),
    "adamw": Rule(adam, _ADAM_STATES, _ADAM_NUMBERS, 0.001, flags=(True,)),
}
