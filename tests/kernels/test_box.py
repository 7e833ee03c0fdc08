from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import box


@given(st.data())
def test_a_box_is_copied_or_added(data):
    count = data.draw(st.integers(0, 3))
    shapes = [tuple(data.draw(st.integers(1, 5)) for _ in range(3)) for _ in range(2)]
    sizes, begins = [], [[], []]
    for axis in range(3):
        size = data.draw(st.integers(0, min(shape[axis] for shape in shapes)))
        sizes.append(size)
        for which, shape in enumerate(shapes):
            begins[which].append(data.draw(st.integers(0, shape[axis] - size)))
    source, target = (np.random.default_rng(n).standard_normal((count, *shape)) for n, shape in enumerate(shapes))
    slices = [(slice(None), *(slice(b, b + s) for b, s in zip(each, sizes, strict=True))) for each in begins]
    for add in (False, True):
        expected = target.copy()
        expected[slices[1]] = source[slices[0]] + (expected[slices[1]] if add else 0)
        found = target.copy()
        box.copy_box(source, *begins[0], found, *begins[1], *sizes, add)
        np.testing.assert_array_equal(found, expected)


@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3), st.integers(0, 3))
def test_what_is_around_a_box_is_filled(first_row, rows, first_column, columns):
    images = np.ones((2, 5, 4, 3), np.float32)
    end_row, end_column = min(5, first_row + rows), min(4, first_column + columns)
    box.fill_around(images, first_row, end_row, first_column, end_column, np.float32(-7))
    expected = np.full_like(images, -7)
    expected[:, first_row:end_row, first_column:end_column] = 1
    np.testing.assert_array_equal(images, expected)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_moments_of_parts_are_those_of_all(pixels):
    generator = np.random.default_rng(len(pixels))
    parts = [generator.standard_normal((count, 3)) + 100 for count in pixels]
    means = np.array([part.mean(axis=0) for part in parts])
    squares = np.array([part.var(axis=0) * len(part) for part in parts])
    mean, total = np.zeros(3), np.zeros(3)
    box.merge_moments(means, squares, np.array(pixels), mean, total)
    together = np.concatenate(parts)
    np.testing.assert_allclose(mean, together.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(total, together.var(axis=0) * len(together), rtol=1e-9, atol=1e-9)


def test_sums_over_parts():
    parts = np.arange(12.0).reshape(2, 3, 2)
    total = np.zeros((2, 2))
    box.sum_of_parts(parts, total)
    np.testing.assert_array_equal(total, parts.sum(axis=1))
    out = np.ones(3)
    box.add_share(np.array([1.0, 2.0, 3.0]), 0.5, out, True)
    np.testing.assert_array_equal(out, [1.5, 2.0, 2.5])
    box.add_share(np.array([1.0, 2.0, 3.0]), 0.5, out, False)
    np.testing.assert_array_equal(out, [0.5, 1.0, 1.5])
