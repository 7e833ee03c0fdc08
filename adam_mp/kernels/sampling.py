"""Bilinear sampling of a row of an image, in vector instructions that the compiler does not use by itself.

`place_row` turns each position of a row into the pixel of the frame at its upper left, and the distances from that
pixel. Then the four pixels around each position are blended: by `blend_pixels` for 3 or 4 channels, by `blend_greys`
for one. A frame is the part of the image that the picture shows, with a border (`kernels/warp.py`).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from adam_mp.kernels.vector import INDEX, Vectors, address, integer, prefetch

PIXEL_LANES = 4  # numbers of a pixel that is blended as one vector


@intrinsic
def fetch(_typing: Any, array: Any, index: Any) -> Any:
    """Load the cache line of an element ahead of its use: samples lie anywhere, so the processor cannot predict it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        prefetch(builder, address(context, builder, array, arguments[0], arguments[1]))
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@intrinsic
def blend_pixels(
    _typing: Any, frame: Any, start: Any, along: Any, down: Any, step: Any, line: Any, gain: Any, offset: Any,
    target: Any, at: Any, count: Any,
) -> Any:  # fmt: skip
    """Blend `count` pixels of 3 or 4 channels into `target` from `at` on, each as one vector of four numbers.

    The position of pixel x is `along[x]` (0 to 1) right of and `down[x]` below the pixel that begins at
    `frame[start[x]]`; its value is the bilinear blend of that pixel and its neighbours to the right and below, times
    `gain`, plus `offset`. `step` and `line` are the distances of pixels and of lines in the frame. With 3 channels, it
    also reads and writes the number after each pixel.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        real = ir.FloatType()
        wide = ir.VectorType(real, PIXEL_LANES)

        def load(kind: Any, array: Any, index: Any) -> Any:
            """Return four elements from `index` on, as floats."""
            place = address(context, builder, kind, array, index)
            element = place.type.pointee
            stored = ir.VectorType(element, PIXEL_LANES)
            value = builder.load(builder.bitcast(place, stored.as_pointer()), align=1)
            return builder.uitofp(value, wide) if isinstance(element, ir.IntType) else value

        def splat(value: Any) -> Any:
            first = builder.insert_element(ir.Constant(wide, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
            order = ir.Constant(ir.VectorType(ir.IntType(32), PIXEL_LANES), [0] * PIXEL_LANES)
            return builder.shuffle_vector(first, first, order)

        def between(first: Any, second: Any, part: Any) -> Any:
            difference = builder.fsub(second, first, flags=("contract",))
            return builder.fadd(first, builder.fmul(difference, part, flags=("contract",)), flags=("contract",))

        frame_, start_, along_, down_, step_, line_, gain_, offset_, target_, at_, count_ = arguments
        zero = ir.Constant(ir.IntType(64), 0)
        multiply, add = load(gain, gain_, zero), load(offset, offset_, zero)
        with cgutils.for_range(builder, count_) as loop:
            x = loop.index
            first = builder.zext(builder.load(address(context, builder, start, start_, x)), ir.IntType(64))
            below = builder.add(first, line_)
            right = splat(builder.load(address(context, builder, along, along_, x)))
            upper = between(load(frame, frame_, first), load(frame, frame_, builder.add(first, step_)), right)
            lower = between(load(frame, frame_, below), load(frame, frame_, builder.add(below, step_)), right)
            value = between(upper, lower, splat(builder.load(address(context, builder, down, down_, x))))
            value = builder.fadd(builder.fmul(value, multiply, flags=("contract",)), add, flags=("contract",))
            place = address(context, builder, target, target_, builder.add(at_, builder.mul(x, step_)))
            builder.store(value, builder.bitcast(place, wide.as_pointer()), align=4)
        return context.get_dummy_value()

    signature = types.void(
        frame, start, along, down, types.int64, types.int64, gain, offset, target, types.int64, types.int64
    )
    return signature, generate


@intrinsic
def blend_greys(_typing: Any, frame: Any, places: Any, line: Any, gain: Any, offset: Any, target: Any, at: Any,
                 count: Any) -> Any:  # fmt: skip
    """Blend `count` pixels of one channel into `target` from `at` on, as many at a time as a vector has lanes.

    `places` is (start, along, down) as in `blend_pixels`. The arrays are as long as whole vectors, and `start` is valid
    also after `count`. A pixel and its right neighbour are read at once: that makes it faster than the compiler's code.
    """
    signature = types.void(frame, places, types.int64, gain, offset, target, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = Vectors(builder, ir.FloatType())
        pair = ir.VectorType(ir.FloatType(), 2)
        start, along, down = cgutils.unpack_tuple(builder, arguments[1])
        kinds = signature.args[1].types
        multiply, add = emit.splat(arguments[3]), emit.splat(arguments[4])

        def between(first: Any, second: Any, part: Any) -> Any:
            return emit.multiply_add(builder.fsub(second, first), part, first)

        def joined(parts: list[Any]) -> Any:
            """Return one vector of all parts, joined in pairs."""
            while len(parts) > 1:
                size = parts[0].type.count
                order = ir.Constant(ir.VectorType(ir.IntType(32), 2 * size), list(range(2 * size)))
                parts = [builder.shuffle_vector(a, b, order) for a, b in zip(parts[::2], parts[1::2], strict=True)]
            return parts[0]

        def every_other(vector: Any, first: int) -> Any:
            order = ir.Constant(ir.VectorType(ir.IntType(32), emit.lanes), list(range(first, 2 * emit.lanes, 2)))
            return builder.shuffle_vector(vector, vector, order)

        for first, mask in emit.vectors_of(arguments[7]):
            rows: list[list[Any]] = [[], []]
            for lane in range(emit.lanes):
                number = address(context, builder, kinds[0], start, builder.add(first, integer(lane)))
                element = builder.zext(builder.load(number), INDEX)
                for row in rows:
                    place = address(context, builder, frame, arguments[0], element)
                    row.append(builder.load(builder.bitcast(place, pair.as_pointer()), align=4))
                    element = builder.add(element, arguments[2])
            across = emit.load(address(context, builder, kinds[1], along, first), mask)
            upper, lower = (joined(row) for row in rows)
            upper = between(every_other(upper, 0), every_other(upper, 1), across)
            lower = between(every_other(lower, 0), every_other(lower, 1), across)
            value = between(upper, lower, emit.load(address(context, builder, kinds[2], down, first), mask))
            value = emit.multiply_add(value, multiply, add)
            out = address(context, builder, target, arguments[5], builder.add(arguments[6], first))
            emit.store(value, out, mask)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def place_row(_typing: Any, start: Any, along: Any, down: Any, count: Any, across: Any, upright: Any, line: Any,
           channels: Any) -> Any:  # fmt: skip
    """Turn `count` positions, `along` (x) and `down` (y) in source pixels, into the arguments of `blend_pixels`.

    `start` becomes the frame's element of the pixel at the upper left; `along` and `down` become the distances from it.
    `across` and `upright` are, for x and y, (last pixel of the image, first pixel of the frame, length of the frame,
    slightly shortened). A position up to half a pixel outside the image counts as its edge; further out, the value
    fades into the fill. `line` and `channels` are the frame's distances of lines and of pixels.
    """
    signature = types.void(start, along, down, types.int64, across, upright, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = Vectors(builder, ir.FloatType())
        whole = ir.VectorType(ir.IntType(32), emit.lanes)
        half = emit.constant(0.5)

        def most(a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        def least(a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered("<", a, b), a, b)

        axes = []
        for kind, array, numbers in ((along, arguments[1], arguments[4]), (down, arguments[2], arguments[5])):
            axes.append((kind, array, [emit.splat(number) for number in cgutils.unpack_tuple(builder, numbers)]))
        line_, step = (emit.splat(builder.trunc(number, ir.IntType(32))) for number in arguments[6:])
        for first, mask in emit.vectors_of(arguments[3]):
            corner = []
            for kind, array, (edge, origin, end) in axes:
                place = address(context, builder, kind, array, first)
                position = emit.load(place, mask)
                position = most(position, least(builder.fadd(position, half), emit.zeros))
                position = least(position, most(builder.fsub(position, half), edge))
                position = least(most(builder.fsub(position, origin), emit.zeros), end)
                pixel = builder.fptosi(position, whole)
                emit.store(builder.fsub(position, builder.sitofp(pixel, emit.type)), place, mask)
                corner.append(pixel)
            element = builder.add(builder.mul(corner[1], line_), builder.mul(corner[0], step))
            emit.store(element, address(context, builder, start, arguments[0], first), mask)
        return context.get_dummy_value()

    return signature, generate
