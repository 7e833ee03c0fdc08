"""Softmax, and its cross-entropy with labels. The largest score is subtracted first, so that exp cannot overflow."""

from __future__ import annotations

import math

import numpy as np

from adam_mp.kernels.compilation import kernel


@kernel("void(R[:,::1], R[:,::1])")
def softmax(scores, probabilities):
    """`probabilities = exp(scores) / sum(exp(scores))` along each row; both [n, classes]."""
    for i in range(scores.shape[0]):
        top = scores[i, 0]
        for j in range(scores.shape[1]):
            top = max(top, scores[i, j])
        total = scores.dtype.type(0)
        for j in range(scores.shape[1]):
            probabilities[i, j] = math.exp(scores[i, j] - top)
            total += probabilities[i, j]
        for j in range(scores.shape[1]):
            probabilities[i, j] /= total


@kernel("void(R[:,::1], i4[::1], R[:,::1], f8[::1], f8, f8[::1])")
def softmax_cross_entropy(scores, labels, error, totals, smoothing, mixed):
    """The loss `-sum(q * log(softmax(scores)))` of each row of `scores` [n, classes], with `labels` [n].

    q is `(1 - smoothing) * r + smoothing / classes`: label smoothing (Szegedy et al. 2016, section 7). r is
    `(1 - m) * one_hot(label) + m * one_hot(partner)` with m = `mixed[0]`, 0 to 1, and the label of row n - 1 - i as the
    partner of row i: mixed labels (Zhang et al. 2018, section 2), one_hot(label) for m = 0.

    `error` [n, classes] becomes the gradient of the mean loss: `(softmax(scores) - q) / n`. `totals[0]` becomes the sum
    of the losses, `totals[1]` the number of rows whose highest score is at the label with the larger share; ties are
    wrong.
    """
    rows, classes = scores.shape
    everywhere = smoothing / classes
    less = min(mixed[0], 1.0 - mixed[0])
    given = (1.0 - smoothing) * less
    kept = (1.0 - smoothing) * (1.0 - less)
    totals[0] = 0.0
    totals[1] = 0.0
    for i in range(rows):
        label, partner = labels[i], labels[rows - 1 - i]
        if mixed[0] > 0.5:  # the label with the larger share comes first
            label, partner = partner, label
        top = scores[i, 0]
        right = True
        for j in range(classes):
            top = max(top, scores[i, j])
            right = right and (j == label or scores[i, label] > scores[i, j])
        total = 0.0
        for j in range(classes):
            total += math.exp(np.float64(scores[i, j] - top))
        wanted = np.float64(scores[i, label] - top)
        if less > 0:
            wanted = (1.0 - less) * wanted + less * np.float64(scores[i, partner] - top)
        if smoothing > 0:
            below = 0.0
            for j in range(classes):
                below += np.float64(scores[i, j] - top)
            wanted = (1.0 - smoothing) * wanted + everywhere * below
        totals[0] += math.log(total) - wanted
        totals[1] += right
        for j in range(classes):
            share = math.exp(np.float64(scores[i, j] - top)) / total
            error[i, j] = (share - kept * (j == label) - everywhere) / rows
        error[i, partner] -= given / rows
