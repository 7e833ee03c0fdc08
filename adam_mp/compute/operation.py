"""What an operation is: a layer bound to buffers. `fusion` says which layers one operation computes together.

An operation owns its scratch, allocated once for the largest block. Asked for a span of images, it returns kernel calls
over arrays that exist already.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from adam_mp.compute.fusion import Group
from adam_mp.compute.mail import Posts
from adam_mp.kernels.product import PANEL_BYTES
from adam_mp.network import layers as kinds

Call = tuple[Callable[..., None], tuple[Any, ...]]
Tensors = dict[str, np.ndarray]
_CACHE_LINE = 64


@dataclasses.dataclass(frozen=True)
class Span:
    """Some images of a batch, from number `first` on, and the arrays with an operation's inputs and outputs for them.

    `inputs` and `out` are [n, *shape]; `error` and `input_errors` are the gradients of the loss by out and by each
    input. An input's error is None if no operation needs it. `adds` says for each whether its error is to be added to
    what the array holds, because another operation that reads the same value has run backward already; this happens to
    operations with `adds_errors` only. With `accumulate` the gradients of the weights are added to, else replaced: it
    is False for the first span of a batch only. `last` marks the last span; all spans together have `batch` images.
    `fresh` says that other images have run forward since this span did, so that the operation must fill its scratch
    again. `kept` [n, keeps] is what an operation that `keeps` something has for itself.
    """

    first: int
    inputs: tuple[np.ndarray, ...]
    out: np.ndarray
    error: np.ndarray
    input_errors: tuple[np.ndarray | None, ...] = (None,)
    kept: np.ndarray | None = None
    adds: tuple[bool, ...] = (False,)
    accumulate: bool = False
    fresh: bool = False
    last: bool = True
    batch: int = 0

    @property
    def x(self) -> np.ndarray:
        """The first input, for operations that have one."""
        return self.inputs[0]

    @property
    def x_error(self) -> np.ndarray | None:
        """The error of the first input."""
        return self.input_errors[0]


class Operation(abc.ABC):
    """A group bound to `weights` and `gradients` (by name), with scratch for spans of up to `block` images.

    The memory of a value is used for other values once no operation reads it any more. So an operation says what its
    backward pass reads: `reads_inputs`, `reads_output`. What it does not read there may hold anything by then. With
    `read_after`, inputs and error of the tail's operations stay after the program, for `TrainingContext.factors`.
    """

    reads_inputs: bool = True
    reads_output: bool = True
    read_after: ClassVar[bool] = False
    remade: ClassVar[bool] = False  # `forward` is little more than a copy: the backward pass may call it again
    adds_errors: ClassVar[bool] = False  # the operation heeds `Span.adds`
    keeps: int | None = None  # numbers an image that `take_errors` writes into `Span.kept`; `backward` reads no error

    def __init__(self, group: Group, weights: Tensors, gradients: Tensors, batch: int, block: int, real: type) -> None:
        self.group = group
        self.layer: Any = group.layers[0]
        self.rectify = any(isinstance(layer, kinds.ReLU) for layer in group.layers[1:])

    @abc.abstractmethod
    def forward(self, span: Span, training: bool) -> list[Call]:
        """Return the kernel calls that compute `span.out` from `span.inputs`."""

    @abc.abstractmethod
    def backward(self, span: Span) -> list[Call]:
        """Return the kernel calls that compute `span.input_errors` and the gradients from `span.error`."""


class BatchOperation(Operation):
    """An operation of which each image's output depends on the whole batch. It runs in two stages, see `fusion.fuse`.

    For each block of the batch the context asks for `take`, then once for `settle`, then for each block for `forward`;
    back, for each block for `take_errors`, which computes the gradients too, then for each for `backward`. If all that
    it takes are statistics (`of_statistics`), and they are known, there is `forward` alone. What it exchanges with
    other partitions between the stages is in `posts`.
    """

    of_statistics: bool = True
    posts: Posts | None = None

    @abc.abstractmethod
    def take(self, span: Span) -> list[Call]:
        """Return the kernel calls that take the statistics of `span.inputs`."""

    @abc.abstractmethod
    def settle(self, images: int) -> list[Call]:
        """Return the kernel calls that finish the statistics, of a batch of `images`."""

    @abc.abstractmethod
    def take_errors(self, span: Span) -> list[Call]:
        """Return the kernel calls that take from `span.error` what `backward` needs of the whole batch."""


def bias_of(group: Group, weights: Tensors, gradients: Tensors, real: type) -> tuple[np.ndarray, np.ndarray]:
    """Return a group's bias [channels] and the array for its gradient; zeros and scratch if it has no bias."""
    name = f"{group.name}.bias"
    if name in weights:
        return weights[name], gradients[name]
    channels = group.output_shape[-1]
    return np.zeros(channels, real), np.zeros(channels, real)


def rows(array: np.ndarray) -> np.ndarray:
    """View [..., n] as [rows, n]."""
    return array.reshape(-1, array.shape[-1])


def pixels(array: np.ndarray) -> np.ndarray:
    """View [n, ..., c] as [n, pixels, c]."""
    return array.reshape(len(array), -1, array.shape[-1])


def strided(count: int, step: int) -> np.ndarray:
    """Return [0, step, 2 step, ...], int64 [count]: the offsets of a plain matrix's rows or columns, for a product."""
    return np.arange(count, dtype=np.int64) * step


def product_panel(real: type) -> np.ndarray:
    """Return the scratch that every product needs: room for `PANEL_BYTES` of its right factor."""
    return np.zeros(PANEL_BYTES // np.dtype(real).itemsize, real)


def aligned_zeros(shape: tuple[int, ...], real: type) -> np.ndarray:
    """Return an array of zeros whose memory begins at a cache line."""
    size = np.dtype(real).itemsize
    memory: np.ndarray = np.zeros(math.prod(shape) + _CACHE_LINE // size, real)
    begin = -memory.ctypes.data % _CACHE_LINE // size
    return memory[begin : begin + math.prod(shape)].reshape(shape)
