from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import loss


@given(st.integers(1, 5), st.integers(2, 6), st.sampled_from([1.0, 1e4]), st.sampled_from([0.0, 0.1, 0.6]))
def test_loss_and_its_gradient(rows, classes, size, smoothing):
    generator = np.random.default_rng(rows * classes)
    scores = generator.standard_normal((rows, classes)) * size
    labels = generator.integers(classes, size=rows, dtype=np.int32)
    top = scores.max(axis=1, keepdims=True)
    logarithms = scores - top - np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
    error, totals, shares = np.zeros_like(scores), np.zeros(2), np.zeros_like(scores)
    loss.softmax_cross_entropy(scores, labels, error, totals, smoothing)
    loss.softmax(scores, shares)
    np.testing.assert_allclose(shares, np.exp(logarithms), atol=1e-12)
    wanted = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
    assert totals[0] == pytest.approx(-(wanted * logarithms).sum())
    assert totals[1] == np.sum(scores.argmax(axis=1) == labels)
    np.testing.assert_allclose(error, (shares - wanted) / rows, atol=1e-12)


def test_ties_count_as_wrong_and_nan_shows():
    totals, error = np.zeros(2), np.zeros((1, 3))
    loss.softmax_cross_entropy(np.zeros((1, 3)), np.zeros(1, np.int32), error, totals, 0.0)
    assert totals[1] == 0
    loss.softmax_cross_entropy(np.array([[0.0, np.nan, 1.0]]), np.zeros(1, np.int32), error, totals, 0.0)
    assert np.isnan(totals[0])


@given(st.integers(2, 6), st.sampled_from([0.0, 0.3]))
def test_the_error_is_the_slope_of_the_loss(classes, smoothing):
    scores = np.random.default_rng(classes).standard_normal((2, classes))
    labels = np.array([0, classes - 1], np.int32)
    error, totals, step = np.zeros_like(scores), np.zeros(2), 1e-6
    for place in np.ndindex(*scores.shape):
        losses = []
        for sign in (1, -1):
            moved = scores.copy()
            moved[place] += sign * step
            loss.softmax_cross_entropy(moved, labels, error, totals, smoothing)
            losses.append(totals[0] / 2)
        loss.softmax_cross_entropy(scores, labels, error, totals, smoothing)
        assert error[place] == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=1e-8)


def test_guessing_costs_the_logarithm_of_the_classes_however_labels_are_smoothed():
    error, totals = np.zeros((1, 7)), np.zeros(2)
    for smoothing in (0.0, 0.2, 0.9):
        loss.softmax_cross_entropy(np.full((1, 7), 3.0), np.zeros(1, np.int32), error, totals, smoothing)
        assert totals[0] == pytest.approx(np.log(7))
