"""The operations of all kinds of layers but convolution, in `convolution`, and those that join values, in `joining`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from adam_mp.compute.convolution import Convolution
from adam_mp.compute.fusion import Group
from adam_mp.compute.grouped import DepthwiseConvolution, GroupedConvolution, SameDepthwiseConvolution
from adam_mp.compute.joining import Product, SideBySide, Sum
from adam_mp.compute.normalizing import BatchNormalization, GroupNormalization, LayerNormalization
from adam_mp.compute.operation import Call, Operation, Span, Tensors, bias_of, pixels, product_panel, rows, strided
from adam_mp.compute.partitioned import AddingParts, Fetching, PartBatchNormalization
from adam_mp.kernels import activation, conv, crop, dense, dropout, gate, global_pool, normalization, pool
from adam_mp.network import layers as kinds
from adam_mp.network.joins import Add, Concat, Multiply
from adam_mp.network.layer import Layer
from adam_mp.network.norms import BatchNorm, GroupNorm, LayerNorm
from adam_mp.network.part_layers import (
    Draw,
    Fetch,
    PartBatchNorm,
    PartDropout,
    PartStochasticDepth,
    SumOfParts,
)

Kernels = Mapping[type[Layer], tuple[Callable[..., None], Callable[..., None]]]  # layer: (forward, backward)
_WIDE = 64  # from this number of outputs, a dense layer has special kernels for few images


class _Pooling(Operation):
    """Pooling, of padded images if the layer pads. `border` is the value of the padding."""

    reads_inputs = False
    border: ClassVar[float] = 0.0

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        self.margin = self.layer.margin
        height, width, channels = group.input_shape
        padded = (block, height + 2 * self.margin, width + 2 * self.margin, channels)
        self.padded: np.ndarray = np.full(padded if self.margin else (0, 1, 1, 1), self.border, real)
        self.padded_error: np.ndarray = np.zeros_like(self.padded)

    def _pad(self, x: np.ndarray) -> tuple[list[Call], np.ndarray]:
        """Return the call that pads images, if the layer pads, and the images that the pooling reads."""
        if not self.margin:
            return [], x
        padded = self.padded[: len(x)]
        return [(conv.pad_images, (x, padded, self.margin))], padded

    def _crop(self, x_error: np.ndarray) -> tuple[np.ndarray, list[Call]]:
        """Return the array that the pooling writes the error of its images to, and the call that crops that."""
        if not self.margin:
            return x_error, []
        padded = self.padded_error[: len(x_error)]
        return padded, [(crop.crop_images, (padded, x_error, self.margin))]


class MaxPooling(_Pooling):
    """Max-pooling that does not follow a convolution, with the ReLU after it, if there is one."""

    border = -math.inf

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        self.choice = np.zeros((batch, *group.output_shape), np.uint8)
        # The kernels add a bias and compute its gradient, because most pooling follows a convolution.
        self.no_bias, self.unused = bias_of(group, weights, gradients, real)
        self.reads_output = self.rectify

    def forward(self, span: Span, training: bool) -> list[Call]:
        choice = self.choice[span.first : span.first + len(span.x)]
        sizes = (self.layer.size, self.layer.step, self.rectify)
        calls, x = self._pad(span.x)
        return [*calls, (pool.max_pool_forward, (x, self.no_bias, span.out, choice, *sizes))]

    def backward(self, span: Span) -> list[Call]:
        if span.x_error is None:
            return []
        choice = self.choice[span.first : span.first + len(span.x)]
        sizes = (self.layer.size, self.layer.step, self.rectify, span.accumulate)
        x_error, calls = self._crop(span.x_error)
        return [(pool.max_pool_backward, (span.error, span.out, choice, x_error, self.unused, *sizes)), *calls]


class AveragePooling(_Pooling):
    """Average pooling, which is never fused with another layer."""

    reads_output = False

    def forward(self, span: Span, training: bool) -> list[Call]:
        calls, x = self._pad(span.x)
        return [*calls, (pool.average_pool_forward, (x, span.out, self.layer.size, self.layer.step))]

    def backward(self, span: Span) -> list[Call]:
        if span.x_error is None:
            return []
        x_error, calls = self._crop(span.x_error)
        return [(pool.average_pool_backward, (span.error, x_error, self.layer.size, self.layer.step)), *calls]


class DenseProduct(Operation):
    """A dense layer with its bias, and the ReLU after it, if there is one: `out = max(x @ weight + bias, 0)`."""

    read_after = True

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        name = group.name
        self.weight, self.weight_gradient = weights[f"{name}.weight"], gradients[f"{name}.weight"]
        self.bias, self.bias_gradient = bias_of(group, weights, gradients, real)
        self.reads_output = self.rectify
        inputs, outputs = self.weight.shape
        self.panel = product_panel(real)
        self.images, self.inputs = strided(batch, inputs), strided(inputs, 1)
        self.weight_rows, self.weight_columns = strided(inputs, outputs), strided(outputs, 1)
        self.error_columns = np.zeros(outputs * batch, real)
        self.x_error_columns = np.zeros(inputs * batch, real)
        self.few = np.zeros(dense.FEW * (outputs + 2), real)
        # The optimizer's numbers. The context sets them if the backward pass is to update the shared weight itself.
        self.direct: np.ndarray | None = None

    def forward(self, span: Span, training: bool) -> list[Call]:
        x = _flat(span.x)
        if len(x) == 1:
            return [(dense.dense_forward_one, (x, self.weight, self.bias, span.out, self.rectify))]
        tables = (self.images[: len(x)], self.inputs)
        arguments = (x, *tables, self.weight, self.bias, span.out, self.panel, self.rectify)
        return [(dense.dense_forward, arguments)]

    def backward(self, span: Span) -> list[Call]:
        x, count = _flat(span.x), len(span.x)
        wanted = None if span.x_error is None else _flat(span.x_error)
        calls: list[Call] = []
        if self.layer.bias or self.rectify:
            arrays = (span.error, span.out, self.bias_gradient)
            calls.append((activation.bias_backward, (*arrays, self.rectify, span.accumulate)))
        if count == 1 and self.direct is not None:
            x_error = self.x_error_columns[: x.size].reshape(x.shape) if wanted is None else wanted
            arguments = (x, span.error, self.weight, x_error, self.direct, wanted is not None, self.group.sparse)
            return [*calls, (dense.dense_update_one, arguments)]
        few_images = 1 < count <= dense.FEW and self.weight.shape[1] >= _WIDE
        if few_images and self.direct is not None and wanted is not None:
            few = (x, span.error, self.weight, wanted, self.few, self.direct)
            return [*calls, (dense.dense_update_few, few)]
        # The input's error first: it is computed with the weight, which a direct update changes.
        if wanted is not None:
            calls.append(self._input_error(span.error, wanted))
        tables = (self.inputs, self.images[:count])
        if self.direct is not None:
            calls.append((dense.dense_update, (x, *tables, span.error, self.weight, self.panel, self.direct)))
        else:
            gradient = (self.weight_gradient, self.panel, self.panel.dtype.type(span.accumulate))
            calls.append((dense.dense_backward_weight, (x, *tables, span.error, *gradient)))
        return calls

    def _input_error(self, error: np.ndarray, x_error: np.ndarray) -> Call:
        count = len(error)
        if count == 1:
            return dense.dense_backward_input_one, (error, self.weight, x_error)
        inputs, outputs = self.weight.shape
        columns = self.error_columns[: outputs * count].reshape(outputs, count)
        x_columns = self.x_error_columns[: inputs * count].reshape(inputs, count)
        tables = (self.weight_rows, self.weight_columns)
        return dense.dense_backward_input, (error, self.weight, *tables, columns, x_columns, x_error, self.panel)


class Activation(Operation):
    """An activation that is not fused with the layer before it, and whose backward pass reads its output."""

    reads_inputs = False
    _KERNELS: ClassVar[Kernels] = {
        kinds.ReLU: (activation.relu_forward, activation.relu_backward),
        kinds.Sigmoid: (activation.sigmoid_forward, activation.sigmoid_backward),
        kinds.Tanh: (activation.tanh_forward, activation.tanh_backward),
        kinds.ReLU6: (gate.relu6_forward, gate.relu6_backward),
        kinds.LeakyReLU: (gate.leaky_forward, gate.leaky_backward),
    }

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        self.numbers = tuple(real(value) for value in vars(self.layer).values())  # of the layer, for its kernels

    def forward(self, span: Span, training: bool) -> list[Call]:
        return [(self._KERNELS[type(self.layer)][0], (span.x.reshape(-1), span.out.reshape(-1), *self.numbers))]

    def backward(self, span: Span) -> list[Call]:
        if span.x_error is None:
            return []
        read = (span.x if self.reads_inputs else span.out).reshape(-1)
        arrays = (span.error.reshape(-1), read, span.x_error.reshape(-1))
        return [(self._KERNELS[type(self.layer)][1], (*arrays, *self.numbers))]


class Gate(Activation):
    """An activation whose backward pass reads its input."""

    reads_inputs, reads_output = True, False
    _KERNELS: ClassVar[Kernels] = {
        kinds.HardSwish: (gate.hard_swish_forward, gate.hard_swish_backward),
        kinds.SiLU: (gate.silu_forward, gate.silu_backward),
        kinds.GELU: (gate.gelu_forward, gate.gelu_backward),
    }


class DropoutMask(Operation):
    """Dropout. The worker sets `key` for each batch, by `TrainingContext.set_dropout_key`, before the forward pass.

    `mask` keeps the factor of each value of the batch, 0 or `1 / (1 - rate)`, for the backward pass.
    """

    reads_inputs = reads_output = False

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        self.draw = _draw_of(group)
        self.key = np.zeros(1, np.uint64)
        self.mask: np.ndarray = np.zeros((batch, *group.output_shape), real)

    def forward(self, span: Span, training: bool) -> list[Call]:
        if not training:
            return [(np.copyto, (span.out, span.x))]
        (_, width, channels), part = self.draw.image, self.draw.box
        # The draws depend on a value's position in the batch and in the whole network: they are the same however the
        # batch is cut into spans, and the network into parts.
        whole = math.prod(self.draw.image)
        first = span.first * whole + part.rows.begin * width * channels + part.channels.begin
        shape, pixels = (len(span.x), math.prod(self.group.output_shape)), 1
        if part.channels.size < channels:
            pixels = part.rows.size * width
            shape = (len(span.x) * pixels, part.channels.size)
        mask = self.mask[span.first : span.first + len(span.x)].reshape(shape)
        draws = (mask.dtype.type(self.layer.rate), self.key, np.uint64(self.draw.place), np.uint64(first))
        steps = (pixels, np.uint64(whole), np.uint64(channels))
        return [(dropout.dropout_forward, (span.x.reshape(shape), span.out.reshape(shape), mask, *draws, *steps))]

    def backward(self, span: Span) -> list[Call]:
        if span.x_error is None:
            return []
        mask = self.mask[span.first : span.first + len(span.x)].reshape(-1)
        return [(dropout.dropout_backward, (span.error.reshape(-1), mask, span.x_error.reshape(-1)))]


class ImageDropout(DropoutMask):
    """Stochastic depth: a factor for each image, 0 or `1 / (1 - rate)`; the key is as that of dropout."""

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        Operation.__init__(self, group, weights, gradients, batch, block, real)
        self.draw = _draw_of(group)
        self.key = np.zeros(1, np.uint64)
        self.mask: np.ndarray = np.zeros(batch, real)

    def forward(self, span: Span, training: bool) -> list[Call]:
        if not training:
            return [(np.copyto, (span.out, span.x))]
        mask = self.mask[span.first : span.first + len(span.x)]
        draw = (mask, mask.dtype.type(self.layer.rate), self.key, np.uint64(self.draw.place))
        return [
            (dropout.draw_mask, (*draw, np.uint64(span.first))),
            (dropout.scale_images, (_flat(span.x), mask, _flat(span.out))),
        ]

    def backward(self, span: Span) -> list[Call]:
        if span.x_error is None:
            return []
        mask = self.mask[span.first : span.first + len(span.x)]
        return [(dropout.scale_images, (_flat(span.error), mask, _flat(span.x_error)))]


class LocalResponse(Operation):
    """Local response normalisation: `out = x / scale ** beta`. The backward pass reads the forward pass's `scale`."""

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        self.scale: np.ndarray = np.zeros((batch, *group.output_shape), real)
        layer = self.layer
        self.numbers = (layer.size, real(layer.alpha), real(layer.beta))
        self.offset = real(layer.offset)

    def forward(self, span: Span, training: bool) -> list[Call]:
        scale = rows(self.scale[span.first : span.first + len(span.x)])
        return [
            (normalization.local_response_forward, (rows(span.x), rows(span.out), scale, *self.numbers, self.offset))
        ]

    def backward(self, span: Span) -> list[Call]:
        if span.x_error is None:
            return []
        scale = rows(self.scale[span.first : span.first + len(span.x)])
        arrays = (rows(span.error), rows(span.x), rows(span.out), scale, rows(span.x_error))
        return [(normalization.local_response_backward, (*arrays, *self.numbers))]


class GlobalAverage(Operation):
    """Average pooling over whole images."""

    reads_inputs = reads_output = False

    def forward(self, span: Span, training: bool) -> list[Call]:
        return [(global_pool.global_average_forward, (pixels(span.x), span.out))]

    def backward(self, span: Span) -> list[Call]:
        if span.x_error is None:
            return []
        return [(global_pool.global_average_backward, (span.error, pixels(span.x_error)))]


def _draw_of(group: Group) -> Draw:
    """Return which draws of the whole network's layer a dropout makes."""
    draw = getattr(group.layers[0], "draw", None)
    return Draw.of_all(group.position, group.output_shape) if draw is None else draw


def _flat(array: np.ndarray) -> np.ndarray:
    """View [n, ...] as [n, features]."""
    return array.reshape(len(array), -1)


def operation_of(group: Group) -> type[Operation]:
    """Return the operation that computes a group."""
    layer = group.layers[0]
    if isinstance(layer, kinds.Conv) and layer.groups > 1:
        if not layer.groups == layer.channels == group.input_shape[2]:
            return GroupedConvolution
        return SameDepthwiseConvolution if SameDepthwiseConvolution.fits(layer) else DepthwiseConvolution
    return _OPERATIONS[type(layer)]


_OPERATIONS: dict[type[Layer], type[Operation]] = {
    kinds.Conv: Convolution,
    kinds.MaxPool: MaxPooling,
    kinds.AveragePool: AveragePooling,
    kinds.GlobalAveragePool: GlobalAverage,
    Add: Sum,
    Multiply: Product,
    Concat: SideBySide,
    kinds.Dense: DenseProduct,
    kinds.ReLU: Activation,
    kinds.Sigmoid: Activation,
    kinds.Tanh: Activation,
    kinds.ReLU6: Activation,
    kinds.LeakyReLU: Activation,
    kinds.HardSwish: Gate,
    kinds.SiLU: Gate,
    kinds.GELU: Gate,
    kinds.Dropout: DropoutMask,
    kinds.StochasticDepth: ImageDropout,
    kinds.LocalResponseNorm: LocalResponse,
    GroupNorm: GroupNormalization,
    LayerNorm: LayerNormalization,
    BatchNorm: BatchNormalization,
    PartBatchNorm: PartBatchNormalization,
    PartDropout: DropoutMask,
    PartStochasticDepth: ImageDropout,
    Fetch: Fetching,
    SumOfParts: AddingParts,
}
