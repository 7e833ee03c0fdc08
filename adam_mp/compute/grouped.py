"""The operations of convolutions with groups of channels: depthwise, and any other."""

from __future__ import annotations

import dataclasses

import numpy as np

from adam_mp.compute.convolution import Convolution
from adam_mp.compute.fusion import Group
from adam_mp.compute.operation import Call, Operation, Span, Tensors, bias_of, rows
from adam_mp.kernels import activation, conv, crop, depthwise, depthwise_same, join
from adam_mp.network.layers import Conv


class _Biased(Operation):
    """A convolution whose bias and ReLU, if there are any, take a pass of their own."""

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        self.weight, self.gradient = weights[f"{group.name}.weight"], gradients[f"{group.name}.weight"]
        self.bias, self.bias_gradient = bias_of(group, weights, gradients, real)
        self.reads_output = self.rectify

    def _add_bias(self, span: Span) -> list[Call]:
        if not (self.layer.bias or self.rectify):
            return []
        return [(activation.add_bias, (rows(span.out), self.bias, self.rectify))]

    def _bias_backward(self, span: Span) -> list[Call]:
        if not (self.layer.bias or self.rectify):
            return []
        arrays = (rows(span.error), rows(span.out), self.bias_gradient)
        return [(activation.bias_backward, (*arrays, self.rectify, span.accumulate))]


class DepthwiseConvolution(_Biased):
    """Each channel with a kernel of its own.

    With stride 1 the input's error is the same computation, of the padded error with the flipped weight. With any other
    stride each error is spread over its window.
    """

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        layer, (height, width, channels) = self.layer, group.input_shape
        out_height, out_width, _ = layer.output_shape(group.input_shape)
        margin, wanted = layer.margin, group.wanted[0]
        padded = (block, height + 2 * margin, width + 2 * margin, channels)
        self.padded: np.ndarray = np.zeros(padded if margin else (0, 1, 1, 1), real)
        self.around = layer.extent - 1 - margin  # zeros around the error, if its windows are to cover all of the input
        self.flips = layer.stride == 1 and self.around >= 0
        wide = (block, out_height + 2 * self.around, out_width + 2 * self.around, channels)
        self.padded_error: np.ndarray = np.zeros(wide if self.flips and wanted else (0, 1, 1, 1), real)
        self.padded_x_error: np.ndarray = np.zeros_like(self.padded if wanted and not self.flips else self.padded[:0])
        self.flipped: np.ndarray = np.zeros_like(self.weight)

    @property
    def _geometry(self) -> tuple[int, int, int]:
        return self.layer.size, self.layer.stride, self.layer.dilation

    def _pad(self, x: np.ndarray) -> tuple[list[Call], np.ndarray]:
        """Return the call that pads images, if the layer pads, and the images that windows go over."""
        if not self.layer.margin:
            return [], x
        padded = self.padded[: len(x)]
        return [(conv.pad_images, (x, padded, self.layer.margin))], padded

    def forward(self, span: Span, training: bool) -> list[Call]:
        calls, x = self._pad(span.x)
        return [*calls, (depthwise.window_sums, (x, self.weight, span.out, *self._geometry)), *self._add_bias(span)]

    def backward(self, span: Span) -> list[Call]:
        calls, (pad, x) = self._bias_backward(span), self._pad(span.x)
        if span.fresh:
            calls += pad
        calls.append((depthwise.window_products, (x, span.error, self.gradient, *self._geometry, span.accumulate)))
        if span.x_error is None:
            return calls
        return calls + (self._flip(span) if self.flips else self._spread(span))

    def _flip(self, span: Span) -> list[Call]:
        calls: list[Call] = []
        if not span.accumulate:
            calls.append((np.copyto, (self.flipped, self.weight[::-1])))
        error = span.error
        if self.around:
            error = self.padded_error[: len(error)]
            calls.append((conv.pad_images, (span.error, error, self.around)))
        return [*calls, (depthwise.window_sums, (error, self.flipped, span.x_error, *self._geometry))]

    def _spread(self, span: Span) -> list[Call]:
        assert span.x_error is not None
        if not self.layer.margin:
            return [(depthwise.window_spread, (span.x_error, self.weight, span.error, *self._geometry))]
        padded = self.padded_x_error[: len(span.error)]
        return [
            (depthwise.window_spread, (padded, self.weight, span.error, *self._geometry)),
            (crop.crop_images, (padded, span.x_error, self.layer.margin)),
        ]


class SameDepthwiseConvolution(_Biased):
    """The depthwise convolution of `fits`: 3x3, of stride 1, of images that keep their size."""

    @staticmethod
    def fits(layer: Conv) -> bool:
        """Tell whether a depthwise convolution is such a one."""
        return (layer.size, layer.stride, layer.dilation, layer.margin) == (3, 1, 1, 1)

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        _, width, channels = group.input_shape
        self.nothing: np.ndarray = np.zeros(width * channels, real)
        self.flipped: np.ndarray = np.zeros_like(self.weight)

    def forward(self, span: Span, training: bool) -> list[Call]:
        sums = (span.x, self.weight, span.out, self.nothing)
        return [(depthwise_same.same_sums, sums), *self._add_bias(span)]

    def backward(self, span: Span) -> list[Call]:
        products = (span.x, span.error, self.gradient, self.nothing, span.accumulate)
        calls = [*self._bias_backward(span), (depthwise_same.same_products, products)]
        if span.x_error is None:
            return calls
        if not span.accumulate:
            calls.append((np.copyto, (self.flipped, self.weight[::-1])))
        return [*calls, (depthwise_same.same_sums, (span.error, self.flipped, span.x_error, self.nothing))]


class GroupedConvolution(_Biased):
    """A convolution for each group of channels, whose values are copied out before it and back after it.

    All groups use the buffers of one, so the weight is copied anew for each group of each span.
    """

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        layer, (height, width, channels) = self.layer, group.input_shape
        out_height, out_width, filters = layer.output_shape(group.input_shape)
        self.reads, self.makes = channels // layer.groups, filters // layer.groups
        one = dataclasses.replace(layer, channels=self.makes, groups=1, bias=False)
        shape, out_shape = (height, width, self.reads), (out_height, out_width, self.makes)
        inner = dataclasses.replace(group, layers=(one,), input_shapes=(shape,), output_shape=out_shape)
        self.part_weight, self.part_gradient = (np.zeros((len(self.weight), self.makes), real) for _ in range(2))
        name = f"{group.name}.weight"
        self.inner = Convolution(inner, {name: self.part_weight}, {name: self.part_gradient}, batch, block, real)
        self.part_x, self.part_x_error = (np.zeros((block, *shape), real) for _ in range(2))
        self.part_out, self.part_error = (np.zeros((block, *out_shape), real) for _ in range(2))

    def _begins(self) -> list[tuple[int, int]]:
        """Return the first channel of each group, in the input and in the output."""
        return [(number * self.reads, number * self.makes) for number in range(self.layer.groups)]

    def _take(self, span: Span, first: int, target: int) -> list[Call]:
        """Return the calls that copy a group's input and weight."""
        part = rows(self.part_x[: len(span.x)])
        return [
            (join.take_columns, (rows(span.x), first, part, False)),
            (join.take_columns, (self.weight, target, self.part_weight, False)),
        ]

    def _part(self, span: Span) -> Span:
        count = len(span.x)
        wanted = None if span.x_error is None else self.part_x_error[:count]
        return dataclasses.replace(
            span, inputs=(self.part_x[:count],), out=self.part_out[:count], error=self.part_error[:count],
            input_errors=(wanted,), accumulate=False, fresh=True, last=True,
        )  # fmt: skip

    def forward(self, span: Span, training: bool) -> list[Call]:
        calls: list[Call] = []
        part = self._part(span)
        for first, target in self._begins():
            calls += [*self._take(span, first, target), *self.inner.forward(part, training)]
            calls.append((join.put_columns, (rows(part.out), rows(span.out), target, False)))
        return calls + self._add_bias(span)

    def backward(self, span: Span) -> list[Call]:
        calls, part = self._bias_backward(span), self._part(span)
        for first, target in self._begins():
            calls += self._take(span, first, target)
            calls.append((join.take_columns, (rows(span.error), target, rows(part.error), False)))
            calls += self.inner.backward(part)
            calls.append((join.put_columns, (self.part_gradient, self.gradient, target, span.accumulate)))
            if span.x_error is not None and part.x_error is not None:
                calls.append((join.put_columns, (rows(part.x_error), rows(span.x_error), first, False)))
        return calls
