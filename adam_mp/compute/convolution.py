"""The operation of a convolution, together with the max-pooling and ReLU that follow it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from adam_mp.compute.conv_backward import BACKWARD_WAYS, BoundLayer, Patches, ways_back
from adam_mp.compute.fusion import Group
from adam_mp.compute.operation import Call, Operation, Span, Tensors, bias_of, product_panel, rows
from adam_mp.kernels import activation, conv, pool
from adam_mp.network import layers as kinds


class Convolution(Operation):
    """Convolution; one pass over its output then adds the bias, pools and applies ReLU, if these layers follow."""

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        name, layer = group.name, self.layer
        self.weight = weights[f"{name}.weight"]
        self.bias, self.bias_gradient = bias_of(group, weights, gradients, real)
        self.reads_output = self.rectify
        height, width, channels = group.input_shape
        shape = layer.output_shape(group.input_shape)
        self.panel = product_panel(real)
        self.pixels_per_image = math.prod(shape[:2])
        padded = (height + 2 * layer.margin, width + 2 * layer.margin, channels)
        self.padded: np.ndarray | None = np.zeros((block, *padded), real) if layer.margin else None
        self.pixels = conv.pixel_offsets(block, padded, layer.extent, layer.stride)
        self.taps = conv.tap_offsets(padded, layer.size, layer.dilation)
        way = BACKWARD_WAYS[group.way or ways_back(layer, group.wanted[0])[0]]
        gradient = gradients[f"{name}.weight"]
        self.way = way(BoundLayer(layer, group.input_shape, shape, self.weight, gradient, block, real))
        self.pool: Any = next((after for after in group.layers[1:] if isinstance(after, kinds.MaxPool)), None)
        if self.pool is not None:
            self.unpooled = np.zeros((block, *shape), real)
            self.choice = np.zeros((batch, *group.output_shape), np.uint8)

    def _read(self, span: Span) -> tuple[list[Call], Patches]:
        """Return the call that pads the input, if the layer pads, and the patches that products read."""
        pixels = self.pixels[: len(span.x) * self.pixels_per_image]
        if self.padded is None:
            return [], (span.x, pixels, self.taps)
        padded = self.padded[: len(span.x)]
        return [(conv.pad_images, (span.x, padded, self.layer.margin))], (padded, pixels, self.taps)

    def forward(self, span: Span, training: bool) -> list[Call]:
        count = len(span.x)
        convolved = span.out if self.pool is None else self.unpooled[:count]
        calls, patches = self._read(span)
        calls.append((conv.conv_forward, (*patches, self.weight, rows(convolved), self.panel)))
        if self.pool is None:
            if self.layer.bias or self.rectify:
                calls.append((activation.add_bias, (rows(span.out), self.bias, self.rectify)))
        else:
            choice = self.choice[span.first : span.first + count]
            size, step = self.pool.size, self.pool.step
            calls.append((pool.max_pool_forward, (convolved, self.bias, span.out, choice, size, step, self.rectify)))
        return calls

    def backward(self, span: Span) -> list[Call]:
        count = len(span.x)
        calls: list[Call] = []
        if self.pool is None:
            convolved_error = span.error
            arrays = (rows(span.error), rows(span.out), self.bias_gradient)
            if self.layer.bias or self.rectify:
                calls.append((activation.bias_backward, (*arrays, self.rectify, span.accumulate)))
        else:
            convolved_error = self.unpooled[:count]
            choice = self.choice[span.first : span.first + count]
            sizes = (self.pool.size, self.pool.step, self.rectify, span.accumulate)
            calls.append(
                (pool.max_pool_backward, (span.error, span.out, choice, convolved_error, self.bias_gradient, *sizes))
            )
        pad, patches = self._read(span)
        if span.fresh:
            calls += pad
        return calls + self.way.calls(patches, convolved_error, span)
