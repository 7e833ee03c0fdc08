"""The random draws of an augmented picture: geometry, elastic field, colours, noise, what is blanked.

All draws depend on a 64-bit `key` alone. `ranges` has the range of each transformation, in the order of
`TRANSFORMATIONS`. Most draws are uniform between minus and plus the range; those of colour and noise are normal. The
position of a pixel is that of its middle, and the first pixel of a row or column is at 0.

To add a transformation, write its line in `TRANSFORMATIONS`, its name in the tuple of positions below, and its draw: in
`draw_geometry` if it moves pixels, in `draw_colours` if it changes all values of a channel alike, in `retouch` if it
changes the finished picture. Settings, parsing and help follow from the line.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from adam_mp.kernels.compilation import inline, kernel
from adam_mp.kernels.random import mix, uniform


class Transformation(NamedTuple):
    """A transformation: the largest range that it may have, and what the range means. A range of 0 turns it off.

    `words` may be given in place of a number, and stand for these numbers. A range that is `whole` has no fraction.
    """

    most: float
    meaning: str
    words: dict[str, float] = {}
    whole: bool = False


ALTERNATING = 2.0  # the range of `reflect` with which an image is mirrored in every second epoch
TRANSFORMATIONS = {
    "translate": Transformation(1e4, "pixels"),
    "shift": Transformation(1e4, "whole pixels", whole=True),
    "rotate": Transformation(180.0, "degrees"),
    "scale": Transformation(0.9, "fraction: 0.1 for 90% to 110%"),
    "shear": Transformation(80.0, "degrees"),
    "reflect": Transformation(
        1.0, "probability of the left-right mirror image, or alternate: every second epoch", {"alternate": ALTERNATING}
    ),
    "elastic": Transformation(1e4, "pixels"),
    "crop": Transformation(1.0, "smallest share of the area that is shown, up to a third longer or shorter in shape"),
    "brightness": Transformation(0.99, "fraction"),
    "contrast": Transformation(0.99, "fraction"),
    "colour": Transformation(10.0, "deviation along the data set's principal colours, 0.1 in AlexNet"),
    "noise": Transformation(1e4, "deviation, in stored values"),
    "cutout": Transformation(1.0, "side of a blank square, as a fraction of the shorter side"),
    "erase": Transformation(1.0, "probability of a blank rectangle"),
    "border": Transformation(0.0, "what is outside of the image: fill, or reflect", {"fill": 0.0, "reflect": 1.0}),
}
RANGES = tuple(TRANSFORMATIONS)
(
    TRANSLATE, SHIFT, ROTATE, SCALE, SHEAR, REFLECT, ELASTIC, CROP, BRIGHTNESS, CONTRAST, COLOUR, NOISE, CUTOUT, ERASE,
    BORDER,
) = range(len(RANGES))  # fmt: skip
MOVING = CROP + 1  # how many transformations move pixels: they stand first
GRID = 6  # control points of the elastic field along each side
# Positions in a key's stream of random numbers.
_TRANSLATE_X, _TRANSLATE_Y, _ROTATE, _SCALE, _SHEAR, _REFLECT, _FIELD = range(7)
_SHARE, _ASPECT, _CROP_X, _CROP_Y, _BRIGHTNESS, _CONTRAST, _CUTOUT_X, _CUTOUT_Y, _COLOUR = range(1000, 1009)
_NOISE = 2000
_SHIFT_X, _SHIFT_Y, _ALTERNATE, _ERASE, _ERASED_AREA, _ERASED_SHAPE, _ERASED_X, _ERASED_Y = range(3000, 3008)
_NOISE_LINE = 64  # pixels whose noise is drawn at a time
_ASPECTS = math.log(4 / 3)  # logarithm of the largest change of a crop's ratio of width to height
_DEGREE = math.pi / 180.0
# Of random erasing (Zhong et al. 2017): the area's least and largest share, the least height by width.
_LEAST_ERASED, _MOST_ERASED, _FLATTEST = 0.02, 0.4, 0.3


@inline
def takes_turn(key, sample):
    """Return whether image `sample` is mirrored in an epoch, where mirror images alternate.

    `key` has the epoch in its lower half and what stands for the seed in its upper half (`picture_key`). Half of the
    images begin with it (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", section 3.6).
    """
    begins = mix(mix(key >> np.uint64(32), np.uint64(sample)), np.uint64(_ALTERNATE))
    return ((begins ^ key) & np.uint64(1)) == np.uint64(1)


@kernel("void(u8, b1, f8[::1], f8, i8, i8, i8, i8, f4[::1])")
def draw_geometry(key, turn, ranges, keep, height, width, rows, columns, matrix):
    """Draw the map from pixels of a picture [rows, columns] to those of its source [height, width].

    `matrix` becomes `[a, b, c, d, e, f]`: x' = a x + b y + c, y' = d x + e y + f. The frame is the largest part of the
    source with the picture's ratio of width to height. Without `crop`, the picture shows the middle of the source,
    `keep` of the frame's sides. With `crop`, it shows a random part of the source: `crop` of the frame's area up to all
    of it, with a ratio of width to height up to 4/3 larger or smaller than the frame's.

    `turn` is whether the picture is the mirror image, if mirror images alternate.
    """
    fit = min(height / rows, width / columns)
    frame_height, frame_width = rows * fit * keep, columns * fit * keep
    middle_x, middle_y = width / 2.0, height / 2.0
    if ranges[CROP] > 0:
        share = ranges[CROP] + uniform(key, _SHARE) * (1.0 - ranges[CROP])
        aspect = math.exp((2.0 * uniform(key, _ASPECT) - 1.0) * _ASPECTS)
        frame_width = min(columns * fit * math.sqrt(share * aspect), float(width))
        frame_height = min(rows * fit * math.sqrt(share / aspect), float(height))
        middle_x = frame_width / 2.0 + uniform(key, _CROP_X) * (width - frame_width)
        middle_y = frame_height / 2.0 + uniform(key, _CROP_Y) * (height - frame_height)
    across, down = frame_width / columns, frame_height / rows
    angle = (2 * uniform(key, _ROTATE) - 1) * ranges[ROTATE] * _DEGREE
    scale = 1.0 / (1.0 + (2 * uniform(key, _SCALE) - 1) * ranges[SCALE])
    shear = math.tan((2 * uniform(key, _SHEAR) - 1) * ranges[SHEAR] * _DEGREE)
    mirrored = turn if ranges[REFLECT] == ALTERNATING else uniform(key, _REFLECT) < ranges[REFLECT]
    mirror = -1.0 if mirrored else 1.0
    from_x = (columns - 1) / 2.0 + (2 * uniform(key, _TRANSLATE_X) - 1) * ranges[TRANSLATE]
    from_y = (rows - 1) / 2.0 + (2 * uniform(key, _TRANSLATE_Y) - 1) * ranges[TRANSLATE]
    from_x += math.floor(uniform(key, _SHIFT_X) * (2 * ranges[SHIFT] + 1)) - ranges[SHIFT]
    from_y += math.floor(uniform(key, _SHIFT_Y) * (2 * ranges[SHIFT] + 1)) - ranges[SHIFT]
    cosine, sine = math.cos(angle) * scale, math.sin(angle) * scale
    a, b = mirror * cosine * across, mirror * (cosine * shear - sine) * across
    d, e = sine * down, (sine * shear + cosine) * down
    matrix[0], matrix[1], matrix[2] = a, b, middle_x - 0.5 - a * from_x - b * from_y
    matrix[3], matrix[4], matrix[5] = d, e, middle_y - 0.5 - d * from_x - e * from_y


@kernel("void(u8, f8, f4[:,:,::1])")
def draw_field(key, strength, field):
    """Draw the elastic field's control points: `field` [2, GRID + 1, GRID + 1], shifts along x and y in source pixels.

    Each is uniform between minus and plus `strength`.
    """
    position = _FIELD
    for axis in range(2):
        for i in range(field.shape[1]):
            for j in range(field.shape[2]):
                field[axis, i, j] = (2 * uniform(key, position) - 1) * strength
                position += 1


@kernel("void(u8, f8[::1], f4[::1], f4[::1], f4[:,::1], f4[::1], f4[::1])")
def draw_colours(key, ranges, mean, deviation, directions, gain, offset):
    """Draw brightness, contrast and colour: a stored value of channel c becomes `value * gain[c] + offset[c]`.

    Normalisation is included: gain and offset apply `((value * bright - mean) * contrast + shift) / deviation`, so that
    contrast grows around the mean. The columns of `directions` [c, c] are the principal directions of the data set's
    colours, times their deviations. `gain` and `offset` are [c] or longer.
    """
    bright = 1.0 + (2 * uniform(key, _BRIGHTNESS) - 1) * ranges[BRIGHTNESS]
    contrast = 1.0 + (2 * uniform(key, _CONTRAST) - 1) * ranges[CONTRAST]
    for c in range(mean.size):
        shift = 0.0
        if ranges[COLOUR] > 0:
            for j in range(directions.shape[1]):
                shift += directions[c, j] * ranges[COLOUR] * _normal(key, _COLOUR + 2 * j)
        # ((value * bright - mean) * contrast + shift) / deviation
        gain[c] = bright * contrast / deviation[c]
        offset[c] = (shift - mean[c] * contrast) / deviation[c]


@inline
def _normal(key, position):
    """Return a draw from the normal distribution, from the random numbers at `position` and the next (Box-Muller)."""
    radius = math.sqrt(-2.0 * math.log(1.0 - uniform(key, position)))
    return radius * math.cos(2.0 * math.pi * uniform(key, position + 1))


@inline
def retouch(key, ranges, gain, out):
    """Add noise to a finished picture `out` [h, w, c] and blank a square and a rectangle of it, as `ranges` say.

    The picture is normalised: a stored value counts `gain[c]`.
    """
    if ranges[NOISE] > 0:
        add_noise(key, ranges[NOISE], gain, out.reshape(-1), out.shape[2])
    if ranges[CUTOUT] > 0:
        cut_out(key, ranges[CUTOUT], out)
    if uniform(key, _ERASE) < ranges[ERASE]:
        erase(key, out)


@inline
def add_noise(key, strength, gain, target, channels):
    """Add noise of deviation `strength`, in stored values, to a normalised picture `target`, flat.

    The noise of a value is the sum of four uniform draws of 16 bits, which is nearly normal.
    """
    stream = mix(key, np.uint64(_NOISE))
    half = np.float32(2 * 65535)
    # The sum of four such draws has a variance of 65536 ** 2 / 3.
    unit = np.float32(strength) * np.float32(math.sqrt(3.0) / 65536.0)
    low = np.uint64(65535)
    line = channels * _NOISE_LINE
    scales = np.empty(line, np.float32)
    for i in range(line):
        scales[i] = unit * gain[i % channels]
    for begin in range(np.uint64(0), np.uint64(target.size), np.uint64(line)):
        for i in range(min(np.uint64(line), np.uint64(target.size) - begin)):
            bits = mix(stream, begin + i)
            total = np.int32(bits & low) + np.int32((bits >> np.uint64(16)) & low)
            total += np.int32((bits >> np.uint64(32)) & low) + np.int32(bits >> np.uint64(48))
            target[begin + i] += (np.float32(total) - half) * scales[i]


@inline
def cut_out(key, size, out):
    """Set a square to 0, the normalised mean: its side is `size` of the picture's shorter side, its middle random."""
    rows, columns, _ = out.shape
    side = size * min(rows, columns)
    x, y = uniform(key, _CUTOUT_X) * columns, uniform(key, _CUTOUT_Y) * rows
    top, left = max(0, int(y - side / 2 + 0.5)), max(0, int(x - side / 2 + 0.5))
    _blank(out, top, min(rows, int(y + side / 2 + 0.5)), left, min(columns, int(x + side / 2 + 0.5)))


@inline
def erase(key, out):
    """Set a rectangle to 0, the normalised mean: 2% to 40% of the area, height by width 0.3 to 1 / 0.3, anywhere.

    Random erasing (Zhong et al. 2017, algorithm 1). A rectangle that does not fit is as long as the picture there,
    where the paper draws again.
    """
    rows, columns, _ = out.shape
    area = (_LEAST_ERASED + uniform(key, _ERASED_AREA) * (_MOST_ERASED - _LEAST_ERASED)) * rows * columns
    shape = _FLATTEST + uniform(key, _ERASED_SHAPE) * (1 / _FLATTEST - _FLATTEST)
    height = min(rows, int(math.sqrt(area * shape) + 0.5))
    width = min(columns, int(math.sqrt(area / shape) + 0.5))
    top = int(uniform(key, _ERASED_Y) * (rows - height + 1))
    left = int(uniform(key, _ERASED_X) * (columns - width + 1))
    _blank(out, top, top + height, left, left + width)


@inline
def _blank(out, top, bottom, left, right):
    for i in range(top, bottom):
        for j in range(left, right):
            for c in range(out.shape[2]):
                out[i, j, c] = 0
