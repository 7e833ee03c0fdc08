from __future__ import annotations

import numpy as np
import pytest

from adam_mp.kernels import dropout


def drop(x, key, layer=0, start=0, rate=0.4):
    out, mask = np.zeros_like(x), np.zeros_like(x)
    arrays, draws = (x[None], out[None], mask[None]), (np.array([key], np.uint64), np.uint64(layer), np.uint64(start))
    dropout.dropout_forward(*arrays, rate, *draws, 1, np.uint64(x.size), np.uint64(1))
    return out, mask


def test_dropout_drops_its_rate_and_keeps_the_mean():
    out, mask = drop(np.ones(100_000), key=3)
    assert np.mean(out == 0) == pytest.approx(0.4, abs=0.01)
    assert out.mean() == pytest.approx(1, abs=0.02)
    back = np.zeros_like(out)
    dropout.dropout_backward(np.full_like(out, 2.0), mask, back)
    np.testing.assert_array_equal(back, 2 * mask)


def test_dropout_depends_on_key_layer_and_position_alone():
    x = np.ones(1000)
    whole, _ = drop(x, key=5)
    parts = np.concatenate([drop(x[:300], key=5)[0], drop(x[300:], key=5, start=300)[0]])
    np.testing.assert_array_equal(whole, parts)
    assert (whole != drop(x, key=6)[0]).any()
    assert (whole != drop(x, key=5, layer=1)[0]).any()
