"""Evaluation of the validation set between epochs, and of the test set: workers lease chunks and measure them.

A worker makes the pictures of a chunk itself; they are the same whichever worker makes them. Each chunk has a result of
its own, so that sums over all chunks do not depend on which worker measured which.
"""

from __future__ import annotations

import numpy as np

from adam_mp.compute.calibration import calibrate
from adam_mp.compute.context import TrainingContext
from adam_mp.compute.views import ONLY, View, ViewScores, measure
from adam_mp.data.pictures import Pictures
from adam_mp.kernels.atomic import publish
from adam_mp.memory.board import VALIDATE
from adam_mp.memory.run_memory import RunMemory
from adam_mp.training.plan.calibration import CALIBRATED, SAMPLES


class Evaluator:
    """Evaluates chunks with a worker's context; a chunk has as many images as the context's batch.

    An image's scores are the mean over its `views`.
    """

    def __init__(
        self, worker: int, context: TrainingContext, memory: RunMemory, pictures: Pictures,
        views: tuple[View, ...] = ONLY,
    ) -> None:  # fmt: skip
        self._worker, self._context, self._memory, self._pictures = worker, context, memory, pictures
        self._images: np.ndarray = np.zeros((context.batch, *context.network.input_shape), np.float32)
        self._labels: np.ndarray = np.zeros(context.batch, np.int32)
        self._scores = ViewScores(context, views)
        self._calibrated = -1  # the evaluation for which the norms have their statistics

    def evaluate_chunk(self, order: int) -> bool:
        """Lease a chunk of the set that `order` (VALIDATE or TEST) names, evaluate it, write its result.

        Returns False if no chunk is free. Images that cannot be read are not in the result.
        """
        ledger = self._memory.evaluation
        round_number = ledger.round
        if round_number != self._calibrated:
            self._calibrate(round_number)
        chunk = ledger.claim_lease(round_number, self._worker) if round_number >= 0 else None
        if chunk is None:
            return False
        numbers = self._memory.arrays["validation" if order == VALIDATE else "test"]
        samples = numbers[chunk * self._context.batch : (chunk + 1) * self._context.batch]
        count = self._fill(samples)
        self._memory.results[chunk] = (*self._measure(count), count)
        ledger.finish(round_number, chunk, self._worker)
        return True

    def _calibrate(self, round_number: int) -> None:
        """Measure the statistics of the norms, if there are any, with the present weights."""
        arrays, batch = self._memory.arrays, self._context.batch
        samples = arrays.get(SAMPLES, np.zeros(0, np.int64))
        if len(samples):
            parts = (samples[start : start + batch] for start in range(0, len(samples), batch))
            images = calibrate(self._context, (self._images[: self._fill(part)] for part in parts))
            publish(arrays[CALIBRATED], 1, images)
            publish(arrays[CALIBRATED], 0, round_number)
        self._calibrated = round_number

    def _fill(self, samples: np.ndarray) -> int:
        """Make the pictures of samples; return how many could be made."""
        self._pictures.prepare(samples)
        return self._pictures.fill(samples, self._images, self._labels, None)

    def _measure(self, count: int) -> np.ndarray:
        """Return [sum of losses, number classified correctly] of the first `count` images."""
        if count == 0:
            return np.zeros(2)
        return measure(self._scores.of(self._images[:count]), self._labels[:count])
