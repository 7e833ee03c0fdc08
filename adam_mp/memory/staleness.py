"""How stale the gradients of updates were: a histogram with a column for each of 0 to 15, wider ones from there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_EXACT = 16
COLUMNS = 22
LABELS = (*(str(value) for value in range(_EXACT)), "16-31", "32-63", "64-127", "128-255", "256-511", "512+")


def column(staleness: int) -> int:
    """Return the column of an update made `staleness` updates after its weights were read."""
    return staleness if staleness < _EXACT else min(staleness.bit_length() + 11, COLUMNS - 1)


def labelled(counts: Sequence[int] | np.ndarray) -> dict[str, int]:
    """Return label -> updates of the columns that have any."""
    return {label: int(count) for label, count in zip(LABELS, counts, strict=True) if count}


def quantile(counts: Sequence[int] | np.ndarray, share: float) -> str:
    """Return the label of the column in which the `share` of the updates, from the freshest, ends; "" for none."""
    total = np.cumsum(np.asarray(counts, np.int64))
    if not total[-1]:
        return ""
    return LABELS[int(np.searchsorted(total, share * total[-1]))]
