from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from adam_mp.kernels.finite import _PIECE, all_finite


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, _PIECE - 1, _PIECE, 2 * _PIECE + 4])
def test_a_number_that_is_not_finite_is_found_wherever_it_is(bad, place):
    numbers = np.zeros((5, (2 * _PIECE + 5) // 5), np.float32)
    assert all_finite(numbers)
    numbers.reshape(-1)[min(place, numbers.size - 1)] = bad
    assert not all_finite(numbers)


def test_it_takes_little_memory():
    numbers = np.zeros(32 * _PIECE, np.float32)
    tracemalloc.start()
    try:
        assert all_finite(numbers)
        assert tracemalloc.get_traced_memory()[1] < 3 * _PIECE
    finally:
        tracemalloc.stop()
    assert all_finite(np.zeros((0, 3)))
