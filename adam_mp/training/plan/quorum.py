"""The arithmetic of an epoch: which batches count how many images, and when the quorum is reached. Pure functions."""

from __future__ import annotations

import math

import numpy as np

from adam_mp.memory.ledger import FREE, SKIPPED, TRAINED, images_in


def quorum_reached(states: np.ndarray, quorum: float, batch_size: int, images: int) -> bool:
    """Tell whether enough of the epoch's images are trained (paper, section 3.2.4: 75% there)."""
    return images_in(states, TRAINED, batch_size, images) >= math.ceil(quorum * images)


def quorum_batches(quorum: float, batch_size: int, images: int) -> int:
    """Return how many batches from the beginning of an epoch hold enough of its images."""
    return math.ceil(math.ceil(quorum * images) / batch_size)


def within_quorum(states: np.ndarray, quorum: float, batch_size: int, images: int) -> np.ndarray:
    """Return `states` with the last of the free batches SKIPPED, as far as the quorum is reached without them."""
    missing = math.ceil(quorum * images) - images_in(states, TRAINED, batch_size, images)
    needed = max(0, math.ceil(missing / batch_size))  # only an epoch's last batch, the last to be taken, may be short
    states = states.copy()
    states[np.flatnonzero(states == FREE)[needed:]] = SKIPPED
    return states


def reopened(states: np.ndarray) -> np.ndarray:
    """Return the states of an interrupted epoch as it is taken up again: what is not trained is free.

    What a quorum had left out is free too: the run may go on with another.
    """
    return np.where(states == TRAINED, TRAINED, FREE).astype(np.uint8)
