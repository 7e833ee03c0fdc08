"""Whether numbers are finite, without an array of answers: that would take a quarter of the weights' memory."""

from __future__ import annotations

import numpy as np

_PIECE = 1 << 20  # numbers looked at in a row


def all_finite(numbers: np.ndarray) -> bool:
    """Return whether no number of a contiguous array of any shape is NaN or infinite."""
    flat = numbers.reshape(-1)
    return all(np.isfinite(flat[first : first + _PIECE]).all() for first in range(0, len(flat), _PIECE))
