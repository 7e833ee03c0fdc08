"""Depthwise convolution: each channel has a kernel of its own, so the channels lie in vectors side by side.

For one vector of channels, a kernel's taps stay in registers while the window goes over an image:

    window_sums      out[p] = sum over taps t of x[p + t] * weight[t]     forward, and back with a flipped weight
    window_products  gradient[t] = sum over p of x[p + t] * error[p]      of the weight
    window_spread    x_error[p + t] += error[p] * weight[t]               back, where windows are more than 1 apart

Shapes: x [n, height, width, c], padded by the caller if the layer pads; out and error [n, out_h, out_w, c]; weight and
its gradient [size * size, c]. Taps are `dilation` pixels apart, windows `stride` pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from adam_mp.kernels.compilation import inline, kernel
from adam_mp.kernels.vector import VECTOR_BYTES, Vectors, address, integer


class _Walk(NamedTuple):
    """Distances in the flat images: windows in rows and columns, the numbers between them, and between their taps."""

    rows: Any
    columns: Any
    channels: Any  # also how many numbers lie between two pixels of out
    line: Any  # between two rows of windows
    step: Any  # between two windows of a row
    down: Any  # between two rows of taps
    along: Any  # between two taps of a row
    size: Any  # taps in a row
    rest: Any  # channels from the first one of the vector on


class _Windows(Vectors):
    """Emits loops over the windows of an image and over their taps, for one vector of channels."""

    def __init__(self, context: Any, builder: Any, real: Any, size: int, walk: _Walk) -> None:
        super().__init__(builder, context.get_value_type(real))
        self.fixed, self.walk = size, walk

    def windows(self, x: Any, out: Any) -> Iterator[tuple[Any, Any]]:
        """Emit a loop over windows; yields the addresses of the window's first tap in x and of its pixel in out."""
        builder, walk = self.builder, self.walk
        with cgutils.for_range(builder, walk.rows) as row:
            begin = builder.gep(x, [builder.mul(row.index, walk.line)])
            line = builder.gep(out, [builder.mul(row.index, builder.mul(walk.columns, walk.channels))])
            with cgutils.for_range(builder, walk.columns) as column:
                yield (
                    builder.gep(begin, [builder.mul(column.index, walk.step)]),
                    builder.gep(line, [builder.mul(column.index, walk.channels)]),
                )

    def line(self, weight: Any, number: Any) -> Any:
        """Return the address of the vector of tap `number` in a weight, or in its gradient."""
        return self.builder.gep(weight, [self.builder.mul(number, self.walk.channels)])

    def taps(self, window: Any) -> Iterator[tuple[Any, Any]]:
        """Yield (number, address) of each tap of a window; without a usual size, emits loops over them."""
        builder, walk = self.builder, self.walk
        if self.fixed:
            for i in range(self.fixed):
                line = builder.gep(window, [builder.mul(integer(i), walk.down)])
                for j in range(self.fixed):
                    yield integer(i * self.fixed + j), builder.gep(line, [builder.mul(integer(j), walk.along)])
            return
        with cgutils.for_range(builder, walk.size) as i:
            line = builder.gep(window, [builder.mul(i.index, walk.down)])
            with cgutils.for_range(builder, walk.size) as j:
                number = builder.add(builder.mul(i.index, walk.size), j.index)
                yield number, builder.gep(line, [builder.mul(j.index, walk.along)])


def _begin(
    context: Any, builder: Any, size: int, kinds: tuple[Any, Any, Any], given: Any
) -> tuple[_Windows, list[Any]]:
    """Return what emits an intrinsic's code, and the addresses of its three arrays, which are of the types `kinds`.

    `given` are the intrinsic's arguments: three flat arrays, each followed by the index where it begins, and a tuple as
    `_Walk`. An intrinsic does one vector of channels of one image. `size` of 0 is any size, which the tuple has.
    """
    emit = _Windows(context, builder, kinds[0].dtype, size, _Walk(*cgutils.unpack_tuple(builder, given[6])))
    places = zip(kinds, given[0:6:2], given[1:6:2], strict=True)
    return emit, [address(context, builder, *place) for place in places]


def _define_sums(size: int) -> Any:
    @intrinsic
    def sums(_typing: Any, x: Any, x_at: Any, weight: Any, weight_at: Any, out: Any, out_at: Any, walk: Any) -> Any:
        signature = types.void(x, types.int64, weight, types.int64, out, types.int64, walk)

        def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
            emit, (first, factors, target) = _begin(context, builder, size, (x, weight, out), given)
            for mask in emit.masks(emit.walk.rest):
                known = [emit.load(emit.line(factors, integer(t)), mask) for t in range(size * size)]
                for window, place in emit.windows(first, target):
                    total = cgutils.alloca_once_value(builder, emit.zeros)
                    for number, tap in emit.taps(window):
                        factor = known[number.constant] if known else emit.load(emit.line(factors, number), mask)
                        value = emit.multiply_add(emit.load(tap, mask), factor, builder.load(total))
                        builder.store(value, total)
                    emit.store(builder.load(total), place, mask)
            return context.get_dummy_value()

        return signature, generate

    return sums


def _define_products(size: int) -> Any:
    @intrinsic
    def products(_typing: Any, x: Any, x_at: Any, error: Any, error_at: Any, gradient: Any, gradient_at: Any,
                 walk: Any) -> Any:  # fmt: skip
        signature = types.void(x, types.int64, error, types.int64, gradient, types.int64, walk)

        def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
            emit, (first, source, target) = _begin(context, builder, size, (x, error, gradient), given)
            for mask in emit.masks(emit.walk.rest):
                lines = [emit.line(target, integer(t)) for t in range(size * size)]
                totals = [cgutils.alloca_once_value(builder, emit.load(line, mask)) for line in lines]
                for window, place in emit.windows(first, source):
                    slope = emit.load(place, mask)
                    for number, tap in emit.taps(window):
                        if totals:
                            total = totals[number.constant]
                            value = emit.multiply_add(emit.load(tap, mask), slope, builder.load(total))
                            builder.store(value, total)
                        else:
                            line = emit.line(target, number)
                            value = emit.multiply_add(emit.load(tap, mask), slope, emit.load(line, mask))
                            emit.store(value, line, mask)
                for line, total in zip(lines, totals, strict=True):
                    emit.store(builder.load(total), line, mask)
            return context.get_dummy_value()

        return signature, generate

    return products


def _define_spread(size: int) -> Any:
    @intrinsic
    def spread(_typing: Any, x_error: Any, x_at: Any, weight: Any, weight_at: Any, error: Any, error_at: Any,
               walk: Any) -> Any:  # fmt: skip
        signature = types.void(x_error, types.int64, weight, types.int64, error, types.int64, walk)

        def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
            emit, (first, factors, source) = _begin(context, builder, size, (x_error, weight, error), given)
            for mask in emit.masks(emit.walk.rest):
                for window, place in emit.windows(first, source):
                    slope = emit.load(place, mask)
                    for number, tap in emit.taps(window):
                        factor = emit.load(emit.line(factors, number), mask)
                        emit.store(emit.multiply_add(factor, slope, emit.load(tap, mask)), tap, mask)
            return context.get_dummy_value()

        return signature, generate

    return spread


_sums_3, _sums_5, _sums = (_define_sums(size) for size in (3, 5, 0))
_products_3, _products_5, _products = (_define_products(size) for size in (3, 5, 0))
_spread_3, _spread_5, _spread = (_define_spread(size) for size in (3, 5, 0))


@inline
def _walk(out, width, size, stride, dilation, first):
    """Return the tuple of `_Walk` for channels from `first` on; `width` is that of x."""
    channels = out.shape[3]
    line = width * channels
    return (
        out.shape[1], out.shape[2], channels, stride * line, stride * channels, dilation * line, dilation * channels,
        size, channels - first,
    )  # fmt: skip


@kernel("void(R[:,:,:,::1], R[:,::1], R[:,:,:,::1], i8, i8, i8)")
def window_sums(x, weight, out, size, stride, dilation):
    """`out = sum over the taps of each window of x * weight`."""
    source, factors, target = x.reshape(-1), weight.reshape(-1), out.reshape(-1)
    lanes = VECTOR_BYTES // x.itemsize
    for n in range(out.shape[0]):
        x_at, out_at = n * x[0].size, n * out[0].size
        for c in range(0, out.shape[3], lanes):
            walk = _walk(out, x.shape[2], size, stride, dilation, c)
            if size == 3:
                _sums_3(source, x_at + c, factors, c, target, out_at + c, walk)
            elif size == 5:
                _sums_5(source, x_at + c, factors, c, target, out_at + c, walk)
            else:
                _sums(source, x_at + c, factors, c, target, out_at + c, walk)


@kernel("void(R[:,:,:,::1], R[:,:,:,::1], R[:,::1], i8, i8, i8, b1)")
def window_products(x, error, gradient, size, stride, dilation, accumulate):
    """`gradient = sum over windows of their taps of x * error`, added to what it holds if `accumulate`."""
    source, slopes, target = x.reshape(-1), error.reshape(-1), gradient.reshape(-1)
    lanes = VECTOR_BYTES // x.itemsize
    if not accumulate:
        target[:] = 0
    for n in range(error.shape[0]):
        x_at, error_at = n * x[0].size, n * error[0].size
        for c in range(0, error.shape[3], lanes):
            walk = _walk(error, x.shape[2], size, stride, dilation, c)
            if size == 3:
                _products_3(source, x_at + c, slopes, error_at + c, target, c, walk)
            elif size == 5:
                _products_5(source, x_at + c, slopes, error_at + c, target, c, walk)
            else:
                _products(source, x_at + c, slopes, error_at + c, target, c, walk)


@kernel("void(R[:,:,:,::1], R[:,::1], R[:,:,:,::1], i8, i8, i8)")
def window_spread(x_error, weight, error, size, stride, dilation):
    """`x_error = sum over the windows that cover a pixel of error * weight`."""
    target, factors, slopes = x_error.reshape(-1), weight.reshape(-1), error.reshape(-1)
    lanes = VECTOR_BYTES // x_error.itemsize
    target[:] = 0
    for n in range(error.shape[0]):
        x_at, error_at = n * x_error[0].size, n * error[0].size
        for c in range(0, error.shape[3], lanes):
            walk = _walk(error, x_error.shape[2], size, stride, dilation, c)
            if size == 3:
                _spread_3(target, x_at + c, factors, c, slopes, error_at + c, walk)
            elif size == 5:
                _spread_5(target, x_at + c, factors, c, slopes, error_at + c, walk)
            else:
                _spread(target, x_at + c, factors, c, slopes, error_at + c, walk)
