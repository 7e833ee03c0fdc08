"""The arithmetic of an epoch: which batches count how many images, and when the quorum is reached. Pure functions."""

from __future__ import annotations

import math

import numpy as np

from adam_mp.memory.ledger import SKIPPED, TRAINED, images_in


def quorum_reached(states: np.ndarray, quorum: float, batch_size: int, images: int) -> bool:
    """Tell whether enough of the epoch's images are trained (paper, section 3.2.4: 75% there)."""
    return images_in(states, TRAINED, batch_size, images) >= math.ceil(quorum * images)


def reopened(states: np.ndarray) -> np.ndarray:
    """Return the states of an interrupted epoch as it is taken up again: what is not done is free."""
    return np.where((states == TRAINED) | (states == SKIPPED), states, 0).astype(np.uint8)
