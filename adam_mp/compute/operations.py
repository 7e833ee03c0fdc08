"""Layers bound to kernels and buffers: from a description to lists of kernel calls over given arrays.

An operation is one layer, or several that one pass over the data does together: a convolution with the max-pooling and
ReLU behind it, a dense layer with its ReLU. It owns the scratch it needs, sized once for the largest block.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from adam_mp.kernels import activation, conv, dense, dropout, normalization, pool
from adam_mp.network import layers as kinds
from adam_mp.network.layers import Layer, Shape
from adam_mp.network.network import Network

Call = tuple[Callable[..., None], tuple[Any, ...]]
Tensors = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Group:
    """Layers of a network that one operation does: position of the first, the layers, shapes in and out, name."""

    position: int
    layers: tuple[Layer, ...]
    name: str
    input_shape: Shape
    output_shape: Shape


def fuse(network: Network) -> Iterator[Group]:
    """Cut a network, less its softmax, into the groups that are done in one pass."""
    position, layers = 0, network.layers[:-1]
    while position < len(layers):
        end = position + 1
        if isinstance(layers[position], (kinds.Conv, kinds.MaxPool)):
            followers: list[type[Layer]] = [kinds.ReLU]
            if isinstance(layers[position], kinds.Conv):
                followers.append(kinds.MaxPool)
            # ReLU and max-pooling commute, so either order may be fused; each at most once.
            while end < len(layers) and type(layers[end]) in followers:
                followers.remove(type(layers[end]))
                end += 1
        elif isinstance(layers[position], kinds.Dense) and isinstance(layers[min(end, len(layers) - 1)], kinds.ReLU):
            end += 1
        yield Group(
            position, layers[position:end], network.names[position], network.shapes[position], network.shapes[end]
        )
        position = end


@dataclasses.dataclass(frozen=True)
class Span:
    """Some images of a batch, from number `first` on, and where an operation finds and leaves their values.

    x and out are [n, *shape], `error` and `x_error` the gradients of the loss by out and x; without an `x_error` nobody
    below needs it. `accumulate` adds to the gradients of the weights instead of replacing them; `fresh` says that
    the forward pass of other images came in between, so that scratch must be made anew.
    """

    first: int
    x: np.ndarray
    out: np.ndarray
    error: np.ndarray
    x_error: np.ndarray | None = None
    accumulate: bool = False
    fresh: bool = False


class Operation(abc.ABC):
    """A group bound to `weights` and `gradients` (by name), with scratch for spans of up to `block` images."""

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        self.group = group
        self.layer: Any = group.layers[0]
        self.rectify = any(isinstance(layer, kinds.ReLU) for layer in group.layers[1:])

    @abc.abstractmethod
    def forward(self, span: Span, training: bool) -> list[Call]:
        """Return the kernel calls that compute `span.out` from `span.x`."""

    @abc.abstractmethod
    def backward(self, span: Span) -> list[Call]:
        """Return the kernel calls that compute `span.x_error` and the gradients from `span.error`."""


def _rows(array: np.ndarray) -> np.ndarray:
    """View [..., n] as [rows, n]."""
    return array.reshape(-1, array.shape[-1])


class Convolution(Operation):
    """Convolution, with bias and, in the same pass over its output, max-pooling and ReLU if they follow."""

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        name, layer = group.name, self.layer
        self.weight, self.bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        self.weight_gradient, self.bias_gradient = gradients[f"{name}.weight"], gradients[f"{name}.bias"]
        self.geometry = (layer.size, layer.stride, layer.padding)
        shape = layer.output_shape(group.input_shape)
        pixels = math.prod(shape[:2])
        self.pixels = pixels
        self.patches = np.zeros((block * pixels, self.weight.shape[0]), real)
        # The patches' errors take the patches' place, except where the weight gradient may need them later.
        self.pool: Any = next((after for after in group.layers[1:] if isinstance(after, kinds.MaxPool)), None)
        if self.pool is not None:
            self.unpooled = np.zeros((block, *shape), real)
            self.choice = np.zeros((batch, *group.output_shape), np.uint8)

    def forward(self, span: Span, training: bool) -> list[Call]:
        count = len(span.x)
        patches = self.patches[: count * self.pixels]
        scores = span.out if self.pool is None else self.unpooled[:count]
        calls: list[Call] = [(conv.conv_forward, (span.x, self.weight, patches, _rows(scores), *self.geometry))]
        if self.pool is None:
            calls.append((activation.add_bias, (_rows(span.out), self.bias, self.rectify)))
        else:
            choice = self.choice[span.first : span.first + count]
            size, step = self.pool.size, self.pool.step
            calls.append((pool.max_pool_forward, (scores, self.bias, span.out, choice, size, step, self.rectify)))
        return calls

    def backward(self, span: Span) -> list[Call]:
        count = len(span.x)
        patches = self.patches[: count * self.pixels]
        calls: list[Call] = []
        if self.pool is None:
            scores_error = span.error
            calls.append(
                (
                    activation.bias_backward,
                    (_rows(span.error), _rows(span.out), self.bias_gradient, self.rectify, span.accumulate),
                )
            )
        else:
            scores_error = self.unpooled[:count]
            choice = self.choice[span.first : span.first + count]
            sizes = (self.pool.size, self.pool.step, self.rectify, span.accumulate)
            calls.append(
                (pool.max_pool_backward, (span.error, span.out, choice, scores_error, self.bias_gradient, *sizes))
            )
        weight_arguments = (
            span.x,
            patches,
            _rows(scores_error),
            self.weight_gradient,
            *self.geometry,
            span.fresh,
            float(span.accumulate),
        )
        calls.append((conv.conv_backward_weight, weight_arguments))
        if span.x_error is not None:
            calls.append(
                (conv.conv_backward_input, (_rows(scores_error), self.weight, patches, span.x_error, *self.geometry))
            )
        return calls


class MaxPooling(Operation):
    """Max-pooling on its own, or with the ReLU behind it."""

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        self.choice = np.zeros((batch, *group.output_shape), np.uint8)
        self.no_bias: np.ndarray = np.zeros(0, real)

    def forward(self, span: Span, training: bool) -> list[Call]:
        choice = self.choice[span.first : span.first + len(span.x)]
        sizes = (self.layer.size, self.layer.step, self.rectify)
        return [(pool.max_pool_forward, (span.x, self.no_bias, span.out, choice, *sizes))]

    def backward(self, span: Span) -> list[Call]:
        if span.x_error is None:
            return []
        choice = self.choice[span.first : span.first + len(span.x)]
        sizes = (self.layer.size, self.layer.step, self.rectify, span.accumulate)
        return [(pool.max_pool_backward, (span.error, span.out, choice, span.x_error, self.no_bias, *sizes))]


class AveragePooling(Operation):
    """Average pooling."""

    def forward(self, span: Span, training: bool) -> list[Call]:
        return [(pool.average_pool_forward, (span.x, span.out, self.layer.size, self.layer.step))]

    def backward(self, span: Span) -> list[Call]:
        if span.x_error is None:
            return []
        return [(pool.average_pool_backward, (span.error, span.x_error, self.layer.size, self.layer.step))]


class DenseProduct(Operation):
    """A dense layer, with its bias and the ReLU behind it."""

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        name = group.name
        self.weight, self.bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        self.weight_gradient, self.bias_gradient = gradients[f"{name}.weight"], gradients[f"{name}.bias"]
        # Set by the context where the update goes straight into the shared weight: the optimizer's numbers.
        self.direct: np.ndarray | None = None

    def forward(self, span: Span, training: bool) -> list[Call]:
        return [(dense.dense_forward, (span.x, self.weight, self.bias, span.out, self.rectify))]

    def backward(self, span: Span) -> list[Call]:
        calls: list[Call] = [
            (activation.bias_backward, (span.error, span.out, self.bias_gradient, self.rectify, span.accumulate)),
        ]
        # The input's span.error span.first: a direct update changes the weight that it is computed with.
        if span.x_error is not None:
            calls.append((dense.dense_backward_input, (span.error, self.weight, span.x_error)))
        if self.direct is not None:
            calls.append((dense.dense_update, (span.x, span.error, self.weight, self.direct)))
        else:
            calls.append(
                (dense.dense_backward_weight, (span.x, span.error, self.weight_gradient, float(span.accumulate)))
            )
        return calls


class Activation(Operation):
    """ReLU, sigmoid or tanh on its own."""

    _KERNELS = {
        kinds.ReLU: (activation.relu_forward, activation.relu_backward),
        kinds.Sigmoid: (activation.sigmoid_forward, activation.sigmoid_backward),
        kinds.Tanh: (activation.tanh_forward, activation.tanh_backward),
    }

    def forward(self, span: Span, training: bool) -> list[Call]:
        return [(self._KERNELS[type(self.layer)][0], (span.x.reshape(-1), span.out.reshape(-1)))]

    def backward(self, span: Span) -> list[Call]:
        if span.x_error is None:
            return []
        return [
            (
                self._KERNELS[type(self.layer)][1],
                (span.error.reshape(-1), span.out.reshape(-1), span.x_error.reshape(-1)),
            )
        ]


class DropoutMask(Operation):
    """Dropout; the context writes the batch's key into `key` before each training step."""

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        self.key = np.zeros(1, np.uint64)
        self.mask: np.ndarray = np.zeros((batch, *group.output_shape), real)

    def forward(self, span: Span, training: bool) -> list[Call]:
        if not training:
            return [(np.copyto, (span.out, span.x))]
        mask = self.mask[span.first : span.first + len(span.x)].reshape(-1)
        start = np.uint64(span.first * math.prod(self.group.output_shape))
        layer = np.uint64(self.group.position)
        rate = mask.dtype.type(self.layer.rate)
        return [
            (dropout.dropout_forward, (span.x.reshape(-1), span.out.reshape(-1), mask, rate, self.key, layer, start))
        ]

    def backward(self, span: Span) -> list[Call]:
        if span.x_error is None:
            return []
        mask = self.mask[span.first : span.first + len(span.x)].reshape(-1)
        return [(dropout.dropout_backward, (span.error.reshape(-1), mask, span.x_error.reshape(-1)))]


class LocalResponse(Operation):
    """Local response normalisation; keeps the scales of the forward pass for the way back."""

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        super().__init__(group, weights, gradients, batch, block, real)
        self.scale: np.ndarray = np.zeros((batch, *group.output_shape), real)
        layer = self.layer
        self.numbers = (layer.size, real(layer.alpha), real(layer.beta))
        self.offset = real(layer.offset)

    def forward(self, span: Span, training: bool) -> list[Call]:
        scale = _rows(self.scale[span.first : span.first + len(span.x)])
        return [
            (normalization.local_response_forward, (_rows(span.x), _rows(span.out), scale, *self.numbers, self.offset))
        ]

    def backward(self, span: Span) -> list[Call]:
        if span.x_error is None:
            return []
        scale = _rows(self.scale[span.first : span.first + len(span.x)])
        arrays = (_rows(span.error), _rows(span.x), _rows(span.out), scale, _rows(span.x_error))
        return [(normalization.local_response_backward, (*arrays, *self.numbers))]


OPERATIONS: dict[type[Layer], type[Operation]] = {
    kinds.Conv: Convolution,
    kinds.MaxPool: MaxPooling,
    kinds.AveragePool: AveragePooling,
    kinds.Dense: DenseProduct,
    kinds.ReLU: Activation,
    kinds.Sigmoid: Activation,
    kinds.Tanh: Activation,
    kinds.Dropout: DropoutMask,
    kinds.LocalResponseNorm: LocalResponse,
}
