"""The arithmetic of an epoch's end: how many images and batches the quorum asks for. Pure functions.

The quorum is the fraction of an epoch's images after which the epoch ends. `states` are the ledger's, uint8 [batches].
"""

from __future__ import annotations

import math

import numpy as np

from adam_mp.memory.ledger import FREE, SKIPPED, TRAINED, images_in


def quorum_reached(states: np.ndarray, quorum: float, batch_size: int, images: int) -> bool:
    """Tell whether enough of the epoch's images are trained (paper, section 3.2.4, which uses 75%)."""
    return images_in(states, TRAINED, batch_size, images) >= math.ceil(quorum * images)


def quorum_batches(quorum: float, batch_size: int, images: int) -> int:
    """Return how many batches from the beginning of an epoch hold the quorum of its images."""
    return math.ceil(math.ceil(quorum * images) / batch_size)


def within_quorum(states: np.ndarray, quorum: float, batch_size: int, images: int) -> np.ndarray:
    """Return `states` with only the first FREE batches left, as many as the quorum needs; the others are SKIPPED."""
    missing = math.ceil(quorum * images) - images_in(states, TRAINED, batch_size, images)
    needed = max(0, math.ceil(missing / batch_size))  # only the epoch's last batch may be short, and it is last here
    states = states.copy()
    states[np.flatnonzero(states == FREE)[needed:]] = SKIPPED
    return states


def reopened(states: np.ndarray) -> np.ndarray:
    """Return the states with which an interrupted epoch is resumed: every batch that is not TRAINED is FREE.

    Batches that were SKIPPED are FREE too, because the run may be resumed with another quorum.
    """
    return np.where(states == TRAINED, TRAINED, FREE).astype(np.uint8)
