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

    Each of `batches` is [n, h, w, c], of at most the context's batch. Without an image nothing changes.
    """
    calibration = Calibration(context)
    for batch in batches:
        if len(batch):
            context.program(batch, None, training=False, of_batch=True).run_forward()
            calibration.add(len(batch))
    return calibration.settle()


class Calibration:
    """Gathers the statistics of a context's norms over batches.

    A norm of a batch uses the statistics of that batch. `settle` makes the mean of all batches, and the variance around
    it, known to the norms.
    """

    def __init__(self, context: TrainingContext) -> None:
        self._norms = [each for each in context.operations if isinstance(each, BatchNormalization)]
        self._clear()

    def _clear(self) -> None:
        self._images, self._sums = 0, [np.zeros((2, len(norm.known_mean))) for norm in self._norms]

    def add(self, images: int) -> None:
        """Count the batch, of `images`, that has just run forward."""
        self._images += images
        for norm, total in zip(self._norms, self._sums, strict=True):
            mean, variance = norm.batch_moments(images)
            np.add(total, images * np.stack((mean, variance + mean * mean)), out=total)

    def settle(self) -> int:
        """Let the norms know the statistics of all batches since the last call; return of how many images they are."""
        images = self._images
        for norm, total in zip(self._norms, self._sums, strict=True):
            if images:
                mean, norm.knows = total[0] / images, True
                norm.known_mean[...], norm.known_variance[...] = mean, np.maximum(total[1] / images - mean * mean, 0)
        self._clear()
        return images
