"""What an operation is: one layer, or several that one pass over the data does together, bound to buffers.

A convolution takes the max-pooling and ReLU behind it along, a dense layer its ReLU. An operation owns the scratch it
needs, sized once for the largest block, and answers with kernel calls over arrays that exist already.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from adam_mp.kernels.product import PANEL_BYTES
from adam_mp.network import layers as kinds
from adam_mp.network.layers import Layer, Shape
from adam_mp.network.network import Network

Call = tuple[Callable[..., None], tuple[Any, ...]]
Tensors = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Group:
    """Layers of a network that one operation does: position of the first, the layers, name, shapes in and out.

    `way` is the way back through a convolution, None for the likely faster one. `sparse` says that an
    input of 0 takes no error further down, because a ReLU or dropout made it.
    """

    position: int
    layers: tuple[Layer, ...]
    name: str
    input_shape: Shape
    output_shape: Shape
    way: str | None = None
    sparse: bool = False


def fuse(network: Network, ways: Mapping[str, str] | None = None) -> Iterator[Group]:
    """Cut a network, less its softmax, into the groups that are done in one pass; `ways` as in `Group`, by name."""
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
        name = network.names[position]
        yield Group(
            position, layers[position:end], name, network.shapes[position], network.shapes[end],
            (ways or {}).get(name), _is_sparse(layers[:position]),
        )  # fmt: skip
        position = end


def _is_sparse(below: tuple[Layer, ...]) -> bool:
    """Tell whether zeros among the outputs of these layers take no error down: all passed a ReLU at last."""
    for layer in reversed(below):
        if isinstance(layer, kinds.ReLU):
            return True
        if not isinstance(layer, (kinds.Dropout, kinds.Flatten, kinds.MaxPool)):
            return False
    return False


@dataclasses.dataclass(frozen=True)
class Span:
    """Some images of a batch, from number `first` on, and where an operation finds and leaves their values.

    x and out are [n, *shape], `error` and `x_error` the gradients of the loss by out and x; without an `x_error` nobody
    below needs it. `accumulate` adds to the gradients of the weights instead of replacing them, and is set but for the
    first span of a step; `last` for the last one. `fresh` says that the forward pass of other images came in between,
    so that scratch must be made anew.
    """

    first: int
    x: np.ndarray
    out: np.ndarray
    error: np.ndarray
    x_error: np.ndarray | None = None
    accumulate: bool = False
    fresh: bool = False
    last: bool = True


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


def rows(array: np.ndarray) -> np.ndarray:
    """View [..., n] as [rows, n]."""
    return array.reshape(-1, array.shape[-1])


def strided(count: int, step: int) -> np.ndarray:
    """Return offsets of rows or columns of a plain matrix, for one side of a product's left factor."""
    return np.arange(count, dtype=np.int64) * step


def product_panel(real: type) -> np.ndarray:
    """Return the scratch that every product needs."""
    return np.zeros(PANEL_BYTES // np.dtype(real).itemsize, real)
