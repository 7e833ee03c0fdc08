"""Augmentation of a batch in one pass: every transformation composes into one warp from stored image to ring slot.

The draws for a sample depend on (seed, epoch, sample) alone. Output pixels are mapped back into the source image and
interpolated bilinearly; outside the image counts as `fill`. Normalisation, `(value - mean) / deviation`, is part of it.

`ranges` is `[translate, rotate, scale, shear, reflect, elastic]`: pixels, degrees, fraction, degrees, probability,
pixels; each draw is uniform in plus or minus its range.
"""

from __future__ import annotations

import math

import numpy as np

from adam_mp.kernels.compilation import kernel
from adam_mp.kernels.random import mix, uniform

RANGES = ("translate", "rotate", "scale", "shear", "reflect", "elastic")
GRID = 6  # control points of the elastic field along each side
_TRANSLATE_X, _TRANSLATE_Y, _ROTATE, _SCALE, _SHEAR, _REFLECT, _FIELD = range(7)


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
    matrix = np.empty(6, np.float32)
    field = np.zeros((2, GRID + 1, GRID + 1), np.float32)
    inverse = np.empty(channels, np.float32)
    for c in range(channels):
        inverse[c] = np.float32(1) / deviation[c]
    for k in range(samples.size):
        image, target = images[samples[k]], out[k]
        if still:
            for y in range(height):
                for x in range(width):
                    for c in range(channels):
                        target[y, x, c] = (np.float32(image[y, x, c]) - mean[c]) * inverse[c]
            continue
        stream = mix(key, np.uint64(samples[k]))
        draw_affine(stream, ranges, height, width, matrix)
        if ranges[5] > 0:
            draw_field(stream, ranges[5], field)
        _warp_one(image, target, matrix, field, ranges[5] > 0, mean, inverse, fill)


@kernel(
    "void(u1[:,:,::1], f4[:,:,::1], f4[::1], f4[:,:,::1], b1, f4[::1], f4[::1], f4)",
    "void(f4[:,:,::1], f4[:,:,::1], f4[::1], f4[:,:,::1], b1, f4[::1], f4[::1], f4)",
)
def _warp_one(image, target, matrix, field, elastic, mean, inverse, fill):
    height, width, channels = image.shape
    one = np.float32(1)
    step_y, step_x = np.float32(GRID) / max(height - 1, 1), np.float32(GRID) / max(width - 1, 1)
    for y in range(height):
        grid_y = np.float32(y) * step_y
        row = min(int(grid_y), GRID - 1)
        v = _smooth(grid_y - np.float32(row))
        for x in range(width):
            u_source = matrix[0] * np.float32(x) + matrix[1] * np.float32(y) + matrix[2]
            v_source = matrix[3] * np.float32(x) + matrix[4] * np.float32(y) + matrix[5]
            if elastic:
                grid_x = np.float32(x) * step_x
                column = min(int(grid_x), GRID - 1)
                u = _smooth(grid_x - np.float32(column))
                u_source += _blend(field[0], row, column, u, v)
                v_source += _blend(field[1], row, column, u, v)
            left, top = math.floor(u_source), math.floor(v_source)
            fx, fy = u_source - np.float32(left), v_source - np.float32(top)
            x0, y0 = int(left), int(top)
            if x0 >= 0 and y0 >= 0 and x0 + 1 < width and y0 + 1 < height:
                for c in range(channels):
                    upper = np.float32(image[y0, x0, c]) * (one - fx) + np.float32(image[y0, x0 + 1, c]) * fx
                    lower = np.float32(image[y0 + 1, x0, c]) * (one - fx) + np.float32(image[y0 + 1, x0 + 1, c]) * fx
                    target[y, x, c] = (upper * (one - fy) + lower * fy - mean[c]) * inverse[c]
                continue
            for c in range(channels):
                upper = _pixel(image, y0, x0, c, fill) * (one - fx) + _pixel(image, y0, x0 + 1, c, fill) * fx
                lower = _pixel(image, y0 + 1, x0, c, fill) * (one - fx) + _pixel(image, y0 + 1, x0 + 1, c, fill) * fx
                target[y, x, c] = (upper * (one - fy) + lower * fy - mean[c]) * inverse[c]


@kernel("f4(f4)")
def _smooth(t):
    """Ease between two control points with zero slope at both, so that the field has no creases."""
    return t * t * (np.float32(3) - np.float32(2) * t)


@kernel("f4(f4[:,::1], i8, i8, f4, f4)")
def _blend(points, row, column, u, v):
    one = np.float32(1)
    upper = points[row, column] * (one - u) + points[row, column + 1] * u
    lower = points[row + 1, column] * (one - u) + points[row + 1, column + 1] * u
    return upper * (one - v) + lower * v


@kernel("f4(u1[:,:,::1], i8, i8, i8, f4)", "f4(f4[:,:,::1], i8, i8, i8, f4)")
def _pixel(image, y, x, c, fill):
    if 0 <= y < image.shape[0] and 0 <= x < image.shape[1]:
        return np.float32(image[y, x, c])
    return fill
