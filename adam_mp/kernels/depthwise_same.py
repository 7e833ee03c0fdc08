"""The usual depthwise convolution: 3x3 taps side by side, stride 1, images that keep their size. Nothing is padded.

    same_sums      out[p] = sum over taps t of x[p + t - 1] * weight[t]     forward, and back with a flipped weight
    same_products  gradient[t] = sum over p of x[p + t - 1] * error[p]      of the weight

Outside of the image, x is 0. For one vector of channels the window slides along a row: nine vectors of x stay in
registers, and each pixel reads only the three that are new. `depthwise` has all other convolutions.

Shapes: x, out, error [n, height, width, c]; weight and its gradient [9, c]; nothing is a row of zeros [width * c], for
the rows above and below the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from adam_mp.kernels.compilation import inline, kernel
from adam_mp.kernels.vector import VECTOR_BYTES, Vectors, address, integer, prefetch

_TAPS = 9
_ROW_BYTES = 8192  # of the channels that are done at once: three such rows of x and one of the other array are in use
_LEAST = 4  # vectors of a pixel that are done at once, even if their rows are longer


class _Row(Vectors):
    """Emits the code for one vector of channels of one row of an image.

    `given` are x, the row of zeros, and the tuple of `_row`.
    """

    def __init__(self, context: Any, builder: Any, x: Any, given: Any) -> None:
        super().__init__(builder, context.get_value_type(x.dtype))
        source, nothing, row = given
        *starts, self.columns, self.channels, self.rest, self.ahead = cgutils.unpack_tuple(builder, row)
        zeros = address(context, builder, x, nothing, integer(0))
        self.lines = [
            builder.select(
                builder.icmp_signed("<", start, integer(0)), zeros, address(context, builder, x, source, start)
            )
            for start in starts
        ]

    def windows(self, mask: Any) -> Iterator[tuple[list[Any], Any]]:
        """Emit a loop over the row's pixels; yields the vectors of the window, and the pixel's place in a row of out.

        The caller emits its body twice: for the last pixel, behind which nothing is read, apart from the others.
        """
        builder = self.builder
        slots = [[cgutils.alloca_once_value(builder, self.zeros) for _ in range(3)] for _ in self.lines]
        for line, (_, middle, _) in zip(self.lines, slots, strict=True):
            builder.store(self.load(line, mask), middle)
        last = builder.sub(self.columns, integer(1))
        with cgutils.for_range(builder, last) as pixel:
            place = builder.mul(pixel.index, self.channels)
            ahead = builder.add(place, self.channels)
            for line, (_, _, right) in zip(self.lines, slots, strict=True):
                builder.store(self.load(builder.gep(line, [ahead]), mask), right)
            yield [builder.load(slot) for row in slots for slot in row], place
            for left, middle, right in slots:
                builder.store(builder.load(middle), left)
                builder.store(builder.load(right), middle)
        for _, _, right in slots:
            builder.store(self.zeros, right)
        yield [builder.load(slot) for row in slots for slot in row], builder.mul(last, self.channels)

    def prefetch_next(self, place: Any, other: Any, written: bool) -> None:
        """Have the next row's lines of x and of another array in the cache by the time they are used.

        The processor does not foresee them, since vectors that follow each other lie a pixel apart.
        """
        ahead = self.builder.add(place, self.ahead)
        prefetch(self.builder, self.builder.gep(other, [ahead]), written)
        prefetch(self.builder, self.builder.gep(self.lines[2], [ahead]))

    def taps(self, weight: Any) -> list[Any]:
        """Return the addresses of the vectors of all taps, in a weight or in its gradient."""
        return [self.builder.gep(weight, [self.builder.mul(integer(t), self.channels)]) for t in range(_TAPS)]


@intrinsic
def _sums(_typing: Any, weight: Any, weight_at: Any, out: Any, out_at: Any, x: Any, nothing: Any,
          row: Any) -> Any:  # fmt: skip
    signature = types.void(weight, types.int64, out, types.int64, x, nothing, row)

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        emit = _Row(context, builder, x, given[4:])
        factors, target = (address(context, builder, kind, *given[n : n + 2]) for kind, n in ((weight, 0), (out, 2)))
        for mask in emit.masks(emit.rest):
            known = [emit.load(tap, mask) for tap in emit.taps(factors)]
            for window, place in emit.windows(mask):
                totals = [emit.zeros] * 3  # a sum for each row of taps: one alone would wait for each of its terms
                for t, value in enumerate(window):
                    totals[t // 3] = emit.multiply_add(value, known[t], totals[t // 3])
                total = builder.fadd(builder.fadd(totals[0], totals[1]), totals[2])
                emit.store(total, builder.gep(target, [place]), mask)
                emit.prefetch_next(place, target, True)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _products(_typing: Any, error: Any, error_at: Any, gradient: Any, gradient_at: Any, x: Any, nothing: Any,
              row: Any) -> Any:  # fmt: skip
    signature = types.void(error, types.int64, gradient, types.int64, x, nothing, row)

    def generate(context: Any, builder: Any, _: Any, given: Any) -> Any:
        emit = _Row(context, builder, x, given[4:])
        slopes, target = (address(context, builder, kind, *given[n : n + 2]) for kind, n in ((error, 0), (gradient, 2)))
        for mask in emit.masks(emit.rest):
            taps = emit.taps(target)
            totals = [cgutils.alloca_once_value(builder, emit.load(tap, mask)) for tap in taps]
            for window, place in emit.windows(mask):
                slope = emit.load(builder.gep(slopes, [place]), mask)
                emit.prefetch_next(place, slopes, False)
                for value, total in zip(window, totals, strict=True):
                    builder.store(emit.multiply_add(value, slope, builder.load(total)), total)
            for tap, total in zip(taps, totals, strict=True):
                emit.store(builder.load(total), tap, mask)
        return context.get_dummy_value()

    return signature, generate


@inline
def _group(width, channels, lanes):
    """Return how many channels to take at once, and how far ahead to prefetch: a row, or 0 if rows are too long."""
    group = min(lanes * max(_LEAST, _ROW_BYTES // (width * VECTOR_BYTES)), channels)
    return group, (width * channels if width * group <= _ROW_BYTES // VECTOR_BYTES * lanes else 0)


@inline
def _row(x, n, y, c, ahead):
    """Return where the lines above, here and below begin in x for channels from `c` on (-1 for no line), and sizes.

    These are the pixels of a row, all channels, those from `c` on, and how far ahead to prefetch.
    """
    height, width, channels = x.shape[1:]
    line = width * channels
    here = (n * height + y) * line + c
    up, down = here - line if y > 0 else -1, here + line if y + 1 < height else -1
    return up, here, down, width, channels, channels - c, ahead


@kernel("void(R[:,:,:,::1], R[:,::1], R[:,:,:,::1], R[::1])")
def same_sums(x, weight, out, nothing):
    """`out = sum over the taps of each pixel's window of x * weight`."""
    source, factors, target = x.reshape(-1), weight.reshape(-1), out.reshape(-1)
    height, width, channels = x.shape[1:]
    lanes = VECTOR_BYTES // x.itemsize
    group, ahead = _group(width, channels, lanes)
    for n in range(x.shape[0]):
        for first in range(0, channels, group):
            for y in range(height):
                for c in range(first, min(first + group, channels), lanes):
                    row = _row(x, n, y, c, ahead)
                    _sums(factors, c, target, row[1], source, nothing, row)


@kernel("void(R[:,:,:,::1], R[:,:,:,::1], R[:,::1], R[::1], b1)")
def same_products(x, error, gradient, nothing, accumulate):
    """`gradient = sum over pixels of their windows' taps of x * error`, added to what it holds if `accumulate`."""
    source, slopes, target = x.reshape(-1), error.reshape(-1), gradient.reshape(-1)
    height, width, channels = x.shape[1:]
    lanes = VECTOR_BYTES // x.itemsize
    group, ahead = _group(width, channels, lanes)
    if not accumulate:
        target[:] = 0
    for n in range(x.shape[0]):
        for first in range(0, channels, group):
            for y in range(height):
                for c in range(first, min(first + group, channels), lanes):
                    row = _row(x, n, y, c, ahead)
                    _products(slopes, row[1], target, c, source, nothing, row)
