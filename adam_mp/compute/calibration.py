"""What norms know of the training images: mean and variance of their inputs, measured on some of the images.

They follow from the weights, and from which images are taken. So they are no state of a run: nobody sends them, decays
them or saves them in a checkpoint. They are measured anew for weights that are evaluated or saved as a model.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from adam_mp.compute.context import TrainingContext
from adam_mp.compute.normalizing import BatchNormalization


def calibrate(context: TrainingContext, batches: Iterable[np.ndarray]) -> int:
    """Measure the statistics that the context's norms use outside of training; return on how many images.

    Each of `batches` is [n, h, w, c], of at most the context's batch. A norm of a batch uses the statistics of that
    batch. What all batches together give becomes known at the end: mean, and variance around it. Without an image
    nothing changes.
    """
    norms = [operation for operation in context.operations if isinstance(operation, BatchNormalization)]
    images, sums = 0, [np.zeros((2, len(norm.known_mean))) for norm in norms]
    for batch in batches:
        if not len(batch):
            continue
        context.program(batch, None, training=False, of_batch=True).run_forward()
        images += len(batch)
        for norm, total in zip(norms, sums, strict=True):
            mean, variance = norm.batch_moments(len(batch))
            np.add(total, len(batch) * np.stack((mean, variance + mean * mean)), out=total)
    for norm, total in zip(norms, sums, strict=True):
        if images:
            mean, norm.knows = total[0] / images, True
            norm.known_mean[...], norm.known_variance[...] = mean, np.maximum(total[1] / images - mean * mean, 0)
    return images
