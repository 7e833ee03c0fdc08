from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels.random import mix, uniform

WORDS = st.integers(0, 2**64 - 1)


def splitmix64(key, position):
    """The generator of Steele et al., its state after `position + 1` steps from `key`."""
    mask = 2**64 - 1
    z = (key + (position + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@given(WORDS, WORDS)
def test_it_is_splitmix64(key, position):
    expected = splitmix64(key, position)
    assert int(mix(np.uint64(key), np.uint64(position))) == expected
    number = float(uniform(np.uint64(key), np.uint64(position)))
    assert number == (expected >> 11) / 2**53
    assert 0 <= number < 1


def test_the_published_sequence():
    assert [int(mix(np.uint64(1234567), np.uint64(position))) for position in range(3)] == [
        6457827717110365317, 3203168211198807973, 9817491932198370423,
    ]  # fmt: skip


def test_positions_are_spread_evenly():
    numbers = np.array([uniform(np.uint64(7), np.uint64(position)) for position in range(4000)])
    counts, _ = np.histogram(numbers, 10, (0, 1))
    assert counts.min() > 300
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.06
