from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import loss


@given(st.integers(1, 5), st.integers(2, 6), st.sampled_from([1.0, 1e4]))
def test_loss_and_its_gradient(rows, classes, size):
    generator = np.random.default_rng(rows * classes)
    scores = generator.standard_normal((rows, classes)) * size
    labels = generator.integers(classes, size=rows, dtype=np.int32)
    top = scores.max(axis=1, keepdims=True)
    logarithms = scores - top - np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
    error, totals, shares = np.zeros_like(scores), np.zeros(2), np.zeros_like(scores)
    loss.softmax_cross_entropy(scores, labels, error, totals)
    loss.softmax(scores, shares)
    np.testing.assert_allclose(shares, np.exp(logarithms), atol=1e-12)
    assert totals[0] == pytest.approx(-logarithms[np.arange(rows), labels].sum())
    assert totals[1] == np.sum(scores.argmax(axis=1) == labels)
    np.testing.assert_allclose(error, (shares - np.eye(classes)[labels]) / rows, atol=1e-12)


def test_ties_count_as_wrong_and_nan_shows():
    totals, error = np.zeros(2), np.zeros((1, 3))
    loss.softmax_cross_entropy(np.zeros((1, 3)), np.zeros(1, np.int32), error, totals)
    assert totals[1] == 0
    loss.softmax_cross_entropy(np.array([[0.0, np.nan, 1.0]]), np.zeros(1, np.int32), error, totals)
    assert np.isnan(totals[0])
