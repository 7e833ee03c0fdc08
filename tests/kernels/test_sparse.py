from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import conv, sparse
from adam_mp.kernels.product import transpose

densities = st.sampled_from([0.0, 0.05, 0.25, 1.0])


def random_error(rows, columns, density, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((rows, columns)) * (generator.random((rows, columns)) < density)


def compress(error):
    """The list of `compress_rows`, in arrays with nothing to spare."""
    rows, columns = error.shape
    room = rows * (columns + sparse.GROUP)
    starts, listed = np.full(rows + 1, -1), (np.full(room, -1, np.int32), np.full(room, np.nan))
    sparse.compress_rows(error, starts, *listed)
    return starts, *listed


@given(st.integers(1, 20), st.integers(1, 40), densities)
def test_rows_are_listed_and_padded(rows, columns, density):
    error = random_error(rows, columns, density)
    starts, listed, values = compress(error)
    for i in range(rows):
        part = slice(starts[i], starts[i + 1])
        used = np.flatnonzero(error[i])
        assert (part.stop - part.start) % sparse.GROUP == 0
        assert part.stop - part.start < len(used) + sparse.GROUP
        np.testing.assert_array_equal(listed[part][: len(used)], used)
        np.testing.assert_array_equal(values[part][: len(used)], error[i, used])
        assert (listed[part][len(used) :] == columns).all()
        assert (values[part][len(used) :] == 0).all()


@given(st.integers(2, 20), st.integers(1, 40), densities, st.data())
def test_the_list_is_grouped_by_columns(rows, columns, density, data):
    error = random_error(rows, columns, density)
    first = data.draw(st.integers(0, rows - 1))
    last = data.draw(st.integers(first + 1, rows))
    listed = compress(error)
    begins, filled = np.full(columns + 2, -1), np.full(columns + 2, -1)
    room = rows * (columns + sparse.GROUP) + columns * sparse.GROUP
    numbers, values = np.full(room, -1, np.int32), np.full(room, np.nan)
    sparse.group_by_column(*listed, first, last, begins, filled, numbers, values)
    for j in range(columns):
        part = slice(begins[j], begins[j + 1])
        used = first + np.flatnonzero(error[first:last, j])
        assert (part.stop - part.start) % sparse.GROUP == 0
        np.testing.assert_array_equal(numbers[part][: len(used)], used)
        np.testing.assert_array_equal(values[part][: len(used)], error[used, j])
        assert (values[part][len(used) :] == 0).all()


@given(st.integers(1, 12), st.integers(1, 20), st.integers(1, 300), densities)
def test_product(rows, depth, width, density):
    error = random_error(rows, depth, density)
    b = np.zeros((depth + 1, sparse.padded_width(width, 8)))
    b[:-1, :width] = np.random.default_rng(1).standard_normal((depth, width))
    first = rows // 2
    out = np.full((rows - first, width), np.nan)
    sparse.sparse_product(*compress(error), b, out, first)
    np.testing.assert_allclose(out, error[first:] @ b[:-1, :width], atol=1e-9)


@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 2), st.integers(0, 2), st.integers(1, 40), st.integers(1, 5),
    densities, st.booleans(),
)  # fmt: skip
def test_both_ways_back_agree_with_products(images, size, stride, padding, channels, filters, density, keep):
    generator = np.random.default_rng(2)
    height, width = max(size - 2 * padding, 1) + 3, max(size - 2 * padding, 1) + 2
    x = generator.standard_normal((images, height, width, channels))
    padded = np.zeros((images, height + 2 * padding, width + 2 * padding, channels))
    conv.pad_images(x, padded, padding)
    pixels = conv.pixel_offsets(images, padded.shape[1:], size, stride)
    taps = conv.tap_offsets(padded.shape[1:], size)
    patches = padded.reshape(-1)[pixels[:, None] + taps]
    error = random_error(len(pixels), filters, density)
    weight = generator.standard_normal((len(taps), filters))
    listed = compress(error)

    room = error.size + (len(error) + filters) * sparse.GROUP
    scratch = (np.zeros(filters + 2, np.int64), np.zeros(filters + 2, np.int64))
    scratch = (*scratch, np.full(room, -1, np.int32), np.full(room, np.nan))
    gradient = np.full((filters, len(taps)), 1.0 if keep else np.nan)
    sparse.sparse_backward_weight(padded, pixels, taps, size * channels, *listed, *scratch, gradient, keep)
    np.testing.assert_allclose(gradient, (patches.T @ error).T + keep, atol=1e-9)

    transposed = np.zeros((filters + 1, sparse.padded_width(len(taps), 8)))
    transpose(weight, transposed[:-1])
    some = np.full((len(pixels) // images, len(taps)), np.nan)
    x_error, expected = np.full_like(x, np.nan), np.zeros_like(x)
    sparse.sparse_backward_input(*listed, transposed, some, x_error, size, stride, padding)
    conv.sum_patches(error @ weight.T, expected, size, stride, padding)
    np.testing.assert_allclose(x_error, expected, atol=1e-9)
