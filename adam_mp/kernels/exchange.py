"""Kernels on a shard: a replica takes its delta and corrects its weights; a parameter server adds deltas.

Each is one pass over flat arrays of one size. A shard of 1 MB fills most of the L2 cache, so each pass reads from
memory: fewer passes are faster.
"""

from __future__ import annotations

import numpy as np

from adam_mp.kernels.compilation import kernel

MOST_FOLDED = 4  # deltas that `add` adds in one pass at most


@kernel("b1(R[::1], R[::1], R[::1], R[::1])")
def take_delta(local, base, sent, delta):
    """`delta = local - base; sent = base + delta`; return whether any number of `delta` is not 0.

    Workers go on changing `local` meanwhile. Each number of `local` is read once, so `sent` is exactly what the server
    gets if it adds `delta` to `base`.
    """
    changed = False
    for i in range(local.size):
        difference = local[i] - base[i]
        delta[i] = difference
        sent[i] = base[i] + difference
        changed |= difference != 0
    return changed


@kernel("b1(R[::1], R[::1], R[::1], u2[::1])")
def take_delta_bfloat16(local, base, sent, delta):
    """`take_delta` with the delta rounded to bfloat16, the upper half of a float32.

    `sent` has the rounded delta. So what rounding loses stays in `local - sent`, and goes with the next delta (error
    feedback).
    """
    changed = False
    value = np.zeros(1, np.float32)
    bits = value.view(np.uint32)
    for i in range(local.size):
        value[0] = local[i] - base[i]
        changed |= value[0] != 0
        word = bits[0]
        rounded = (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        delta[i] = np.uint16(rounded)
        bits[0] = rounded << np.uint32(16)
        sent[i] = base[i] + value[0]
    return changed


@kernel("void(u2[::1], R[::1])")
def from_bfloat16(halves, out):
    """Convert bfloat16 numbers `halves` [n] to float32 `out` [n]."""
    bits = out.view(np.uint32)
    for i in range(out.size):
        bits[i] = np.uint32(halves[i]) << np.uint32(16)


@kernel("void(R[::1], R[::1], R[::1], R[::1])")
def correct(local, fresh, sent, base):
    """`local += fresh - sent; base = fresh`.

    `fresh - sent` are the updates of other replicas. The local workers' updates since the delta stay in `local`.
    """
    for i in range(local.size):
        local[i] += fresh[i] - sent[i]
        base[i] = fresh[i]


@kernel("void(R[::1], R[::1])")
def add_1(w, a):
    """`w += a`."""
    for i in range(w.size):
        w[i] += a[i]


@kernel("void(R[::1], R[::1], R[::1])")
def add_2(w, a, b):
    """`w += a; w += b` in one pass."""
    for i in range(w.size):
        w[i] = (w[i] + a[i]) + b[i]


@kernel("void(R[::1], R[::1], R[::1], R[::1])")
def add_3(w, a, b, c):
    """`w += a; w += b; w += c` in one pass."""
    for i in range(w.size):
        w[i] = ((w[i] + a[i]) + b[i]) + c[i]


@kernel("void(R[::1], R[::1], R[::1], R[::1], R[::1])")
def add_4(w, a, b, c, d):
    """`w += a; w += b; w += c; w += d` in one pass."""
    for i in range(w.size):
        w[i] = (((w[i] + a[i]) + b[i]) + c[i]) + d[i]


def add(w: np.ndarray, deltas: list[np.ndarray]) -> None:
    """Add the flat `deltas` to the flat `w`, up to `MOST_FOLDED` of them in each pass."""
    for first in range(0, len(deltas), MOST_FOLDED):
        some = deltas[first : first + MOST_FOLDED]
        (add_1, add_2, add_3, add_4)[len(some) - 1](w, *some)
