from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels.warp import RANGES, draw_affine, warp_batch

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 9, 11, 2), dtype=np.uint8)


def warp(samples, key=1, images=IMAGES, mean=(0.0, 0.0), deviation=(1.0, 1.0), fill=0.0, **ranges):
    samples = np.asarray(samples)
    out = np.full((len(samples), *images.shape[1:]), np.nan, np.float32)
    values = np.array([ranges.get(name, 0.0) for name in RANGES])
    single = [np.array(each, np.float32) for each in (mean, deviation)]
    warp_batch(images, samples, out, values, np.uint64(key), *single, np.float32(fill))
    return out


@pytest.mark.parametrize("images", [IMAGES, IMAGES.astype(np.float32)])
def test_without_ranges_it_only_normalises(images):
    out = warp([4, 0], images=images, mean=(10, 20), deviation=(2, 4))
    np.testing.assert_allclose(out, (IMAGES[[4, 0]].astype(float) - (10, 20)) / (2, 4), rtol=1e-6)


def test_certain_reflection_is_the_mirror_image():
    np.testing.assert_allclose(warp([1, 2], reflect=1.0), IMAGES[[1, 2], :, ::-1], atol=0.01)


def test_half_of_the_images_are_reflected():
    plain = IMAGES[[0] * 1].astype(float)
    mirrored = sum(not np.allclose(warp([0], key=key, reflect=0.5), plain, atol=0.5) for key in range(300))
    assert 110 < mirrored < 190


@given(st.integers(0, 2**64 - 1))
def test_draws_keep_to_their_ranges(key):
    matrix = np.zeros(6, np.float32)
    ranges = np.array([2.0, 0, 0, 0, 0, 0])
    draw_affine(np.uint64(key), ranges, 28, 28, matrix)
    assert abs(matrix[2]) <= 2
    assert abs(matrix[5]) <= 2
    np.testing.assert_array_equal(matrix[[0, 1, 3, 4]], [1, 0, 0, 1])
    ranges = np.array([0, 10.0, 0.1, 0, 0, 0])
    draw_affine(np.uint64(key), ranges, 28, 28, matrix)
    scale = np.hypot(matrix[0], matrix[3])
    assert 1 / 1.1 - 1e-5 <= scale <= 1 / 0.9 + 1e-5
    assert abs(np.degrees(np.arctan2(matrix[3], matrix[0]))) <= 10.001
    middle = np.array([[matrix[0], matrix[1]], [matrix[3], matrix[4]]]) @ [13.5, 13.5] + matrix[[2, 5]]
    np.testing.assert_allclose(middle, 13.5, atol=1e-3)


@given(st.integers(0, 2**63), st.permutations(range(5)))
def test_a_picture_depends_on_key_and_sample_alone(key, order):
    ranges = {"translate": 2, "rotate": 20, "scale": 0.2, "shear": 10, "reflect": 0.5, "elastic": 1.5}
    together = warp(order, key=key, fill=7, **ranges)
    for place, sample in enumerate(order):
        np.testing.assert_array_equal(together[place], warp([sample], key=key, fill=7, **ranges)[0])
    assert together.min() >= min(7, IMAGES.min()) - 0.01
    assert together.max() <= IMAGES.max() + 0.01
    assert (together != warp(order, key=key + 1, fill=7, **ranges)).any()


def test_outside_the_image_is_filled():
    out = warp([0] * 1, translate=1e4, fill=99.0)
    assert (out == 99).mean() > 0.9
