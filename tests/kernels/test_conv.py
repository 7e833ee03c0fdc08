from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import conv
from adam_mp.kernels.product import PANEL_BYTES, transpose


def reference_patches(images, size, stride, padding, dilation=1):
    """[n * out_h * out_w, size * size * c], one slice at a time."""
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    _, height, width, _ = padded.shape
    extent = dilation * (size - 1) + 1
    return np.array(
        [
            padded[n, y : y + extent : dilation, x : x + extent : dilation].reshape(-1)
            for n in range(len(images))
            for y in range(0, height - extent + 1, stride)
            for x in range(0, width - extent + 1, stride)
        ]
    )


@st.composite
def problems(draw):
    size, padding = draw(st.integers(1, 4)), draw(st.integers(0, 3))
    smallest = max(1, size - 2 * padding)
    shape = tuple(draw(st.integers(low, high)) for low, high in ((1, 3), (smallest, 8), (smallest, 8), (1, 4)))
    images = np.random.default_rng(draw(st.integers(0, 99))).standard_normal(shape)
    return images, size, draw(st.integers(1, 3)), padding


def offsets(images, size, stride, padding):
    """The padded images, and the tables a product reads their patches by."""
    height, width = (side + 2 * padding for side in images.shape[1:3])
    padded = np.zeros((len(images), height, width, images.shape[3]), images.dtype)
    conv.pad_images(images, padded, padding)
    shape = padded.shape[1:]
    return padded, conv.pixel_offsets(len(images), shape, size, stride), conv.tap_offsets(shape, size)


def panel(real=np.float64):
    return np.full(PANEL_BYTES // np.dtype(real).itemsize, np.nan, real)


@given(problems())
def test_the_offsets_are_those_of_the_patches(problem):
    images, size, stride, padding = problem
    padded, pixels, taps = offsets(images, size, stride, padding)
    patches = padded.reshape(-1)[pixels[:, None] + taps]
    np.testing.assert_array_equal(patches, reference_patches(images, size, stride, padding))


@given(problems(), st.integers(0, 99))
def test_summing_is_the_transpose_of_gathering(problem, seed):
    images, size, stride, padding = problem
    patches = reference_patches(images, size, stride, padding)
    weights = np.random.default_rng(seed).standard_normal(patches.shape)
    back = np.full_like(images, np.nan)
    conv.sum_patches(weights, back, size, stride, padding)
    np.testing.assert_allclose(np.sum(patches * weights), np.sum(images * back), rtol=1e-9, atol=1e-9)


@given(problems(), st.integers(1, 3))
def test_dilated_patches_and_their_sums(problem, dilation):
    images, size, stride, padding = problem
    extent = dilation * (size - 1) + 1
    images = np.pad(images, ((0, 0), (0, extent - size), (0, extent - size), (0, 0)), mode="reflect")
    expected = reference_patches(images, size, stride, padding, dilation)
    padded, pixels, _ = offsets(images, extent, stride, padding)
    taps = conv.tap_offsets(padded.shape[1:], size, dilation)
    np.testing.assert_array_equal(padded.reshape(-1)[pixels[:, None] + taps], expected)
    weights = np.random.default_rng(0).standard_normal(expected.shape)
    back = np.full_like(images, np.nan)
    conv.sum_dilated(weights, back, size, stride, padding, dilation)
    np.testing.assert_allclose(np.sum(expected * weights), np.sum(images * back), rtol=1e-9, atol=1e-9)


@given(problems(), st.integers(1, 40), st.sampled_from([0.0, 1.0]))
def test_forward_and_weight_gradient(problem, channels, beta):
    images, size, stride, padding = problem
    generator = np.random.default_rng(0)
    expected = reference_patches(images, size, stride, padding)
    weight = generator.standard_normal((expected.shape[1], channels))
    tables = offsets(images, size, stride, padding)
    out = np.full((len(expected), channels), np.nan)
    conv.conv_forward(*tables, weight, out, panel())
    np.testing.assert_allclose(out, expected @ weight, atol=1e-9)

    error, first = generator.standard_normal(out.shape), generator.standard_normal(weight.shape)
    gradient = first.copy() if beta else np.full_like(first, np.nan)
    conv.conv_backward_weight(*tables, error, gradient, panel(), beta)
    np.testing.assert_allclose(gradient, beta * first + expected.T @ error, atol=1e-9)


@given(problems(), st.integers(1, 5), st.integers(1, 3))
def test_both_ways_to_the_error_of_the_input(problem, filters, images_at_a_time):
    images, size, stride, padding = problem
    generator = np.random.default_rng(0)
    patches = reference_patches(images, size, stride, padding)
    weight = generator.standard_normal((patches.shape[1], filters))
    error = generator.standard_normal((len(patches), filters))
    expected = np.zeros_like(images)
    conv.sum_patches(error @ weight.T, expected, size, stride, padding)

    pixels = len(patches) // len(images)
    transposed, scratch = np.zeros(weight.shape[::-1]), np.zeros((images_at_a_time * pixels, len(weight)))
    transpose(weight, transposed)
    rows, x_error = np.arange(len(scratch)) * filters, np.full_like(images, np.nan)
    geometry = (size, stride, padding, 1)
    conv.conv_backward_input(error, rows, np.arange(filters), transposed, scratch, x_error, *geometry, panel())
    np.testing.assert_allclose(x_error, expected, atol=1e-9)

    if stride == 1 and padding < size:
        flipped, x_error = np.zeros((size * size * filters, images.shape[3])), np.full_like(images, np.nan)
        conv.flip_weight(weight, flipped, size)
        height, width = (side + 2 * padding - size + 1 for side in images.shape[1:3])
        tables = offsets(error.reshape(len(images), height, width, filters), size, 1, size - 1 - padding)
        conv.conv_forward(*tables, flipped, x_error.reshape(-1, images.shape[3]), panel())
        np.testing.assert_allclose(x_error, expected, atol=1e-9)
