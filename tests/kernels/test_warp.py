from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.data.augmentation import picture_key
from adam_mp.kernels.draw import ALTERNATING, RANGES, draw_geometry
from adam_mp.kernels.warp import frame_room, warp_batch, warp_picture

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 9, 11, 2), dtype=np.uint8)
MOVES = {"translate": 2, "rotate": 20, "scale": 0.2, "shear": 10, "reflect": 0.5, "elastic": 1.5}


def values(ranges):
    return np.array([float(ranges.get(name, 0.0)) for name in RANGES])


def colours(channels, mean=0.0, deviation=1.0, directions=None):
    zero = np.zeros((channels, channels), np.float32) if directions is None else directions
    return [np.resize(np.array(each, np.float32), channels) for each in (mean, deviation)] + [zero]


def warp(samples, key=1, images=IMAGES, mean=0.0, deviation=1.0, directions=None, fill=0.0, **ranges):
    samples = np.asarray(samples)
    out = np.full((len(samples), *images.shape[1:]), np.nan, np.float32)
    settings = colours(images.shape[3], mean, deviation, directions)
    warp_batch(images, samples, out, values(ranges), np.uint64(key), *settings, np.float32(fill))
    return out


def warp_to(image, rows, columns, key=1, keep=1.0, fill=0.0, **ranges):
    """Warp one image of any size into a picture [rows, columns, c]."""
    height, width, channels = image.shape
    out = np.full((rows, columns, channels), np.nan, np.float32)
    room = frame_room(height, width, channels)
    warp_picture(
        image.reshape(-1), height, width, out, values(ranges), keep, np.uint64(key), 0, *colours(channels),
        np.float32(fill), np.zeros(room, np.uint8), np.zeros(room, np.float32),
    )  # fmt: skip
    return out


def expected(image, matrix, rows, columns, fill):
    """Sample by the map in the plainest way: half a pixel beyond the edge is the edge, then it fades into `fill`."""
    height, width, channels = image.shape
    framed = np.full((height + 2, width + 2, channels), fill, float)
    framed[1:-1, 1:-1] = image
    out = np.zeros((rows, columns, channels))

    def place(at, size):
        at = at + 0.5 if at < -0.5 else max(at, 0) if at < 0 else at
        at = at - 0.5 if at > size - 0.5 else min(at, size - 1) if at > size - 1 else at
        return min(max(at + 1, 0), size + 1 - 1e-9)

    for y in range(rows):
        for x in range(columns):
            u = place(matrix[0] * x + matrix[1] * y + matrix[2], width)
            v = place(matrix[3] * x + matrix[4] * y + matrix[5], height)
            i, j = int(v), int(u)
            corners = framed[i : i + 2, j : j + 2]
            upper, lower = corners[:, 0] + (corners[:, 1] - corners[:, 0]) * (u - j)
            out[y, x] = upper + (lower - upper) * (v - i)
    return out


@pytest.mark.parametrize("images", [IMAGES, IMAGES.astype(np.float32)])
def test_without_ranges_it_only_normalises(images):
    out = warp([4, 0], images=images, mean=(10, 20), deviation=(2, 4))
    np.testing.assert_allclose(out, (IMAGES[[4, 0]].astype(float) - (10, 20)) / (2, 4), rtol=1e-5)


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(1, 24), st.integers(1, 40),
    st.integers(0, 2**63), st.sampled_from([0.0, 0.3]),
)  # fmt: skip
def test_any_size_is_sampled_by_the_map(height, width, channels, rows, columns, key, crop):
    image = np.random.default_rng(key % 1000).integers(0, 256, (height, width, channels), dtype=np.uint8)
    ranges = {"translate": 2, "rotate": 30, "scale": 0.3, "shear": 10, "reflect": 0.5, "crop": crop}
    out = warp_to(image, rows, columns, key=key, fill=9, **ranges)
    matrix = np.zeros(6, np.float32)
    draw_geometry(np.uint64(stream(key, 0)), False, values(ranges), 1.0, height, width, rows, columns, matrix)
    difference = np.abs(out - expected(image, matrix.astype(float), rows, columns, 9))
    # Where a position is at a knee, rounding may put it on either side; elsewhere it is the same to rounding.
    assert np.quantile(difference, 0.9) < 0.1
    assert difference.max() < 8


def stream(key, sample):
    from adam_mp.kernels.random import mix

    return mix(np.uint64(key), np.uint64(sample))


def test_certain_reflection_is_the_mirror_image():
    np.testing.assert_allclose(warp([1, 2], reflect=1.0), IMAGES[[1, 2], :, ::-1], atol=0.01)


def test_half_of_the_images_are_reflected():
    plain = IMAGES[[0] * 1].astype(float)
    mirrored = sum(not np.allclose(warp([0], key=key, reflect=0.5), plain, atol=0.5) for key in range(300))
    assert 110 < mirrored < 190


@given(st.integers(0, 2**64 - 1), st.integers(4, 300), st.integers(4, 300), st.floats(0.05, 1))
def test_crops_lie_within_the_image_and_have_their_share(key, height, width, share):
    matrix = np.zeros(6, np.float32)
    rows, columns = 20, 30
    draw_geometry(np.uint64(key), False, values({"crop": share}), 1.0, height, width, rows, columns, matrix)
    left, right = matrix[2] - matrix[0] / 2, matrix[2] + matrix[0] * (columns - 0.5)
    top, bottom = matrix[5] - matrix[4] / 2, matrix[5] + matrix[4] * (rows - 0.5)
    assert left >= -0.501
    assert right <= width - 0.499
    assert top >= -0.501
    assert bottom <= height - 0.499
    frame = rows * columns * min(height / rows, width / columns) ** 2
    area = (right - left) * (bottom - top)
    assert area <= frame * 1.001
    assert area >= frame * share * 0.749  # a part that would be wider than the image is cut there
    out = warp_to(np.full((height, width, 3), 200, np.uint8), rows, columns, key=key, crop=share, fill=0)
    np.testing.assert_allclose(out, 200, atol=0.01)  # no border is seen


@given(st.integers(0, 2**63), st.permutations(range(5)))
def test_a_picture_depends_on_key_and_sample_alone(key, order):
    together = warp(order, key=key, fill=7, **MOVES)
    for place, sample in enumerate(order):
        np.testing.assert_array_equal(together[place], warp([sample], key=key, fill=7, **MOVES)[0])
    assert together.min() >= min(7, IMAGES.min()) - 0.01
    assert together.max() <= IMAGES.max() + 0.01
    assert (together != warp(order, key=key + 1, fill=7, **MOVES)).any()


def test_outside_the_image_is_filled():
    out = warp([0] * 1, translate=1e4, fill=99.0)
    assert (out == 99).mean() > 0.9


@given(st.integers(1, 600), st.integers(1, 600), st.floats(0.5, 1))
def test_what_is_kept_is_the_middle(height, width, keep):
    image = np.zeros((height, width, 1), np.uint8)
    image += np.arange(width, dtype=np.uint8)[None, :, None] % 2 * 0 + 100
    np.testing.assert_allclose(warp_to(image, 7, 9, keep=keep), 100, atol=0.01)
    matrix = np.zeros(6, np.float32)
    draw_geometry(np.uint64(1), False, values({}), keep, height, width, 7, 9, matrix)
    assert matrix[0] * 4 + matrix[2] == pytest.approx((width - 1) / 2, abs=1e-3)
    assert matrix[4] * 3 + matrix[5] == pytest.approx((height - 1) / 2, abs=1e-3)
    assert max(matrix[0] * 9 / width, matrix[4] * 7 / height) == pytest.approx(keep, rel=1e-4)


def test_colours_are_drawn_for_an_image_as_a_whole():
    plain = IMAGES[[0, 1]].astype(float)
    brighter = warp([0, 1], key=3, brightness=0.3)
    factors = (brighter / np.maximum(plain, 1))[plain > 20].reshape(-1)
    assert factors.min() >= 0.7
    assert factors.max() <= 1.3
    first = (brighter[0] / np.maximum(plain[0], 1))[plain[0] > 20]
    assert np.ptp(first) < 1e-4
    contrast = warp([0, 1], key=3, contrast=0.3, mean=100)
    far = np.abs(plain - 100) > 20
    ratio = contrast[far] / (plain[far] - 100)
    assert ratio.min() >= 0.699
    assert ratio.max() <= 1.301
    directions = np.diag([50.0, 0.0]).astype(np.float32)
    shifts = warp([0, 1], key=3, colour=0.1, directions=directions) - plain
    assert np.ptp(shifts[0, ..., 0]) < 1e-3
    assert shifts[0, 0, 0, 0] != shifts[1, 0, 0, 0]
    np.testing.assert_allclose(shifts[..., 1], 0, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_has_its_deviation_and_no_pattern(channels):
    grey = np.full((1, 64, 64, channels), 100, np.uint8)
    noise = warp([0], images=grey, noise=5.0, mean=100, deviation=10)[0].reshape(-1)
    assert noise.mean() == pytest.approx(0, abs=0.03)
    assert noise.std() == pytest.approx(0.5, rel=0.05)
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.05
    assert len(np.unique(noise)) > noise.size * 0.5


def test_a_square_is_cut_out():
    grey = np.full((9, 40, 40, 1), 100, np.uint8)
    sizes = [(warp([k], images=grey, cutout=0.25, mean=50)[0] == 0).sum() for k in range(9)]
    assert max(sizes) == 100
    assert all(size <= 100 for size in sizes)
    out = warp([int(np.argmax(sizes))], images=grey, cutout=0.25, mean=50)[0, :, :, 0]
    rows, columns = np.nonzero(out == 0)
    assert np.ptp(rows) == np.ptp(columns) == 9


@given(st.integers(2, 12), st.integers(2, 12), st.sampled_from([1, 2, 3, 4]), st.integers(0, 30), st.integers(0, 2**62))
def test_a_shift_with_a_reflected_border_is_a_part_of_the_padded_image(height, width, channels, most, key):
    image = np.random.default_rng(key % 1000).integers(0, 256, (height, width, channels), dtype=np.uint8)
    out = warp_to(image, height, width, key=key, fill=-50, shift=most, border=1.0)
    matrix = np.zeros(6, np.float32)
    draw_geometry(np.uint64(stream(key, 0)), False, values({"shift": most}), 1.0, height, width, height, width, matrix)
    left, top = int(matrix[2]), int(matrix[5])
    assert max(abs(left), abs(top)) <= most
    padded = np.pad(image, [(most, most), (most, most), (0, 0)], mode="reflect").astype(float)
    shown = padded[most + top : most + top + height, most + left : most + left + width]
    np.testing.assert_allclose(out, shown, atol=0.01)


def folded(at, last):
    """Reflect a position into 0 to `last`."""
    at = abs(at) % max(2 * last, 1)
    return last - abs(last - at)


@given(
    st.integers(1, 20), st.integers(1, 20), st.integers(1, 5), st.integers(1, 20), st.integers(1, 20),
    st.integers(0, 2**62),
)  # fmt: skip
def test_any_move_samples_the_reflected_image(height, width, channels, rows, columns, key):
    image = np.random.default_rng(key % 1000).integers(0, 256, (height, width, channels), dtype=np.uint8)
    ranges = {"translate": 9, "rotate": 40, "scale": 0.5, "reflect": 0.5}
    out = warp_to(image, rows, columns, key=key, fill=-999, border=1.0, **ranges)
    matrix = np.zeros(6, np.float32)
    draw_geometry(np.uint64(stream(key, 0)), False, values(ranges), 1.0, height, width, rows, columns, matrix)
    a, b, c, d, e, f = matrix.astype(float)
    for y in range(rows):
        for x in range(columns):
            u, v = folded(a * x + b * y + c, width - 1), folded(d * x + e * y + f, height - 1)
            i, j = min(int(v), max(height - 2, 0)), min(int(u), max(width - 2, 0))
            below, right = min(i + 1, height - 1), min(j + 1, width - 1)
            upper = image[i, j] + (image[i, right].astype(float) - image[i, j]) * (u - j)
            lower = image[below, j] + (image[below, right].astype(float) - image[below, j]) * (u - j)
            np.testing.assert_allclose(out[y, x], upper + (lower - upper) * (v - i), atol=0.1)


def test_a_field_reflects_the_border_too():
    image = np.full((8, 8, 3), 77, np.uint8)
    for key in range(20):
        out = warp_to(image, 8, 8, key=key, fill=-999, border=1.0, elastic=6.0, translate=20)
        np.testing.assert_allclose(out, 77, atol=0.01)


@pytest.mark.parametrize("seed", [0, 7])
def test_mirror_images_alternate_by_epoch_and_half_of_the_images_begin(seed):
    samples = np.arange(400)
    images = np.tile(IMAGES[:1], (400, 1, 1, 1))
    mirrored = []
    for epoch in range(4):
        out = warp(samples, picture_key(seed, epoch), images, reflect=ALTERNATING)
        mirrored.append(np.isclose(out, images[:, :, ::-1], atol=0.01).all(axis=(1, 2, 3)))
        plain = np.isclose(out, images, atol=0.01).all(axis=(1, 2, 3))
        assert (plain ^ mirrored[-1]).all()
    assert (mirrored[0] == ~mirrored[1]).all()
    assert (mirrored[0] == mirrored[2]).all()
    assert (mirrored[1] == mirrored[3]).all()
    assert 150 < mirrored[0].sum() < 250
    one = warp([5], picture_key(seed, 1), images, reflect=ALTERNATING)
    np.testing.assert_array_equal(one[0], warp(samples, picture_key(seed, 1), images, reflect=ALTERNATING)[5])


def test_seeds_begin_with_other_halves():
    images = np.tile(IMAGES[:1], (200, 1, 1, 1))
    first, second = (warp(np.arange(200), picture_key(seed, 0), images, reflect=ALTERNATING) for seed in (1, 2))
    assert 60 < (first == second).all(axis=(1, 2, 3)).sum() < 140


def test_erasing_blanks_one_rectangle():
    image = np.full((24, 30, 3), 200, np.uint8)
    areas, shapes, middles, erased = [], [], [], 0
    for key in range(600):
        out = warp_to(image, 24, 30, key=key, erase=0.75)
        blank = (out == 0).all(axis=2)
        assert (out[~blank] == 200).all()
        if not blank.any():
            continue
        erased += 1
        lines, columns = blank.any(axis=1).nonzero()[0], blank.any(axis=0).nonzero()[0]
        height, width = np.ptp(lines) + 1, np.ptp(columns) + 1
        assert blank.sum() == height * width  # one whole rectangle
        areas.append(height * width / blank.size)
        shapes.append(height / width)
        middles.append((lines.mean() / 23, columns.mean() / 29))
    assert 400 < erased < 500
    assert 0.01 < min(areas) < 0.05
    assert 0.35 < max(areas) < 0.45
    assert min(shapes) < 0.6
    assert max(shapes) > 1.7
    assert np.ptp(middles, axis=0).min() > 0.7
    assert (warp_to(image, 24, 30, key=3) == 200).all()
