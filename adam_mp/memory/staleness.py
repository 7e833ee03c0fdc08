"""The histogram of staleness: a column for each staleness from 0 to 15, wider columns above."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_EXACT = 16
COLUMNS = 22
LABELS = (*(str(value) for value in range(_EXACT)), "16-31", "32-63", "64-127", "128-255", "256-511", "512+")


def column(staleness: int) -> int:
    """Return the column of an update of this staleness."""
    return staleness if staleness < _EXACT else min(staleness.bit_length() + 11, COLUMNS - 1)


def labelled(counts: Sequence[int] | np.ndarray) -> dict[str, int]:
    """Return label -> number of updates, for the columns that have any; `counts` are int64 [COLUMNS]."""
    return {label: int(count) for label, count in zip(LABELS, counts, strict=True) if count}


def quantile(counts: Sequence[int] | np.ndarray, share: float) -> str:
    """Return the label of the column that has the quantile `share` (0 to 1) of the staleness; "" without updates."""
    total = np.cumsum(np.asarray(counts, np.int64))
    if not total[-1]:
        return ""
    return LABELS[int(np.searchsorted(total, share * total[-1]))]
