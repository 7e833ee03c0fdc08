"""The ways to run a convolution backward: from its output's error to the weight's gradient and the input's error.

- `tiled` computes the gradient `patches.T @ error`, and no error of the input: for layers before which nothing trains.
- `flipped` computes the same gradient, and the input's error as a convolution of the padded error with the flipped
  weight.
- `scattered` computes the same gradient, and the input's error as `error @ weight.T`, whose rows are added up at the
  places of their patches.
- `sparse` computes both from a list of the errors that are not 0; for windows without dilation.

A patch is what the convolution's window covers at one output pixel; a tap is one value's place in the window.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from adam_mp.compute.operation import Call, Span, aligned_zeros, product_panel, rows, strided
from adam_mp.kernels import conv, sparse
from adam_mp.kernels.product import transpose
from adam_mp.network.layer import Shape
from adam_mp.network.layers import Conv

_SCATTERED_ROWS = 256  # rows that `scattered` computes, at least, before it adds them up

Patches = tuple[np.ndarray, np.ndarray, np.ndarray]  # images (padded, if the layer pads), offsets of pixels, of taps


@dataclasses.dataclass(frozen=True)
class BoundLayer:
    """A convolution with its shapes, its weight [taps, filters], and the array for the weight's gradient.

    Scratch is for `block` images of type `real`.
    """

    layer: Conv
    input_shape: Shape
    output_shape: Shape
    weight: np.ndarray
    gradient: np.ndarray
    block: int
    real: type

    @property
    def pixels(self) -> int:
        """How many output pixels an image has."""
        return math.prod(self.output_shape[:2])

    @property
    def geometry(self) -> tuple[int, int, int]:
        """Size, stride and margin."""
        return self.layer.size, self.layer.stride, self.layer.margin


class Tiled:
    """The weight's gradient as a product. For the first layers, where the error of the input is not needed."""

    def __init__(self, bound: BoundLayer) -> None:
        self.bound = bound
        self.panel = product_panel(bound.real)

    def calls(self, patches: Patches, error: np.ndarray, span: Span) -> list[Call]:
        """Return the kernel calls that compute the weight's gradient from the output's `error` [n, h, w, c].

        The other ways also compute the input's error, into `span.x_error`. They copy the weight (flipped or transposed)
        again for the first span of each batch.
        """
        gradient = (rows(error), self.bound.gradient, self.panel, self.panel.dtype.type(span.accumulate))
        return [(conv.conv_backward_weight, (*patches, *gradient))]


class Flipped(Tiled):
    """The weight's gradient as `Tiled`, and the input's error as a convolution; for stride 1."""

    def __init__(self, bound: BoundLayer) -> None:
        super().__init__(bound)
        layer, (height, width, filters) = bound.layer, bound.output_shape
        self.padding = layer.extent - 1 - layer.margin
        padded = (height + 2 * self.padding, width + 2 * self.padding, filters)
        self.padded: np.ndarray = np.zeros((bound.block, *padded), bound.real)
        self.pixels = conv.pixel_offsets(bound.block, padded, layer.extent, 1)
        self.taps = conv.tap_offsets(padded, layer.size, layer.dilation)
        self.flipped: np.ndarray = np.zeros((layer.size**2 * filters, bound.input_shape[2]), bound.real)

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
    """The weight's gradient as `Tiled`, and the input's error as a product.

    The rows of that product are added up at the places of their patches.
    """

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
        dilation = self.bound.layer.dilation
        arguments = (rows(error), *tables, span.x_error, *self.bound.geometry, dilation, self.panel)
        return [*calls, (conv.conv_backward_input, arguments)]


class Sparse:
    """Gradient and input's error from a list of the errors that are not 0.

    Before a max-pooling and a ReLU, a quarter of the errors or less is not 0.
    """

    def __init__(self, bound: BoundLayer) -> None:
        self.bound = bound
        taps, filters = bound.weight.shape
        outputs = bound.block * bound.pixels
        # The most elements of a list: no error is 0, and every row's and column's part is padded by up to a group.
        room = outputs * (filters + sparse.GROUP) + filters * sparse.GROUP
        # The list of `compress_rows`: the begin of each row, then columns and values.
        self.starts = np.zeros(outputs + 1, np.int64)
        self.listed = np.zeros(room, np.int32), np.zeros(room, bound.real)
        # The same list, sorted by `group_by_column`: the begin of each column, its scratch, then rows and values.
        self.begins, self.filled = np.zeros(filters + 2, np.int64), np.zeros(filters + 2, np.int64)
        self.sorted = np.zeros(room, np.int32), np.zeros(room, bound.real)
        self.transposed_gradient: np.ndarray = np.zeros((filters, taps), bound.real)
        self.scratch = _patch_scratch(bound)
        width = sparse.padded_width(taps, np.dtype(bound.real).itemsize)
        self.transposed = aligned_zeros((filters + 1, width), bound.real)  # the last row stays 0: padding points to it

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


def ways_back(layer: Conv, wanted: bool) -> list[str]:
    """Return the ways that a convolution can use, the likely faster first; `wanted` is whether for its input's error.

    `flipped` suits outputs as large as inputs; with smaller outputs it would multiply much padding.
    """
    if not wanted:
        return ["tiled"]
    last = ["sparse"] if layer.dilation == 1 else []
    if layer.stride > 1 or layer.margin >= layer.extent:
        return ["scattered", *last]
    by_size = ["flipped", "scattered"] if layer.margin >= layer.extent // 2 else ["scattered", "flipped"]
    return [*by_size, *last]


def _patch_scratch(bound: BoundLayer) -> np.ndarray:
    """Return scratch for the patches of a few images, at most a block."""
    images = min(bound.block, math.ceil(_SCATTERED_ROWS / bound.pixels))
    return np.zeros((images * bound.pixels, bound.weight.shape[0]), bound.real)
