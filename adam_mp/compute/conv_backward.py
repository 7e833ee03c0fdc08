"""The ways back through a convolution: from the error of its output to the weight's gradient and the input's error.

`tiled` computes the weight's gradient as a product with the patches, and no error of the input. `flipped` adds the
error of the input as a convolution of the padded error with the flipped weight, `scattered` as a product with the
transposed weight whose rows are added up where the patches were. `sparse` does both from a list of what is not 0.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from adam_mp.compute.operation import Call, Span, product_panel, rows, strided
from adam_mp.kernels import conv, sparse
from adam_mp.kernels.product import transpose
from adam_mp.network.layers import Conv, Shape

_SCATTERED_ROWS = 256  # rows of patches that are made before they are added up, at least
_CACHE_LINE = 64

Patches = tuple[np.ndarray, np.ndarray, np.ndarray]  # images, padded if need be, and the offsets of pixels and taps


@dataclasses.dataclass(frozen=True)
class BoundLayer:
    """A convolution, its shapes, its weight and where the weight's gradient goes; scratch is for `block` images."""

    layer: Conv
    input_shape: Shape
    output_shape: Shape
    weight: np.ndarray
    gradient: np.ndarray
    block: int
    real: type

    @property
    def pixels(self) -> int:
        """Output pixels of an image."""
        return math.prod(self.output_shape[:2])

    @property
    def geometry(self) -> tuple[int, int, int]:
        """Size, stride and padding."""
        return self.layer.size, self.layer.stride, self.layer.padding


class Tiled:
    """The weight's gradient as a product; for the first layer, as nobody needs the error of the images."""

    def __init__(self, bound: BoundLayer) -> None:
        self.bound = bound
        self.panel = product_panel(bound.real)

    def calls(self, patches: Patches, error: np.ndarray, span: Span) -> list[Call]:
        """Return the kernel calls for `error` [n, h, w, c] of the output, the error of the input into `span.x_error`.

        What is made of the weight is made anew for the first span of a step.
        """
        gradient = (rows(error), self.bound.gradient, self.panel, self.panel.dtype.type(span.accumulate))
        return [(conv.conv_backward_weight, (*patches, *gradient))]


class Flipped(Tiled):
    """The error of the input as a convolution; for stride 1."""

    def __init__(self, bound: BoundLayer) -> None:
        super().__init__(bound)
        size, (height, width, filters) = bound.layer.size, bound.output_shape
        self.padding = size - 1 - bound.layer.padding
        padded = (height + 2 * self.padding, width + 2 * self.padding, filters)
        self.padded: np.ndarray = np.zeros((bound.block, *padded), bound.real)
        self.pixels, self.taps = conv.pixel_offsets(bound.block, padded, size, 1), conv.tap_offsets(padded, size)
        self.flipped: np.ndarray = np.zeros((size**2 * filters, bound.input_shape[2]), bound.real)

    def calls(self, patches: Patches, error: np.ndarray, span: Span) -> list[Call]:
        """See Tiled."""
        calls = super().calls(patches, error, span)
        assert span.x_error is not None
        if not span.accumulate:
            calls.append((conv.flip_weight, (self.bound.weight, self.flipped, self.bound.layer.size)))
        pixels = self.pixels[: len(error) * math.prod(self.bound.input_shape[:2])]
        padded = self.padded[: len(error)]
        return [
            *calls,
            (conv.pad_images, (error, padded, self.padding)),
            (conv.conv_forward, (padded, pixels, self.taps, self.flipped, rows(span.x_error), self.panel)),
        ]


class Scattered(Tiled):
    """The error of the input as a product and a sum over patches."""

    def __init__(self, bound: BoundLayer) -> None:
        super().__init__(bound)
        filters = bound.output_shape[2]
        self.scratch = _patch_scratch(bound)
        self.rows, self.depths = strided(len(self.scratch), filters), strided(filters, 1)
        self.transposed: np.ndarray = np.zeros(bound.weight.shape[::-1], bound.real)

    def calls(self, patches: Patches, error: np.ndarray, span: Span) -> list[Call]:
        """See Tiled."""
        calls = super().calls(patches, error, span)
        if not span.accumulate:
            calls.append((transpose, (self.bound.weight, self.transposed)))
        tables = (self.rows, self.depths, self.transposed, self.scratch)
        arguments = (rows(error), *tables, span.x_error, *self.bound.geometry, self.panel)
        return [*calls, (conv.conv_backward_input, arguments)]


class Sparse:
    """Both from the list of the errors that are not 0: a quarter or less, behind max-pooling and ReLU."""

    def __init__(self, bound: BoundLayer) -> None:
        self.bound = bound
        taps, filters = bound.weight.shape
        outputs = bound.block * bound.pixels
        room = outputs * (filters + sparse.GROUP) + filters * sparse.GROUP
        self.starts = np.zeros(outputs + 1, np.int64)
        self.listed = np.zeros(room, np.int32), np.zeros(room, bound.real)
        self.begins, self.filled = np.zeros(filters + 2, np.int64), np.zeros(filters + 2, np.int64)
        self.sorted = np.zeros(room, np.int32), np.zeros(room, bound.real)
        self.transposed_gradient: np.ndarray = np.zeros((filters, taps), bound.real)
        self.scratch = _patch_scratch(bound)
        width = sparse.padded_width(taps, np.dtype(bound.real).itemsize)
        self.transposed = _aligned_zeros((filters + 1, width), bound.real)  # the last row stays 0: it pads lists

    def calls(self, patches: Patches, error: np.ndarray, span: Span) -> list[Call]:
        """See Tiled."""
        bound, listed = self.bound, (self.starts[: len(error) * self.bound.pixels + 1], *self.listed)
        run = bound.layer.size * bound.input_shape[2]
        grouping = (self.begins, self.filled, *self.sorted, self.transposed_gradient)
        calls: list[Call] = [
            (sparse.compress_rows, (rows(error), *listed)),
            (sparse.sparse_backward_weight, (*patches, run, *listed, *grouping, span.accumulate)),
        ]
        if span.last:
            calls.append((transpose, (self.transposed_gradient, bound.gradient)))
        if not span.accumulate:
            calls.append((transpose, (bound.weight, self.transposed[:-1])))
        arguments = (*listed, self.transposed, self.scratch, span.x_error, *bound.geometry)
        return [*calls, (sparse.sparse_backward_input, arguments)]


BACKWARD_WAYS: dict[str, type[Tiled] | type[Sparse]] = {
    "tiled": Tiled, "flipped": Flipped, "scattered": Scattered, "sparse": Sparse,
}  # fmt: skip


def ways_back(layer: Conv, position: int) -> list[str]:
    """Return the ways that a convolution at `position` of a network has, the one that is likely faster first.

    Flipping suits outputs as large as inputs; where the output is smaller it would multiply much padding.
    """
    if position == 0:
        return ["tiled"]
    if layer.stride > 1 or layer.padding >= layer.size:
        return ["scattered", "sparse"]
    by_size = ["flipped", "scattered"] if layer.padding >= layer.size // 2 else ["scattered", "flipped"]
    return [*by_size, "sparse"]


def _patch_scratch(bound: BoundLayer) -> np.ndarray:
    """Return scratch for the patches of a few images, at most a block."""
    images = min(bound.block, math.ceil(_SCATTERED_ROWS / bound.pixels))
    return np.zeros((images * bound.pixels, bound.weight.shape[0]), bound.real)


def _aligned_zeros(shape: tuple[int, int], real: type) -> np.ndarray:
    """Return zeros that begin with a cache line."""
    size = np.dtype(real).itemsize
    memory: np.ndarray = np.zeros(math.prod(shape) + _CACHE_LINE // size, real)
    begin = -memory.ctypes.data % _CACHE_LINE // size
    return memory[begin : begin + math.prod(shape)].reshape(shape)
