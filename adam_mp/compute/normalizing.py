"""The operations of norms, with the ReLU after them, if there is one."""

from __future__ import annotations

import math

import numpy as np

from adam_mp.compute.fusion import Group
from adam_mp.compute.operation import BatchOperation, Call, Operation, Span, Tensors, pixels, rows
from adam_mp.errors import NetworkError
from adam_mp.kernels import batch_norm, group_norm


class BatchNormalization(BatchOperation):
    """Batch norm: by the statistics of the batch while training, else by those known of the training images.

    `known_mean` and `known_variance` are those of the training images: the arrays in `weights` of these names, if there
    are any, else arrays of its own, of which nothing is known before `knows` is True.
    """

    reads_output = False
    adds_errors = True

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        name, channels = group.name, group.output_shape[-1]
        self.pixels = math.prod(group.output_shape[:-1])
        self.scale, self.shift = weights[f"{name}.scale"], weights[f"{name}.shift"]
        self.scale_gradient, self.shift_gradient = gradients[f"{name}.scale"], gradients[f"{name}.shift"]
        self.known_mean = weights.get(f"{name}.mean", np.zeros(channels, real))
        self.known_variance = weights.get(f"{name}.variance", np.ones(channels, real))
        self.knows = f"{name}.mean" in weights and f"{name}.variance" in weights
        self.pixels_of_all = self.pixels  # of which the statistics are, of each image
        self.moments: np.ndarray = np.zeros((2, channels))
        self.sums: np.ndarray = np.zeros((2, channels))  # of errors, of errors times normalised inputs
        self.factors: np.ndarray = np.zeros((6, channels), real)  # scale, offset, mean, 1 / deviation, slope, level
        self.scratch: np.ndarray = np.zeros((2, channels), real)

    def take(self, span: Span) -> list[Call]:
        return [(batch_norm.add_moments, (rows(span.x), *self.moments, span.first * self.pixels, self.scratch))]

    def settle(self, images: int) -> list[Call]:
        return [self._scales(images * self.pixels)]

    def _scales(self, count: int) -> Call:
        parameters = (self.scale, self.shift, float(self.layer.epsilon))
        return batch_norm.norm_scales, (*self.moments, count, *parameters, *self.factors[:4])

    def forward(self, span: Span, training: bool) -> list[Call]:
        """See Operation; `training` is whether to take the statistics of the batch."""
        calls: list[Call] = []
        if not training and not self.knows:
            raise NetworkError(f"{self.group.name} has no statistics: the model lacks its mean and variance")
        if not training and span.first == 0:
            calls.append((np.copyto, (self.moments[0], self.known_mean)))
            calls.append((np.copyto, (self.moments[1], self.known_variance)))
            calls.append(self._scales(1))
        arrays = (rows(span.x), *self.factors[:2], rows(span.out))
        return [*calls, (batch_norm.scale_channels, (*arrays, self.rectify))]

    def batch_moments(self, images: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (mean, variance), float64 [channels], of the latest batch, of `images`."""
        return self.moments[0].copy(), self.moments[1] / (images * self.pixels)

    def take_errors(self, span: Span) -> list[Call]:
        return [*self._sum_errors(span), *(self._gradients() if span.last else [])]

    def _sum_errors(self, span: Span) -> list[Call]:
        arrays = (rows(span.error), rows(span.x), *self.factors[:4], *self.sums)
        return [(batch_norm.add_error_sums, (*arrays, self.rectify, span.accumulate, self.scratch))]

    def _gradients(self) -> list[Call]:
        targets = (self.shift_gradient, self.scale_gradient)
        return [(np.copyto, (target, sums, "same_kind")) for target, sums in zip(targets, self.sums, strict=True)]

    def backward(self, span: Span) -> list[Call]:
        if span.x_error is None:
            return []
        scale, offset, mean, inverse, slope, level = self.factors
        calls: list[Call] = []
        if not span.accumulate:
            factors = (scale, mean, inverse, slope, level)
            calls.append((batch_norm.norm_slopes, (*self.sums, span.batch * self.pixels_of_all, *factors)))
        arrays = (rows(span.error), rows(span.x), scale, offset, slope, level, rows(span.x_error))
        return [*calls, (batch_norm.norm_backward, (*arrays, self.rectify, span.adds[0]))]


class GroupNormalization(Operation):
    """Group norm: each image by statistics of its own."""

    reads_output = False
    adds_errors = True

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        name, channels = group.name, group.input_shape[-1]
        self.scale, self.shift = weights[f"{name}.scale"], weights[f"{name}.shift"]
        self.scale_gradient, self.shift_gradient = gradients[f"{name}.scale"], gradients[f"{name}.shift"]
        self.factors: np.ndarray = np.zeros((batch, 4, channels), real)
        self.unwanted: np.ndarray = np.zeros((0 if group.wanted[0] else block, *group.input_shape), real)
        self.sums: np.ndarray = np.zeros((2, channels))
        self.scratch: np.ndarray = np.zeros((2, channels), real)

    def _factors(self, span: Span) -> np.ndarray:
        return self.factors[span.first : span.first + len(span.x)]

    def forward(self, span: Span, training: bool) -> list[Call]:
        arrays = (pixels(span.x), self.scale, self.shift, pixels(span.out), self._factors(span))
        settings = (self.layer.groups, float(self.layer.epsilon), self.rectify)
        return [(group_norm.group_norm_forward, (*arrays, self.sums, self.scratch, *settings))]

    def backward(self, span: Span) -> list[Call]:
        x_error = self.unwanted[: len(span.x)] if span.x_error is None else span.x_error
        arrays = (pixels(span.error), pixels(span.x), self.scale, self._factors(span))
        targets = (self.scale_gradient, self.shift_gradient, pixels(x_error), self.sums, self.scratch)
        flags = (self.layer.groups, self.rectify, span.accumulate, span.adds[0])
        return [(group_norm.group_norm_backward, (*arrays, *targets, *flags))]


class LayerNormalization(Operation):
    """Layer norm: each pixel by statistics of its own."""

    reads_output = False
    adds_errors = True

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        name = group.name
        self.scale, self.shift = weights[f"{name}.scale"], weights[f"{name}.shift"]
        self.scale_gradient, self.shift_gradient = gradients[f"{name}.scale"], gradients[f"{name}.shift"]
        self.pixels = math.prod(group.input_shape[:-1])
        self.factors: np.ndarray = np.zeros((2, batch * self.pixels), real)
        self.unwanted: np.ndarray = np.zeros((0 if group.wanted[0] else block, *group.input_shape), real)

    def _factors(self, span: Span) -> np.ndarray:
        """Return the factors of a span's pixels; each span has a piece of the memory of its own."""
        begin, count = 2 * span.first * self.pixels, len(span.x) * self.pixels
        return self.factors.reshape(-1)[begin : begin + 2 * count].reshape(2, count)

    def forward(self, span: Span, training: bool) -> list[Call]:
        arrays = (rows(span.x), self.scale, self.shift, rows(span.out), self._factors(span))
        return [(group_norm.layer_norm_forward, (*arrays, float(self.layer.epsilon)))]

    def backward(self, span: Span) -> list[Call]:
        x_error = self.unwanted[: len(span.x)] if span.x_error is None else span.x_error
        arrays = (rows(span.error), rows(span.x), self.scale, self._factors(span))
        targets = (self.scale_gradient, self.shift_gradient, rows(x_error))
        return [(group_norm.layer_norm_backward, (*arrays, *targets, span.accumulate, span.adds[0]))]
