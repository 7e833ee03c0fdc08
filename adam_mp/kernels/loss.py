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


@kernel("void(R[:,::1], i4[::1], R[:,::1], f8[::1])")
def softmax_cross_entropy(scores, labels, error, totals):
    """The loss `-log(softmax(scores)[label])` of each row of `scores` [n, classes], with `labels` [n].

    `error` [n, classes] becomes the gradient of the mean loss: `(softmax(scores) - one_hot(labels)) / n`. `totals[0]`
    becomes the sum of the losses, `totals[1]` the number of rows whose highest score is at the label (ties are wrong).
    """
    rows, classes = scores.shape
    totals[0] = 0.0
    totals[1] = 0.0
    for i in range(rows):
        label = labels[i]
        top = scores[i, 0]
        right = True
        for j in range(classes):
            top = max(top, scores[i, j])
            right = right and (j == label or scores[i, label] > scores[i, j])
        total = 0.0
        for j in range(classes):
            total += math.exp(np.float64(scores[i, j] - top))
        totals[0] += math.log(total) - np.float64(scores[i, label] - top)
        totals[1] += right
        for j in range(classes):
            share = math.exp(np.float64(scores[i, j] - top)) / total
            error[i, j] = (share - (j == label)) / rows
