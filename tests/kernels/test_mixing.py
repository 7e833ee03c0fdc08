from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as some

from adam_mp.kernels.mixing import blend_images, exchange_rectangle

SHAPES = some.tuples(some.integers(1, 7), some.integers(1, 9), some.integers(1, 9), some.integers(1, 3))


def draw(shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


@given(shape=SHAPES, mixed=some.floats(0, 1))
def test_images_are_blended_with_the_batch_in_reverse(shape, mixed):
    images = draw(shape)
    expected = (1 - mixed) * images.astype(np.float64) + mixed * images[::-1]
    given_ones = images.copy()
    blend_images(images, mixed)
    np.testing.assert_allclose(images, expected, atol=1e-6)
    middle = shape[0] // 2
    if shape[0] % 2:
        np.testing.assert_array_equal(images[middle], given_ones[middle])
    if mixed == 0:
        np.testing.assert_array_equal(images, given_ones)


@given(shape=SHAPES, data=some.data())
def test_a_rectangle_is_exchanged_with_the_batch_in_reverse(shape, data):
    (top, bottom), (left, right) = (
        sorted(data.draw(some.tuples(some.integers(0, size), some.integers(0, size)))) for size in shape[1:3]
    )
    images = draw(shape)
    expected = images.copy()
    expected[:, top:bottom, left:right] = images[::-1, top:bottom, left:right]
    exchange_rectangle(images, top, bottom, left, right)
    np.testing.assert_array_equal(images, expected)
