"""Max and average pooling. Max-pooling adds bias and ReLU to a convolution's output in the same pass.

Shapes: x and x_error [n, h, w, c]; out, error and choice [n, out_h, out_w, c]; bias and its gradient [c]. `choice`
holds which position of the window was the largest (row-major, the first among equals): so the backward pass needs
neither the input nor a second search.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from adam_mp.kernels.compilation import kernel
from adam_mp.kernels.vector import VECTOR_BYTES, Vectors, address

_BYTE = ir.IntType(8)


@intrinsic
def _pool_channels(_typing: Any, x: Any, x_at: Any, row: Any, channels: Any, size: Any, places: Any, rest: Any,
                   rectify: Any) -> Any:  # fmt: skip
    """Pool one vector of channels of one window, which begins at `x_at`; the first `rest` lanes are used.

    `row` and `channels` are the distances of rows and of pixels in x. `places` is (bias, position in it, out, position
    in out and choice, choice).
    """
    signature = types.void(x, x_at, types.int64, types.int64, types.int64, places, types.int64, types.boolean)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args[5].types
        bias, bias_at, out, out_at, choice = cgutils.unpack_tuple(builder, arguments[5])
        emit = Vectors(builder, context.get_value_type(x.dtype))
        mask = emit.first_lanes(arguments[6])
        window = address(context, builder, x, arguments[0], arguments[1])
        best = cgutils.alloca_once_value(builder, emit.load(window, mask))
        won = cgutils.alloca_once_value(builder, ir.Constant(ir.VectorType(_BYTE, emit.lanes), [0] * emit.lanes))
        with cgutils.for_range(builder, arguments[4]) as down, cgutils.for_range(builder, arguments[4]) as along:
            offset = builder.add(builder.mul(down.index, arguments[2]), builder.mul(along.index, arguments[3]))
            candidate = emit.load(builder.gep(window, [offset]), mask)
            position = builder.trunc(builder.add(builder.mul(down.index, arguments[4]), along.index), _BYTE)
            # NaN counts as the largest, so that it reaches the loss, where divergence is detected.
            wild = builder.fcmp_unordered("uno", candidate, candidate)
            higher = builder.or_(builder.fcmp_ordered(">", candidate, builder.load(best)), wild)
            builder.store(builder.select(higher, candidate, builder.load(best)), best)
            builder.store(builder.select(higher, emit.splat(position), builder.load(won)), won)
        value = builder.fadd(builder.load(best), emit.load(address(context, builder, kinds[0], bias, bias_at), mask))
        positive = builder.or_(builder.fcmp_unordered(">", value, emit.zeros), emit.splat(builder.not_(arguments[7])))
        emit.store(builder.select(positive, value, emit.zeros), address(context, builder, kinds[2], out, out_at), mask)
        emit.store(builder.load(won), address(context, builder, kinds[4], choice, out_at), mask)
        return context.get_dummy_value()

    return signature, generate


@kernel("void(R[:,:,:,::1], R[::1], R[:,:,:,::1], u1[:,:,:,::1], i8, i8, b1)")
def max_pool_forward(x, bias, out, choice, size, stride, rectify):
    """`out = max of x over each size x size window, + bias`, then `out = max(out, 0)` if `rectify`; sets `choice`."""
    count, out_height, out_width, channels = out.shape
    _, height, width, _ = x.shape
    lanes = VECTOR_BYTES // x.itemsize
    source, target, winners = x.reshape(-1), out.reshape(-1), choice.reshape(-1)
    at = 0
    for n in range(count):
        for y in range(out_height):
            for z in range(out_width):
                start = ((n * height + y * stride) * width + z * stride) * channels
                for c in range(0, channels, lanes):
                    places = (bias, c, target, at + c, winners)
                    _pool_channels(source, start + c, width * channels, channels, size, places, channels - c, rectify)
                at += channels


@intrinsic
def _unpool_channels(_typing: Any, x_error: Any, at: Any, row: Any, channels: Any, size: Any, places: Any, rest: Any,
                     flags: Any) -> Any:  # fmt: skip
    """Write the errors of one vector of channels into one window of `x_error`, which begins at `at`.

    The chosen position of each channel gets the error, all others 0; if windows overlap, it is added. `places` is (bias
    gradient, position in it, error, position in error, out and choice, out, choice); `flags` is (rectify, whether
    windows overlap). `row`, `channels` and `rest` as in `_pool_channels`.
    """
    signature = types.void(x_error, types.int64, types.int64, types.int64, types.int64, places, types.int64, flags)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args[5].types
        gradient, gradient_at, error, error_at, out, choice = cgutils.unpack_tuple(builder, arguments[5])
        rectify, overlap = cgutils.unpack_tuple(builder, arguments[7])
        emit = Vectors(builder, context.get_value_type(x_error.dtype))
        mask = emit.first_lanes(arguments[6])
        value = emit.load(address(context, builder, kinds[2], error, error_at), mask)
        top = emit.load(address(context, builder, kinds[4], out, error_at), mask)
        passes = builder.or_(builder.fcmp_ordered(">", top, emit.zeros), emit.splat(builder.not_(rectify)))
        value = builder.select(passes, value, emit.zeros)
        total = address(context, builder, kinds[0], gradient, gradient_at)
        emit.store(builder.fadd(emit.load(total, mask), value), total, mask)
        won = emit.load(address(context, builder, kinds[5], choice, error_at), mask)
        window = address(context, builder, x_error, arguments[0], arguments[1])
        with cgutils.for_range(builder, arguments[4]) as down, cgutils.for_range(builder, arguments[4]) as along:
            offset = builder.add(builder.mul(down.index, arguments[2]), builder.mul(along.index, arguments[3]))
            place = builder.gep(window, [offset])
            position = builder.trunc(builder.add(builder.mul(down.index, arguments[4]), along.index), _BYTE)
            share = builder.select(builder.icmp_unsigned("==", won, emit.splat(position)), value, emit.zeros)
            with builder.if_else(overlap) as (add, overwrite):
                with add:
                    emit.store(builder.fadd(emit.load(place, mask), share), place, mask)
                with overwrite:
                    emit.store(share, place, mask)
        return context.get_dummy_value()

    return signature, generate


@kernel("void(R[:,:,:,::1], R[:,:,:,::1], u1[:,:,:,::1], R[:,:,:,::1], R[::1], i8, i8, b1, b1)")
def max_pool_backward(error, out, choice, x_error, bias_gradient, size, stride, rectify, accumulate):
    """Set `x_error` at the chosen position of each window to the window's error, and to 0 elsewhere.

    If `rectify`, errors where `out` is 0 count as 0. `bias_gradient` becomes the sum of the errors over all windows,
    added to what it holds if `accumulate`. If windows overlap, their errors add up.
    """
    count, out_height, out_width, channels = out.shape
    _, height, width, _ = x_error.shape
    lanes = VECTOR_BYTES // out.itemsize
    source, tops, winners, target = error.reshape(-1), out.reshape(-1), choice.reshape(-1), x_error.reshape(-1)
    overlap = stride < size
    if overlap or out_height * stride < height or out_width * stride < width or stride > size:
        x_error[:] = 0
    if not accumulate:
        bias_gradient[:] = 0
    at = 0
    for n in range(count):
        for y in range(out_height):
            for z in range(out_width):
                start = ((n * height + y * stride) * width + z * stride) * channels
                for c in range(0, channels, lanes):
                    places, flags = (bias_gradient, c, source, at + c, tops, winners), (rectify, overlap)
                    _unpool_channels(target, start + c, width * channels, channels, size, places, channels - c, flags)
                at += channels


@kernel("void(R[:,:,:,::1], R[:,:,:,::1], i8, i8)")
def average_pool_forward(x, out, size, stride):
    """`out = mean of x over each size x size window`."""
    count, out_height, out_width, channels = out.shape
    share = out.dtype.type(1) / (size * size)
    for n in range(count):
        for y in range(out_height):
            for z in range(out_width):
                mean = out[n, y, z]
                mean[:] = 0
                for i in range(size):
                    for j in range(size):
                        for c in range(channels):
                            mean[c] += x[n, y * stride + i, z * stride + j, c] * share


@kernel("void(R[:,:,:,::1], R[:,:,:,::1], i8, i8)")
def average_pool_backward(error, x_error, size, stride):
    """`x_error = sum of error / size ** 2 over the windows that cover a pixel`."""
    count, out_height, out_width, channels = error.shape
    share = error.dtype.type(1) / (size * size)
    x_error[:] = 0
    for n in range(count):
        for y in range(out_height):
            for z in range(out_width):
                for i in range(size):
                    for j in range(size):
                        for c in range(channels):
                            x_error[n, y * stride + i, z * stride + j, c] += error[n, y, z, c] * share
