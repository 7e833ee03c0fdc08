"""What an operation is: one layer bound to buffers, or several layers that one pass over the data computes together.

A convolution is fused with the max-pooling and ReLU that follow it, a dense layer with its ReLU. An operation owns its
scratch, allocated once for the largest block. Asked for a span of images, it returns kernel calls over arrays that
exist already.
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
    """Layers of a network that one operation computes. `position` and `name` are those of the first.

    `way` is a convolution's backward way, None for the likely faster one. `sparse` says that an input of 0 needs no
    error, because a ReLU or dropout before made the 0, and stops the error.
    """

    position: int
    layers: tuple[Layer, ...]
    name: str
    input_shape: Shape
    output_shape: Shape
    way: str | None = None
    sparse: bool = False


def fuse(network: Network, ways: Mapping[str, str] | None = None) -> Iterator[Group]:
    """Yield a network's layers, without its softmax, in groups for one operation each; `ways`: name -> `Group.way`."""
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
    """Return whether the outputs of these layers fit `Group.sparse`: after a ReLU, none of them adds values up."""
    for layer in reversed(below):
        if isinstance(layer, kinds.ReLU):
            return True
        if not isinstance(layer, (kinds.Dropout, kinds.Flatten, kinds.MaxPool)):
            return False
    return False


@dataclasses.dataclass(frozen=True)
class Span:
    """Some images of a batch, from number `first` on, and the arrays with an operation's inputs and outputs for them.

    `x` and `out` are [n, *shape]; `error` and `x_error` are the gradients of the loss by out and by x. `x_error` is
    None if no operation needs it. With `accumulate` the gradients of the weights are added to, else replaced: it is
    False for the first span of a batch only. `last` marks the last span. `fresh` says that other images have run
    forward since this span did, so that the operation must fill its scratch again.
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
    """Return [0, step, 2 step, ...], int64 [count]: the offsets of a plain matrix's rows or columns, for a product."""
    return np.arange(count, dtype=np.int64) * step


def product_panel(real: type) -> np.ndarray:
    """Return the scratch that every product needs: room for `PANEL_BYTES` of its right factor."""
    return np.zeros(PANEL_BYTES // np.dtype(real).itemsize, real)
