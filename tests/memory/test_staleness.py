from __future__ import annotations

import numpy as np

from adam_mp.memory.staleness import COLUMNS, LABELS, column, labelled, quantile


def test_columns_of_staleness():
    assert len(LABELS) == COLUMNS
    for staleness in (*range(600), 10**9):
        low, _, high = LABELS[column(staleness)].rstrip("+").partition("-")
        assert int(low) <= staleness
        assert not high or staleness <= int(high)
    counts = np.zeros(COLUMNS, int)
    assert quantile(counts, 0.5) == ""
    counts[[0, 3, 17]] = 50, 49, 1
    assert labelled(counts) == {"0": 50, "3": 49, "32-63": 1}
    assert [quantile(counts, share) for share in (0.5, 0.51, 0.99, 1.0)] == ["0", "3", "3", "32-63"]
