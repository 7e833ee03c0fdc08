"""Counter-based random numbers: a value depends on its key and position, and not on earlier draws.

So augmentation and dropout are repeatable with any number of processes (splitmix64, Steele et al. 2014).
"""

from __future__ import annotations

import numpy as np

from adam_mp.kernels.compilation import inline


@inline
def mix(key, position):
    """Return 64 random bits, uint64, for (key, position), both unsigned 64-bit."""
    z = np.uint64(key) + (np.uint64(position) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inline
def uniform(key, position):
    """Return a float64 for (key, position), uniform in [0, 1)."""
    return np.float64(mix(key, position) >> np.uint64(11)) * (1.0 / 9007199254740992.0)
