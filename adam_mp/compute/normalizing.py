"""The operation of batch norm: statistics of the batch while training, else those known of the training images."""

from __future__ import annotations

import math

import numpy as np

from adam_mp.compute.fusion import Group
from adam_mp.compute.operation import BatchOperation, Call, Span, Tensors, rows
from adam_mp.kernels import batch_norm


class BatchNormalization(BatchOperation):
    """Batch norm, with the ReLU after it, if there is one.

    `known_mean` and `known_variance` are those of the training images: the arrays in `weights` of these names, if there
    are any, else arrays of its own.
    """

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        name, channels = group.name, group.output_shape[-1]
        self.reads_output = self.rectify
        self.pixels = math.prod(group.output_shape[:-1])
        self.scale, self.shift = weights[f"{name}.scale"], weights[f"{name}.shift"]
        self.scale_gradient, self.shift_gradient = gradients[f"{name}.scale"], gradients[f"{name}.shift"]
        self.known_mean = weights.get(f"{name}.mean", np.zeros(channels, real))
        self.known_variance = weights.get(f"{name}.variance", np.ones(channels, real))
        self.moments: np.ndarray = np.zeros((2, channels))
        self.scratch: np.ndarray = np.zeros((3, channels), real)
        self.mean: np.ndarray = np.zeros(channels, real)
        self.inverse, self.known_inverse = np.zeros_like(self.mean), np.zeros_like(self.mean)

    def take(self, span: Span) -> list[Call]:
        return [(batch_norm.moments, (rows(span.x), self.moments, self.scratch, span.first * self.pixels))]

    def settle(self, images: int) -> list[Call]:
        numbers = (images * self.pixels, float(self.layer.epsilon))
        return [(batch_norm.settle, (self.moments, *numbers, self.mean, self.inverse))]

    def forward(self, span: Span, training: bool) -> list[Call]:
        """See Operation; `training` is whether to take the statistics of the batch."""
        mean, inverse = (self.mean, self.inverse) if training else (self.known_mean, self.known_inverse)
        calls: list[Call] = []
        if not training and span.first == 0:
            calls.append((batch_norm.invert, (self.known_variance, float(self.layer.epsilon), self.known_inverse)))
        arguments = (mean, inverse, self.scale, self.shift, rows(span.out), self.rectify)
        return [*calls, (batch_norm.normalize, (rows(span.x), *arguments))]

    def of_batch(self, images: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (mean, variance), float64 [channels], of the latest batch, of `images`."""
        return self.moments[0].copy(), self.moments[1] / (images * self.pixels)

    def take_errors(self, span: Span) -> list[Call]:
        arrays = (rows(span.error), rows(span.x), rows(span.out), self.mean, self.inverse)
        gradients = (self.scale_gradient, self.shift_gradient, self.rectify, span.accumulate)
        return [(batch_norm.error_sums, (*arrays, *gradients))]

    def backward(self, span: Span) -> list[Call]:
        if span.x_error is None:
            return []
        arrays = (rows(span.error), rows(span.x), self.mean, self.inverse)
        sums = (self.scale, self.scale_gradient, self.shift_gradient, span.batch * self.pixels)
        return [(batch_norm.input_error, (*arrays, *sums, rows(span.x_error)))]
