"""A convolution bound to buffers, with the max-pooling and ReLU behind it, and the two ways to its input's error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from adam_mp.compute.operation import Call, Group, Operation, Span, Tensors, product_panel, rows, strided
from adam_mp.kernels import activation, conv, pool
from adam_mp.kernels.product import transpose
from adam_mp.network import layers as kinds
from adam_mp.network.layers import Conv, Shape

_SCATTERED_ROWS = 256  # rows of patches that are made before they are added up, at least


class FlippedConvolution:
    """The error of a convolution's input as a convolution of the padded error with the flipped weight; stride 1."""

    def __init__(self, layer: Any, shape: Shape, out_shape: Shape, weight: np.ndarray, block: int, real: type) -> None:
        self.weight, self.size, self.padding = weight, layer.size, layer.size - 1 - layer.padding
        height, width = (side + 2 * self.padding for side in out_shape[:2])
        padded = (height, width, out_shape[2])
        self.pixels_per_image = math.prod(shape[:2])
        self.padded = np.zeros((block, *padded), real)
        self.pixels, self.taps = conv.pixel_offsets(block, padded, layer.size, 1), conv.tap_offsets(padded, layer.size)
        self.flipped = np.zeros((layer.size**2 * out_shape[2], shape[2]), real)
        self.panel = product_panel(real)

    def calls(self, error: np.ndarray, x_error: np.ndarray, first: bool) -> list[Call]:
        """Return the kernel calls; the weight is flipped anew for the `first` span of a step."""
        pixels, padded = self.pixels[: len(error) * self.pixels_per_image], self.padded[: len(error)]
        begin: list[Call] = [(conv.flip_weight, (self.weight, self.flipped, self.size))] if first else []
        return [
            *begin,
            (conv.pad_images, (error, padded, self.padding)),
            (conv.conv_forward, (padded, pixels, self.taps, self.flipped, rows(x_error), self.panel)),
        ]


class ScatteredPatches:
    """The error of a convolution's input as the product of error and transposed weight, added up over the patches."""

    def __init__(self, layer: Any, shape: Shape, out_shape: Shape, weight: np.ndarray, block: int, real: type) -> None:
        self.weight, self.geometry = weight, (layer.size, layer.stride, layer.padding)
        pixels, filters = math.prod(out_shape[:2]), out_shape[2]
        images = min(block, -(-_SCATTERED_ROWS // pixels))
        self.patches: np.ndarray = np.zeros((images * pixels, weight.shape[0]), real)
        self.rows, self.depths = strided(images * pixels, filters), strided(filters, 1)
        self.transposed: np.ndarray = np.zeros(weight.shape[::-1], real)
        self.panel = product_panel(real)

    def calls(self, error: np.ndarray, x_error: np.ndarray, first: bool) -> list[Call]:
        """Return the kernel calls; the weight is transposed anew for the `first` span of a step."""
        begin: list[Call] = [(transpose, (self.weight, self.transposed))] if first else []
        tables = (self.rows, self.depths, self.transposed, self.patches)
        return [*begin, (conv.conv_backward_input, (rows(error), *tables, x_error, *self.geometry, self.panel))]


INPUT_ERRORS: dict[str, Any] = {"flipped": FlippedConvolution, "scattered": ScatteredPatches}


def input_error_ways(layer: Conv) -> list[str]:
    """Return the ways that exist for a layer, the one that is likely faster first.

    Flipping suits outputs as large as inputs; where the output is smaller it would multiply much padding.
    """
    if layer.stride > 1 or layer.padding >= layer.size:
        return ["scattered"]
    return ["flipped", "scattered"] if layer.padding >= layer.size // 2 else ["scattered", "flipped"]


class Convolution(Operation):
    """Convolution, with bias and, in the same pass over its output, max-pooling and ReLU if they follow."""

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        name, layer = group.name, self.layer
        self.weight, self.bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        self.weight_gradient, self.bias_gradient = gradients[f"{name}.weight"], gradients[f"{name}.bias"]
        height, width, channels = group.input_shape
        shape = layer.output_shape(group.input_shape)
        self.panel = product_panel(real)
        self.pixels_per_image = math.prod(shape[:2])
        padded = (height + 2 * layer.padding, width + 2 * layer.padding, channels)
        self.padded: np.ndarray | None = np.zeros((block, *padded), real) if layer.padding else None
        self.pixels = conv.pixel_offsets(block, padded, layer.size, layer.stride)
        self.taps = conv.tap_offsets(padded, layer.size)
        if group.position > 0:  # nobody needs the error of the images themselves
            way = group.way or input_error_ways(layer)[0]
            self.input_error = INPUT_ERRORS[way](layer, group.input_shape, shape, self.weight, block, real)
        self.pool: Any = next((after for after in group.layers[1:] if isinstance(after, kinds.MaxPool)), None)
        if self.pool is not None:
            self.unpooled = np.zeros((block, *shape), real)
            self.choice = np.zeros((batch, *group.output_shape), np.uint8)

    def _read(self, span: Span) -> tuple[list[Call], tuple[np.ndarray, ...]]:
        """Return the call that pads the input, if it must be, and what a product reads it by."""
        pixels = self.pixels[: len(span.x) * self.pixels_per_image]
        if self.padded is None:
            return [], (span.x, pixels, self.taps)
        padded = self.padded[: len(span.x)]
        return [(conv.pad_images, (span.x, padded, self.layer.padding))], (padded, pixels, self.taps)

    def forward(self, span: Span, training: bool) -> list[Call]:
        count = len(span.x)
        scores = span.out if self.pool is None else self.unpooled[:count]
        calls, images = self._read(span)
        calls.append((conv.conv_forward, (*images, self.weight, rows(scores), self.panel)))
        if self.pool is None:
            calls.append((activation.add_bias, (rows(span.out), self.bias, self.rectify)))
        else:
            choice = self.choice[span.first : span.first + count]
            size, step = self.pool.size, self.pool.step
            calls.append((pool.max_pool_forward, (scores, self.bias, span.out, choice, size, step, self.rectify)))
        return calls

    def backward(self, span: Span) -> list[Call]:
        count = len(span.x)
        calls: list[Call] = []
        if self.pool is None:
            scores_error = span.error
            arrays = (rows(span.error), rows(span.out), self.bias_gradient)
            calls.append((activation.bias_backward, (*arrays, self.rectify, span.accumulate)))
        else:
            scores_error = self.unpooled[:count]
            choice = self.choice[span.first : span.first + count]
            sizes = (self.pool.size, self.pool.step, self.rectify, span.accumulate)
            calls.append(
                (pool.max_pool_backward, (span.error, span.out, choice, scores_error, self.bias_gradient, *sizes))
            )
        pad, images = self._read(span)
        if span.fresh:
            calls += pad
        gradient = (rows(scores_error), self.weight_gradient, self.panel, self.panel.dtype.type(span.accumulate))
        calls.append((conv.conv_backward_weight, (*images, *gradient)))
        if span.x_error is not None:
            calls += self.input_error.calls(scores_error, span.x_error, not span.accumulate)
        return calls
