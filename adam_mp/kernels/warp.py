"""Augmentation of a batch in one pass: every transformation composes into one warp from stored image to ring slot.

The draws for a sample depend on (seed, epoch, sample) alone. Output pixels are mapped back into the source image and
interpolated bilinearly; outside the image counts as `fill`. Normalisation, `(value - mean) / deviation`, is part of it.

`ranges` is `[translate, rotate, scale, shear, reflect, elastic]`: pixels, degrees, fraction, degrees, probability,
pixels; each draw is uniform in plus or minus its range.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from adam_mp.kernels.compilation import inline, kernel
from adam_mp.kernels.random import mix, uniform
from adam_mp.kernels.vector import address

RANGES = ("translate", "rotate", "scale", "shear", "reflect", "elastic")
_CACHE_LINE, _FETCHED = 64, 4096  # bytes of the next image that are fetched ahead
GRID = 6  # control points of the elastic field along each side
_TRANSLATE_X, _TRANSLATE_Y, _ROTATE, _SCALE, _SHEAR, _REFLECT, _FIELD = range(7)


@intrinsic
def _fetch(_typing: Any, array: Any, index: Any) -> Any:
    """Have the cache line of an element brought near: samples lie anywhere, and nothing else could foresee the next."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = address(context, builder, array, arguments[0], arguments[1])
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, keep, data = (ir.Constant(number, value) for value in (0, 3, 1))
        builder.call(function, [builder.bitcast(place, pointer), read, keep, data])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@kernel("void(u8, f8[::1], i8, i8, f4[::1])")
def draw_affine(key, ranges, height, width, matrix):
    """Draw the map from output to source pixels, `[a, b, c, d, e, f]`: x' = a x + b y + c, y' = d x + e y + f."""
    degree = math.pi / 180.0
    angle = (2 * uniform(key, _ROTATE) - 1) * ranges[1] * degree
    scale = 1.0 / (1.0 + (2 * uniform(key, _SCALE) - 1) * ranges[2])
    shear = math.tan((2 * uniform(key, _SHEAR) - 1) * ranges[3] * degree)
    mirror = -1.0 if uniform(key, _REFLECT) < ranges[4] else 1.0
    shift_x = (2 * uniform(key, _TRANSLATE_X) - 1) * ranges[0]
    shift_y = (2 * uniform(key, _TRANSLATE_Y) - 1) * ranges[0]
    cosine, sine = math.cos(angle) * scale, math.sin(angle) * scale
    a, b = mirror * cosine, mirror * (cosine * shear - sine)
    d, e = sine, sine * shear + cosine
    middle_x, middle_y = (width - 1) / 2.0, (height - 1) / 2.0
    matrix[0], matrix[1], matrix[2] = a, b, middle_x - a * (middle_x + shift_x) - b * (middle_y + shift_y)
    matrix[3], matrix[4], matrix[5] = d, e, middle_y - d * (middle_x + shift_x) - e * (middle_y + shift_y)


@kernel("void(u8, f8, f4[:,:,::1])")
def draw_field(key, strength, field):
    """Draw the elastic field's control points [2, GRID + 1, GRID + 1], in pixels."""
    position = _FIELD
    for axis in range(2):
        for i in range(field.shape[1]):
            for j in range(field.shape[2]):
                field[axis, i, j] = (2 * uniform(key, position) - 1) * strength
                position += 1


@kernel(
    "void(u1[:,:,:,::1], i8[::1], f4[:,:,:,::1], f8[::1], u8, f4[::1], f4[::1], f4)",
    "void(f4[:,:,:,::1], i8[::1], f4[:,:,:,::1], f8[::1], u8, f4[::1], f4[::1], f4)",
)
def warp_batch(images, samples, out, ranges, key, mean, deviation, fill):
    """Write the augmented, normalised images `samples` [k] of `images` [n, h, w, c] into `out` [k, h, w, c].

    `key` stands for (seed, epoch). mean and deviation [c] are in units of the stored values.
    """
    _, height, width, channels = images.shape
    still = True
    for value in ranges:
        still = still and value == 0
    # A border of one pixel around the source: what lies outside is as far outside as the border.
    border = 0 if still else 1
    framed = np.empty((height + 2) * (width + 2) * channels, np.float32)
    matrix = np.empty(6, np.float32)
    field = np.zeros((2, GRID + 1, GRID + 1), np.float32)
    lines = np.zeros((2, GRID + 1, width), np.float32)
    size = height * width * channels
    flat = images.reshape(-1)
    for k in range(samples.size):
        if k + 1 < samples.size:
            for ahead in range(0, min(size * images.itemsize, _FETCHED), _CACHE_LINE):
                _fetch(flat, samples[k + 1] * size + ahead // images.itemsize)
        image, target = images[samples[k]].reshape(-1), out[k].reshape(-1)
        if still:
            _normalise(image, target, height, width, channels, 0, mean, deviation, fill)
            continue
        _normalise(image, framed, height, width, channels, border, mean, deviation, fill)
        stream = mix(key, np.uint64(samples[k]))
        draw_affine(stream, ranges, height, width, matrix)
        if ranges[5] > 0:
            draw_field(stream, ranges[5], field)
            _spread(field, lines)
        _warp_one(framed, target, matrix, lines, ranges[5] > 0, height, width, channels)


@inline
def _normalise(image, target, height, width, channels, border, mean, deviation, fill):
    """Write `(image - mean) / deviation` into `target` within a border of normalised `fill`."""
    step, line = np.uint64(channels), np.uint64((width + 2 * border) * channels)
    for c in range(np.uint64(channels)):
        middle, scale = mean[c], np.float32(1) / deviation[c]
        outside = (fill - middle) * scale
        if border:
            for x in range(np.uint64(width + 2)):
                target[x * step + c] = outside
                target[np.uint64(height + 1) * line + x * step + c] = outside
        for y in range(np.uint64(height)):
            source, begin = y * np.uint64(width * channels) + c, (y + np.uint64(border)) * line + c
            if border:
                target[begin] = outside
                target[begin + line - step] = outside
                begin += step
            if channels == 1:
                for x in range(np.uint64(width)):
                    target[begin + x] = (np.float32(image[source + x]) - middle) * scale
            else:
                for x in range(np.uint64(width)):
                    target[begin + x * step] = (np.float32(image[source + x * step]) - middle) * scale


@inline
def _smooth(t):
    """Ease between two control points with zero slope at both, so that the field has no creases."""
    return t * t * (np.float32(3) - np.float32(2) * t)


@inline
def _spread(field, lines):
    """Interpolate the field's control points along x: from [2, GRID + 1, GRID + 1] to [2, GRID + 1, width]."""
    width = lines.shape[2]
    step = np.float32(GRID) / np.float32(max(width - 1, 1))
    for x in range(width):
        place = np.float32(x) * step
        column = min(int(place), GRID - 1)
        u = _smooth(place - np.float32(column))
        for axis in range(2):
            for row in range(GRID + 1):
                left, right = field[axis, row, column], field[axis, row, column + 1]
                lines[axis, row, x] = left + (right - left) * u


@inline
def _warp_one(framed, target, matrix, lines, elastic, height, width, channels):
    """Sample the framed image bilinearly at the mapped position of every pixel; vectorises over a row."""
    # Positions and pixels of a row, counted from the frame's corner.
    start, along, down = np.empty(width, np.uint32), np.empty(width, np.float32), np.empty(width, np.float32)
    one = np.float32(1)
    within = np.float32(1 - 1e-6)  # a difference would be lost beside the side of a large image
    right, bottom = np.float32(width + 1) * within, np.float32(height + 1) * within
    step_y = np.float32(GRID) / np.float32(max(height - 1, 1))
    step, line = np.uint64(channels), np.uint64((width + 2) * channels)
    for y in range(height):
        place = np.float32(y) * step_y
        row = min(int(place), GRID - 1)
        v = _smooth(place - np.float32(row))
        from_x = matrix[1] * np.float32(y) + matrix[2] + one
        from_y = matrix[4] * np.float32(y) + matrix[5] + one
        for x in range(np.uint64(width)):
            along[x] = matrix[0] * np.float32(np.uint32(x)) + from_x
            down[x] = matrix[3] * np.float32(np.uint32(x)) + from_y
        if elastic:
            for x in range(np.uint64(width)):
                along[x] += lines[0, row, x] + (lines[0, row + 1, x] - lines[0, row, x]) * v
                down[x] += lines[1, row, x] + (lines[1, row + 1, x] - lines[1, row, x]) * v
        for x in range(np.uint64(width)):
            at_x, at_y = min(max(along[x], np.float32(0)), right), min(max(down[x], np.float32(0)), bottom)
            left, top = np.uint32(np.int32(at_x)), np.uint32(np.int32(at_y))
            along[x], down[x] = at_x - np.float32(left), at_y - np.float32(top)
            start[x] = top * np.uint32(line) + left * np.uint32(channels)
        begin = np.uint64(y * width * channels)
        for c in range(step):
            for x in range(np.uint64(width)):
                i = np.uint64(start[x]) + c
                upper = framed[i] + (framed[i + step] - framed[i]) * along[x]
                lower = framed[i + line] + (framed[i + line + step] - framed[i + line]) * along[x]
                target[begin + x * step + c] = upper + (lower - upper) * down[x]
