from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels.exchange import add, correct, from_bfloat16, take_delta, take_delta_bfloat16

SIZE = 37


def spaces(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, SIZE)).astype(np.float32)


def test_a_delta_is_what_was_added_since_the_base():
    local, base, sent, delta = spaces(4)
    expected = local - base
    assert take_delta(local, base, sent, delta)
    np.testing.assert_array_equal(delta, expected)
    np.testing.assert_allclose(sent, local, atol=1e-6)
    assert not take_delta(base, base.copy(), sent, delta)
    assert not delta.any()


@given(st.integers(0, 10**6))
def test_what_bfloat16_loses_goes_with_the_next_delta(seed):
    local, base, sent, _ = spaces(4, seed)
    halves, delta = np.zeros(SIZE, np.uint16), np.zeros(SIZE, np.float32)
    assert take_delta_bfloat16(local, base, sent, halves)
    from_bfloat16(halves, delta)
    difference = local - base
    assert (np.abs(delta - difference) <= np.abs(difference) / 256).all()
    np.testing.assert_allclose(sent, base + delta, atol=1e-6)
    again = np.zeros(SIZE, np.uint16)
    take_delta_bfloat16(local, sent, base.copy(), again)
    from_bfloat16(again, delta)
    assert (np.abs(local - sent - delta) <= np.abs(local - sent) / 256).all()
    assert not take_delta_bfloat16(local, local.copy(), sent, halves)


@pytest.mark.parametrize(
    ("number", "half"),
    [
        (1.0, 0x3F80),
        (-2.0, 0xC000),
        (0.0, 0),
        (1.00390625, 0x3F80),  # half-way between two: the even one
        (1.01171875, 0x3F82),
        (np.inf, 0x7F80),
    ],
)
def test_numbers_are_rounded_to_the_nearest_bfloat16(number, half):
    local, zero, halves = np.full(1, number, np.float32), np.zeros(1, np.float32), np.zeros(1, np.uint16)
    take_delta_bfloat16(local, zero, zero.copy(), halves)
    assert halves[0] == half


def test_a_correction_brings_what_others_did_and_keeps_what_workers_did():
    base, others, sent_delta, later = spaces(4)
    sent = base + sent_delta
    local = sent + later
    fresh = sent + others
    correct(local, fresh, sent, base)
    np.testing.assert_allclose(local, fresh + later, atol=1e-6)
    np.testing.assert_array_equal(base, fresh)


@pytest.mark.parametrize("count", range(11))
def test_several_deltas_are_added_in_their_order(count):
    w, *deltas = spaces(count + 1)
    expected = w.copy()
    for delta in deltas:
        expected += delta
    add(w, deltas)
    np.testing.assert_array_equal(w, expected)
