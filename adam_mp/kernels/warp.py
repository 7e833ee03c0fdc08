"""Augmentation in one pass: from a stored image to the augmented, normalised picture in a ring slot.

All transformations that move pixels are one map. Each pixel of the picture is mapped back to a position in the source
image, and interpolated bilinearly there. A position up to half a pixel outside the image counts as its edge; further
out, the value is `fill`. With a reflected border, the image is mirrored there at the middle of its last pixels.
Normalisation, `(value - mean) / deviation`, and changes of colour together are one multiplication and one addition a
value. `kernels.draw` has the random draws.

Sampling reads a *frame*: a copy of the part of the source that the picture shows, with a border of `fill` where the
picture shows more than the source.
"""

from __future__ import annotations

import math

import numpy as np

from adam_mp.kernels.compilation import inline, kernel
from adam_mp.kernels.draw import (
    BORDER,
    ELASTIC,
    GRID,
    MOVING,
    draw_colours,
    draw_field,
    draw_geometry,
    retouch,
    takes_turn,
)
from adam_mp.kernels.random import mix
from adam_mp.kernels.sampling import PIXEL_LANES, blend_greys, blend_pixels, fetch, place_row
from adam_mp.kernels.vector import VECTOR_BYTES

_CACHE_LINE, _FETCHED = 64, 4096  # bytes of a cache line; bytes of the next image that are loaded ahead
_VECTOR = VECTOR_BYTES // 4  # lanes of a vector of floats
_PIXEL_CHANNELS = (3, 4)  # numbers of channels with which a pixel is blended as one vector


def frame_room(height: int, width: int, channels: int) -> int:
    """Return how many elements the largest frame of a source [height, width, channels] has."""
    return (height + 2) * (width + 2) * channels + PIXEL_LANES


_frame_room = inline(frame_room)


@kernel(
    "void(u1[:,:,:,::1], i8[::1], f4[:,:,:,::1], f8[::1], u8, f4[::1], f4[::1], f4[:,::1], f4)",
    "void(f4[:,:,:,::1], i8[::1], f4[:,:,:,::1], f8[::1], u8, f4[::1], f4[::1], f4[:,::1], f4)",
)
def warp_batch(images, samples, out, ranges, key, mean, deviation, directions, fill):
    """Write the augmented, normalised images `samples` [k] of `images` [n, h, w, c] into `out` [k, h, w, c].

    `key` stands for (seed, epoch), as `picture_key` makes it. `ranges`, and `directions` [c, c], are those of
    `kernels.draw`. `mean` and `deviation` [c], and `fill`, are in units of the stored values.
    """
    _, height, width, channels = images.shape
    size = height * width * channels
    flat = images.reshape(-1)
    room = _frame_room(height, width, channels)
    frame = np.empty(room, images.dtype)
    reals = np.empty(room, np.float32)
    for k in range(samples.size):
        if k + 1 < samples.size:
            for ahead in range(0, min(size * images.itemsize, _FETCHED), _CACHE_LINE):
                fetch(flat, samples[k + 1] * size + ahead // images.itemsize)
        image = images[samples[k]].reshape(-1)
        stream, turn = mix(key, np.uint64(samples[k])), takes_turn(key, samples[k])
        _warp(image, height, width, out[k], ranges, 1.0, stream, turn, mean, deviation, directions, fill, frame, reals)


@kernel("void(u1[::1], i8, i8, f4[:,:,::1], f8[::1], f8, u8, i8, f4[::1], f4[::1], f4[:,::1], f4, u1[::1], f4[::1])")
def warp_picture(image, height, width, out, ranges, keep, key, sample, mean, deviation, directions, fill, frame, reals):
    """Write one augmented, normalised image of any size [height, width, c], given flat, into `out` [h, w, c].

    `sample` is the image's number; `keep` is that of `draw_geometry`. `frame` and `reals` are scratch of `frame_room`
    elements; the other arguments are those of `warp_batch`.
    """
    stream, turn = mix(key, np.uint64(sample)), takes_turn(key, sample)
    _warp(image, height, width, out, ranges, keep, stream, turn, mean, deviation, directions, fill, frame, reals)


@inline
def _warp(image, height, width, out, ranges, keep, key, turn, mean, deviation, directions, fill, frame, reals):
    rows, columns, channels = out.shape
    gain, offset = np.zeros(channels + PIXEL_LANES, np.float32), np.zeros(channels + PIXEL_LANES, np.float32)
    draw_colours(key, ranges, mean, deviation, directions, gain, offset)
    target = out.reshape(-1)
    still = keep == 1.0 and rows == height and columns == width
    for i in range(MOVING):
        still = still and ranges[i] == 0
    if still:
        _normalise(image, target, columns * channels, channels, gain, offset)
    else:
        matrix = np.empty(6, np.float32)
        draw_geometry(key, turn, ranges, keep, height, width, rows, columns, matrix)
        lines = np.zeros((2, GRID + 1, _whole_vectors(columns)), np.float32)
        reach = 0.0
        if ranges[ELASTIC] > 0:
            # The range is in pixels of the picture, the field in pixels of the source.
            reach = ranges[ELASTIC] * math.sqrt(abs(matrix[0] * matrix[4] - matrix[1] * matrix[3]))
            field = np.zeros((2, GRID + 1, GRID + 1), np.float32)
            draw_field(key, reach, field)
            _spread(field, lines, columns)
        _sample(image, height, width, channels, target, rows, columns, matrix, lines, reach, gain, offset, fill,
                ranges[BORDER] > 0, frame, reals)  # fmt: skip
    retouch(key, ranges, gain, out)


@inline
def _normalise(image, target, line, channels, gain, offset):
    """`target = image * gain + offset`, both images flat; gain and offset [channels] repeat for each pixel.

    `line` is how many numbers a line of pixels has.
    """
    if channels == 1:
        for i in range(np.uint64(target.size)):
            target[i] = np.float32(image[i]) * gain[0] + offset[0]
        return
    gains, offsets = np.empty(line, np.float32), np.empty(line, np.float32)
    for i in range(line):
        gains[i], offsets[i] = gain[i % channels], offset[i % channels]
    for begin in range(np.uint64(0), np.uint64(target.size), np.uint64(line)):
        for i in range(np.uint64(line)):
            target[begin + i] = np.float32(image[begin + i]) * gains[i] + offsets[i]


@inline
def _smooth(t):
    """Return `3 t^2 - 2 t^3`: from 0 to 1 with slope 0 at both ends, so that the elastic field has no creases."""
    return t * t * (np.float32(3) - np.float32(2) * t)


@inline
def _spread(field, lines, columns):
    """Interpolate the field's control points along x: from [2, GRID + 1, GRID + 1] to [2, GRID + 1, columns]."""
    step = np.float32(GRID) / np.float32(max(columns - 1, 1))
    for x in range(columns):
        place = np.float32(x) * step
        column = min(int(place), GRID - 1)
        u = _smooth(place - np.float32(column))
        for axis in range(2):
            for row in range(GRID + 1):
                left, right = field[axis, row, column], field[axis, row, column + 1]
                lines[axis, row, x] = left + (right - left) * u


@inline
def _seen(first, along, down, columns, rows, reach, size):
    """Return the first and last source column (or row) that a picture shows; -1 or `size` stand for all outside.

    `first + along * x + down * y` are the positions to which its pixels map, moved by up to `reach` by the field.
    """
    low = first + min(along * (columns - 1), 0.0) + min(down * (rows - 1), 0.0) - reach - 0.5
    high = first + max(along * (columns - 1), 0.0) + max(down * (rows - 1), 0.0) + reach + 0.5
    begin = math.floor(min(max(low, -1.0), size - 1.0))
    end = math.floor(min(max(high, -1.0), size - 1.0)) + 1
    return begin, max(end, begin + 1)


@inline
def _copy_frame(image, height, width, channels, left, right, top, bottom, fill, frame):
    """Copy columns `left` to `right` and rows `top` to `bottom`, ends included, into `frame`; outside write `fill`."""
    line = (right - left + 1) * channels
    from_x, to_x = max(left, 0), min(right, width - 1)
    count = (to_x - from_x + 1) * channels
    margin = (from_x - left) * channels
    for y in range(top, bottom + 1):
        begin = (y - top) * line
        if y < 0 or y >= height:
            for i in range(np.uint64(line)):
                frame[np.uint64(begin) + i] = fill
            continue
        for i in range(np.uint64(margin)):
            frame[np.uint64(begin) + i] = fill
        for i in range(np.uint64(margin + count), np.uint64(line)):
            frame[np.uint64(begin) + i] = fill
        source, place = np.uint64((y * width + from_x) * channels), np.uint64(begin + margin)
        for i in range(np.uint64(count)):
            frame[place + i] = image[source + i]


@inline
def _whole_vectors(count):
    return (count + _VECTOR - 1) // _VECTOR * _VECTOR


@inline
def _sample(
    image, height, width, channels, target, rows, columns, matrix, lines, reach, gain, offset, fill, folded, frame,
    reals,
):  # fmt: skip
    """Write the picture into `target`, flat: each pixel is sampled bilinearly at its mapped position in the source.

    `lines` [2, GRID + 1, columns or more] is the elastic field along x, `reach` the largest shift by it (0: no field).
    With `folded`, what is outside of the source mirrors it.
    """
    left, right = _seen(matrix[2], matrix[0], matrix[1], columns, rows, reach, width)
    top, bottom = _seen(matrix[5], matrix[3], matrix[4], columns, rows, reach, height)
    if folded and (left < 0 or right >= width):
        left, right = 0, max(width - 1, 1)
    if folded and (top < 0 or bottom >= height):
        top, bottom = 0, max(height - 1, 1)
    pixels = channels == _PIXEL_CHANNELS[0] or channels == _PIXEL_CHANNELS[1]
    if pixels:
        _copy_frame(image, height, width, channels, left, right, top, bottom, fill, frame)
    else:
        _copy_frame(image, height, width, channels, left, right, top, bottom, fill, reals)
    # Positions go on after the row's end, to a whole vector: else the compiler computes the rest one by one.
    room = _whole_vectors(columns)
    start, along, down = np.empty(room, np.uint32), np.empty(room, np.float32), np.empty(room, np.float32)
    last = np.empty(columns * channels + PIXEL_LANES, np.float32)
    line = (right - left + 1) * channels
    step_y = np.float32(GRID) / np.float32(max(rows - 1, 1))
    within = np.float32(1 - 1e-6)  # a factor: float32 would round away a small difference from a large side
    across = (np.float32(width - 1), np.float32(left), np.float32(right - left) * within)
    upright = (np.float32(height - 1), np.float32(top), np.float32(bottom - top) * within)
    for y in range(rows):
        from_x = matrix[1] * np.float32(y) + matrix[2]
        from_y = matrix[4] * np.float32(y) + matrix[5]
        for x in range(np.uint64(room)):
            along[x] = matrix[0] * np.float32(np.uint32(x)) + from_x
            down[x] = matrix[3] * np.float32(np.uint32(x)) + from_y
        if reach > 0:
            place = np.float32(y) * step_y
            row = min(int(place), GRID - 1)
            v = _smooth(place - np.float32(row))
            for x in range(np.uint64(room)):
                along[x] += lines[0, row, x] + (lines[0, row + 1, x] - lines[0, row, x]) * v
                down[x] += lines[1, row, x] + (lines[1, row + 1, x] - lines[1, row, x]) * v
        if folded:
            _fold(along, room, width - 1)
            _fold(down, room, height - 1)
        place_row(start, along, down, room, across, upright, line, channels)
        begin = y * columns * channels
        if channels == 1:
            blend_greys(reals, (start, along, down), line, gain[0], offset[0], target, begin, columns)
        elif not pixels:
            _blend(reals, start, along, down, line, gain, offset, target, begin, columns, channels)
        elif y + 1 < rows:
            blend_pixels(frame, start, along, down, channels, line, gain, offset, target, begin, columns)
        else:  # `blend_pixels` also writes the number after the last pixel, which is outside the picture here
            blend_pixels(frame, start, along, down, channels, line, gain, offset, last, 0, columns)
            target[begin:] = last[: columns * channels]


@inline
def _fold(positions, count, last):
    """Reflect positions outside of 0 to `last` into it, as often as needed: -1 becomes 1, and so does 2 * last - 1."""
    end, period = np.float32(last), np.float32(max(2 * last, 1))
    for x in range(np.uint64(count)):
        place = abs(positions[x])
        place -= period * np.float32(np.int32(place / period))
        positions[x] = end - abs(end - place)


@inline
def _blend(reals, start, along, down, line, gain, offset, target, begin, columns, channels):
    """Blend a row of pixels with any number of channels, channel by channel; the compiler vectorises along the row."""
    step, below = np.uint64(channels), np.uint64(line)
    for c in range(step):
        multiply, add = gain[c], offset[c]
        for x in range(np.uint64(columns)):
            i = np.uint64(start[x]) + c
            upper = reals[i] + (reals[i + step] - reals[i]) * along[x]
            lower = reals[i + below] + (reals[i + below + step] - reals[i + below]) * along[x]
            target[np.uint64(begin) + x * step + c] = (upper + (lower - upper) * down[x]) * multiply + add
