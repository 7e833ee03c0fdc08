"""Batch normalisation (Ioffe and Szegedy 2015): `out = (x - mean) / sqrt(variance + epsilon) * gamma + beta`.

Mean and variance are those of each channel over all pixels of all images of a batch. The batch runs in spans of images
that fit the cache, so there are four passes, each over one span at a time:

    add_moments     forward, as soon as a span of x is computed: mean and variance of the batch so far
    scale_channels  forward, once the batch's moments are known: `out = x * scale + offset`, then ReLU if wanted
    add_error_sums  backward, as soon as a span of the error is computed: what the two sums below need
    norm_backward   backward, once the batch's sums are known: the error of x

Between passes, `norm_scales` and `norm_slopes` turn sums into factors by channel, so that the passes over pixels only
multiply and add. With ReLU, the two passes back compute anew from x which values were positive: that is quicker than
reading them.

Arrays of pixels are [pixels, channels]; all others are [channels]. Sums are float64. Each pass goes over some pixels
that fit the nearest cache, one vector of channels after the other, so that factors and sums stay in registers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from adam_mp.kernels.compilation import inline, kernel
from adam_mp.kernels.vector import Vectors, address

_NEAR = 2048  # numbers of an array that are worked on at once
_FEWEST = 8  # pixels at once, however many channels they have


class _Pass(Vectors):
    """Emits a loop over `pixels` pixels of `channels` channels for each vector of channels."""

    def __init__(self, context: Any, builder: Any, real: Any) -> None:
        super().__init__(builder, context.get_value_type(real))
        self.context = context

    def run(
        self, pixels: Any, channels: Any, begin: Callable[[Any, Any], Any], body: Callable[[Any, Any, Any], None],
        end: Callable[[Any, Any, Any], None] = lambda state, index, mask: None,
    ) -> None:  # fmt: skip
        """Emit `begin(index, mask)`, which returns a state, `body(state, offset, mask)` for each pixel, and `end`.

        `index` is the first channel of a vector, `offset` its place in the arrays of pixels.
        """
        for index, mask in self.vectors_of(channels):
            state = begin(index, mask)
            with cgutils.for_range(self.builder, pixels) as pixel:
                body(state, self.builder.add(self.builder.mul(pixel.index, channels), index), mask)
            end(state, index, mask)

    def all_at(self, arrays: Sequence[tuple[Any, Any]], index: Any, mask: Any) -> list[Any]:
        """Load one vector from each array, given as (its type, array)."""
        return [self.load(address(self.context, self.builder, *array, index), mask) for array in arrays]

    def add(self, place: Any, value: Any) -> None:
        """Add to a sum in a register."""
        self.builder.store(self.builder.fadd(self.builder.load(place), value), place)

    def where_positive(self, wanted: Any, value: Any, result: Any) -> Any:
        """Return `result` in the lanes where `value` is not 0 or less, and in all lanes unless `wanted`."""
        positive = self.builder.fcmp_unordered(">", value, self.zeros)
        return self.builder.select(
            self.builder.or_(positive, self.splat(self.builder.not_(wanted))), result, self.zeros
        )


@intrinsic
def _sum_distances(_typing: Any, x: Any, at: Any, sums: Any, powers: Any, pixels: Any, channels: Any) -> Any:
    """Sum up the distances of pixels from the first one, which is at `at`, and their squares."""
    signature = types.void(x, types.int64, sums, powers, types.int64, types.int64)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        emit = _Pass(context, builder, x.dtype)
        first = address(context, builder, x, arguments[0], arguments[1])

        def begin(index: Any, mask: Any) -> Any:
            origin = emit.load(builder.gep(first, [index]), mask)
            return origin, *(cgutils.alloca_once_value(builder, emit.zeros) for _ in range(2))

        def body(state: Any, offset: Any, mask: Any) -> None:
            distance = builder.fsub(emit.load(builder.gep(first, [offset]), mask), state[0])
            emit.add(state[1], distance)
            builder.store(emit.multiply_add(distance, distance, builder.load(state[2])), state[2])

        def end(state: Any, index: Any, mask: Any) -> None:
            for kind, array, place in ((sums, arguments[2], state[1]), (powers, arguments[3], state[2])):
                emit.store(builder.load(place), address(context, builder, kind, array, index), mask)

        emit.run(arguments[4], arguments[5], begin, body, end)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _scale(_typing: Any, x: Any, out: Any, at: Any, factors: Any, pixels: Any, channels: Any, rectify: Any) -> Any:
    """`out = x * scale + offset` for pixels from `at` on; `factors` is (scale, offset)."""
    signature = types.void(x, out, types.int64, factors, types.int64, types.int64, types.boolean)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        emit = _Pass(context, builder, x.dtype)
        source, target = (
            address(context, builder, kind, array, arguments[2])
            for kind, array in ((x, arguments[0]), (out, arguments[1]))
        )
        known = list(zip(factors.types, cgutils.unpack_tuple(builder, arguments[3]), strict=True))

        def body(state: Any, offset: Any, mask: Any) -> None:
            value = emit.multiply_add(emit.load(builder.gep(source, [offset]), mask), *state)
            emit.store(emit.where_positive(arguments[6], value, value), builder.gep(target, [offset]), mask)

        emit.run(arguments[4], arguments[5], lambda index, mask: emit.all_at(known, index, mask), body)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _sum_errors(_typing: Any, error: Any, x: Any, at: Any, factors: Any, sums: Any, pixels: Any, channels: Any,
                rectify: Any) -> Any:  # fmt: skip
    """Sum up the errors of pixels from `at` on, and errors times the distances of x from the mean.

    `factors` is (scale, offset, mean), `sums` is (of errors, of products).
    """
    signature = types.void(error, x, types.int64, factors, sums, types.int64, types.int64, types.boolean)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        emit = _Pass(context, builder, x.dtype)
        slopes, source = (
            address(context, builder, kind, array, arguments[2])
            for kind, array in ((error, arguments[0]), (x, arguments[1]))
        )
        known = list(zip(factors.types, cgutils.unpack_tuple(builder, arguments[3]), strict=True))
        targets = list(zip(sums.types, cgutils.unpack_tuple(builder, arguments[4]), strict=True))

        def begin(index: Any, mask: Any) -> Any:
            totals = [cgutils.alloca_once(builder, emit.type) for _ in targets]
            for place in totals:
                builder.store(emit.zeros, place)
            return *emit.all_at(known, index, mask), totals

        def body(state: Any, offset: Any, mask: Any) -> None:
            scale, shift, mean, (plain, times) = state
            seen = emit.load(builder.gep(source, [offset]), mask)
            value = emit.load(builder.gep(slopes, [offset]), mask)
            value = emit.where_positive(arguments[7], emit.multiply_add(seen, scale, shift), value)
            emit.add(plain, value)
            builder.store(emit.multiply_add(value, builder.fsub(seen, mean), builder.load(times)), times)

        def end(state: Any, index: Any, mask: Any) -> None:
            for target, place in zip(targets, state[-1], strict=True):
                emit.store(builder.load(place), address(context, builder, *target, index), mask)

        emit.run(arguments[5], arguments[6], begin, body, end)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _slope(_typing: Any, error: Any, x: Any, x_error: Any, at: Any, factors: Any, pixels: Any, channels: Any,
           flags: Any) -> Any:  # fmt: skip
    """`x_error = scale * error + slope * x + level` for pixels from `at` on.

    `factors` is (scale, offset, slope, level), `flags` is (rectify, whether to add to what x_error holds).
    """
    signature = types.void(error, x, x_error, types.int64, factors, types.int64, types.int64, flags)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        emit = _Pass(context, builder, x.dtype)
        slopes, source, target = (
            address(context, builder, kind, array, arguments[3])
            for kind, array in ((error, arguments[0]), (x, arguments[1]), (x_error, arguments[2]))
        )
        known = list(zip(factors.types, cgutils.unpack_tuple(builder, arguments[4]), strict=True))
        rectify, adds = cgutils.unpack_tuple(builder, arguments[7])

        def body(state: Any, offset: Any, mask: Any) -> None:
            scale, shift, slope, level = state
            seen = emit.load(builder.gep(source, [offset]), mask)
            value = emit.load(builder.gep(slopes, [offset]), mask)
            value = emit.where_positive(rectify, emit.multiply_add(seen, scale, shift), value)
            value = emit.multiply_add(value, scale, emit.multiply_add(seen, slope, level))
            place = builder.gep(target, [offset])
            with builder.if_else(adds) as (add, overwrite):
                with add:
                    emit.store(builder.fadd(emit.load(place, mask), value), place, mask)
                with overwrite:
                    emit.store(value, place, mask)

        emit.run(arguments[5], arguments[6], lambda index, mask: emit.all_at(known, index, mask), body)
        return context.get_dummy_value()

    return signature, generate


@inline
def _near(channels):
    """Return how many pixels to work on at once."""
    return max(_FEWEST, _NEAR // channels)


@kernel("void(R[:,::1], f8[::1], f8[::1], i8, R[:,::1])")
def add_moments(x, mean, squares, before, scratch):
    """Add the pixels of `x` to the moments of `before` pixels; with `before` of 0 the moments are overwritten.

    `mean` is the mean, `squares` the sum of the squares of the distances from it. Some pixels are summed as distances
    from the first of them, which keeps the digits where the mean is far from 0; then they are merged into the moments
    (Chan, Golub and LeVeque 1979). `scratch` is [2, channels].
    """
    pixels, channels = x.shape
    sums, powers = scratch[0], scratch[1]
    source, step = x.reshape(-1), _near(channels)
    if before == 0:
        mean[:] = 0
        squares[:] = 0
    for first in range(0, pixels, step):
        some = min(step, pixels - first)
        at = first * channels
        _sum_distances(source, at, sums, powers, some, channels)
        count, known = float(some), float(before + first)
        weight = count / (known + count)
        for j in range(channels):
            shift = float(sums[j]) / count
            apart = float(source[at + j]) + shift - mean[j]
            squares[j] += max(float(powers[j]) - float(sums[j]) * shift, 0.0) + apart * apart * known * weight
            mean[j] += apart * weight


@kernel("void(f8[::1], f8[::1], i8, R[::1], R[::1], f8, R[::1], R[::1], R[::1], R[::1])")
def norm_scales(mean, squares, pixels, gamma, beta, epsilon, scale, offset, middle, inverse):
    """Turn the moments of `pixels` pixels into factors.

    `inverse = 1 / sqrt(squares / pixels + epsilon)`, `middle = mean`; `scale = gamma * inverse`,
    `offset = beta - mean * scale`.
    """
    for j in range(gamma.size):
        one = 1.0 / math.sqrt(squares[j] / pixels + epsilon)
        factor = gamma[j] * one
        inverse[j], middle[j] = one, mean[j]
        scale[j], offset[j] = factor, beta[j] - mean[j] * factor


@kernel("void(R[:,::1], R[::1], R[::1], R[:,::1], b1)")
def scale_channels(x, scale, offset, out, rectify):
    """`out = x * scale + offset`, then `out = max(out, 0)` if `rectify`."""
    pixels, channels = x.shape
    source, target, step = x.reshape(-1), out.reshape(-1), _near(channels)
    for first in range(0, pixels, step):
        some = min(step, pixels - first)
        _scale(source, target, first * channels, (scale, offset), some, channels, rectify)


@kernel("void(R[:,::1], R[:,::1], R[::1], R[::1], R[::1], R[::1], f8[::1], f8[::1], b1, b1, R[:,::1])")
def add_error_sums(error, x, scale, offset, middle, inverse, errors, products, rectify, accumulate, scratch):
    """Sum the error, and the error times the normalised x, over pixels.

    Without `accumulate` the sums `errors` and `products` are overwritten. If `rectify`, errors where `x * scale +
    offset` is not positive count as 0. `products` are also the gradient of gamma, `errors` that of beta. `scratch` is
    [2, channels].
    """
    pixels, channels = x.shape
    plain, times = scratch[0], scratch[1]
    slopes, source, step = error.reshape(-1), x.reshape(-1), _near(channels)
    if not accumulate:
        errors[:] = 0
        products[:] = 0
    for first in range(0, pixels, step):
        some = min(step, pixels - first)
        factors, sums = (scale, offset, middle), (plain, times)
        _sum_errors(slopes, source, first * channels, factors, sums, some, channels, rectify)
        for j in range(channels):
            errors[j] += plain[j]
            products[j] += times[j] * inverse[j]


@kernel("void(f8[::1], f8[::1], i8, R[::1], R[::1], R[::1], R[::1], R[::1])")
def norm_slopes(errors, products, pixels, scale, middle, inverse, slope, level):
    """Turn the sums over `pixels` pixels into the factors of `norm_backward`.

    The error of x is `scale * (error - errors / pixels - normalised x * products / pixels)`. With
    `slope = -scale * inverse * products / pixels` and `level = -scale * errors / pixels - slope * middle` it is
    `scale * error + slope * x + level`.
    """
    for j in range(scale.size):
        tilt = -scale[j] * inverse[j] * products[j] / pixels
        slope[j] = tilt
        level[j] = -scale[j] * errors[j] / pixels - tilt * middle[j]


@kernel("void(R[:,::1], R[:,::1], R[::1], R[::1], R[::1], R[::1], R[:,::1], b1, b1)")
def norm_backward(error, x, scale, offset, slope, level, x_error, rectify, adds):
    """`x_error = scale * error + slope * x + level`, added to what `x_error` holds if `adds`.

    If `rectify`, errors where `x * scale + offset` is not positive count as 0.
    """
    pixels, channels = x.shape
    slopes, source, target, step = error.reshape(-1), x.reshape(-1), x_error.reshape(-1), _near(channels)
    for first in range(0, pixels, step):
        some, factors = min(step, pixels - first), (scale, offset, slope, level)
        _slope(slopes, source, target, first * channels, factors, some, channels, (rectify, adds))
