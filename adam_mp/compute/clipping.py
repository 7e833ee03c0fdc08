"""Clipping of gradients by their norm (Pascanu et al. 2013, "On the difficulty of training recurrent neural networks").

A gradient g whose Euclidean norm is above `bound` is replaced by `g * bound / norm(g)`. Frozen tensors, whose share of
the learning rate is 0, do not count.
"""

from __future__ import annotations

import math

import numpy as np

from adam_mp.kernels.update import scale, square_sum


def clipped_share(square: float, bound: float) -> float:
    """Return by what a gradient is to be multiplied whose squares add up to `square`; 1.0 if that is NaN."""
    return bound / math.sqrt(square) if square > bound * bound else 1.0


class Clip:
    """Clips one gradient, flat [n], at each call. `share` is by what the last call multiplied it.

    `stretches` is the table of the gradient's shares, float64 [k, 3] (`compute.shares`).
    """

    def __init__(self, bound: float, gradient: np.ndarray, stretches: np.ndarray) -> None:
        self._bound, self._gradient, self._stretches = bound, gradient, stretches
        self._square = np.zeros(1)
        self.share = 1.0

    def __call__(self) -> None:
        """Multiply the gradient, if its norm is too large."""
        self.finish(self.square())

    def square(self) -> float:
        """Return the sum of the gradient's squares."""
        square_sum(self._gradient, self._stretches, self._square)
        return float(self._square[0])

    def finish(self, square: float) -> None:
        """Multiply the gradient if it is, or is part of, one whose squares add up to `square`, and that is too long."""
        self.share = clipped_share(square, self._bound)
        if self.share != 1.0:
            scale(self._gradient, self.share)
