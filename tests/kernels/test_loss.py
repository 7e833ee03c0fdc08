from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import loss

NOT_MIXED = np.zeros(1)
SHARES = st.sampled_from([0.0, 0.2, 0.5, 0.6, 1.0])


def wanted_labels(labels, classes, smoothing, mixed):
    """The labels that a row's scores are compared with: mixed with those of the rows in reverse, then smoothed."""
    single = np.eye(classes)[labels]
    return (1 - smoothing) * ((1 - mixed) * single + mixed * single[::-1]) + smoothing / classes


@given(st.integers(1, 5), st.integers(2, 6), st.sampled_from([1.0, 1e4]), st.sampled_from([0.0, 0.1, 0.6]), SHARES)
def test_loss_and_its_gradient(rows, classes, size, smoothing, mixed):
    generator = np.random.default_rng(rows * classes)
    scores = generator.standard_normal((rows, classes)) * size
    labels = generator.integers(classes, size=rows, dtype=np.int32)
    top = scores.max(axis=1, keepdims=True)
    logarithms = scores - top - np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
    error, totals, shares = np.zeros_like(scores), np.zeros(2), np.zeros_like(scores)
    loss.softmax_cross_entropy(scores, labels, error, totals, smoothing, np.array([mixed]))
    loss.softmax(scores, shares)
    np.testing.assert_allclose(shares, np.exp(logarithms), atol=1e-12)
    wanted = wanted_labels(labels, classes, smoothing, mixed)
    assert totals[0] == pytest.approx(-(wanted * logarithms).sum())
    assert totals[1] == np.sum(scores.argmax(axis=1) == (labels[::-1] if mixed > 0.5 else labels))
    np.testing.assert_allclose(error, (shares - wanted) / rows, atol=1e-12)


def test_ties_count_as_wrong_and_nan_shows():
    totals, error = np.zeros(2), np.zeros((1, 3))
    loss.softmax_cross_entropy(np.zeros((1, 3)), np.zeros(1, np.int32), error, totals, 0.0, NOT_MIXED)
    assert totals[1] == 0
    for mixed in (0.0, 0.3):
        scores = np.array([[0.0, np.nan, 1.0]])
        loss.softmax_cross_entropy(scores, np.zeros(1, np.int32), error, totals, 0.0, np.array([mixed]))
        assert np.isnan(totals[0])


def test_without_mixing_the_partner_has_no_say():
    scores = np.array([[0.0, -np.inf, 1.0], [2.0, 0.0, 1.0]])
    error, totals = np.zeros_like(scores), np.zeros(2)
    loss.softmax_cross_entropy(scores, np.array([2, 1], np.int32), error, totals, 0.0, NOT_MIXED)
    assert np.isfinite(totals[0])
    assert np.isfinite(error).all()


@given(st.integers(2, 6), st.sampled_from([0.0, 0.3]), SHARES)
def test_the_error_is_the_slope_of_the_loss(classes, smoothing, mixed):
    scores = np.random.default_rng(classes).standard_normal((3, classes))
    labels = np.array([0, 1, classes - 1], np.int32)
    error, totals, step = np.zeros_like(scores), np.zeros(2), 1e-6
    for place in np.ndindex(*scores.shape):
        losses = []
        for sign in (1, -1):
            moved = scores.copy()
            moved[place] += sign * step
            loss.softmax_cross_entropy(moved, labels, error, totals, smoothing, np.array([mixed]))
            losses.append(totals[0] / 3)
        loss.softmax_cross_entropy(scores, labels, error, totals, smoothing, np.array([mixed]))
        assert error[place] == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=1e-8)


@given(st.sampled_from([0.0, 0.2, 0.9]), SHARES)
def test_guessing_costs_the_logarithm_of_the_classes_whatever_the_labels_are_made_of(smoothing, mixed):
    error, totals, labels = np.zeros((2, 7)), np.zeros(2), np.array([0, 3], np.int32)
    loss.softmax_cross_entropy(np.full((2, 7), 3.0), labels, error, totals, smoothing, np.array([mixed]))
    assert totals[0] == pytest.approx(2 * np.log(7))
