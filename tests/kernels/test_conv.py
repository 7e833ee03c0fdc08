from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import conv


def reference_patches(images, size, stride, padding):
    """[n * out_h * out_w, size * size * c], one slice at a time."""
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    _, height, width, _ = padded.shape
    return np.array(
        [
            padded[n, y : y + size, x : x + size].reshape(-1)
            for n in range(len(images))
            for y in range(0, height - size + 1, stride)
            for x in range(0, width - size + 1, stride)
        ]
    )


@st.composite
def problems(draw):
    size, padding = draw(st.integers(1, 4)), draw(st.integers(0, 3))
    smallest = max(1, size - 2 * padding)
    shape = tuple(draw(st.integers(low, high)) for low, high in ((1, 3), (smallest, 8), (smallest, 8), (1, 4)))
    images = np.random.default_rng(draw(st.integers(0, 99))).standard_normal(shape)
    return images, size, draw(st.integers(1, 3)), padding


@given(problems(), st.booleans())
def test_patches_are_gathered(problem, single):
    images, size, stride, padding = problem
    images = images.astype(np.float32 if single else np.float64)
    expected = reference_patches(images, size, stride, padding)
    patches = np.full_like(expected, np.nan)
    conv.gather_patches(images, patches, size, stride, padding)
    np.testing.assert_array_equal(patches, expected)


@given(problems())
def test_columns_are_the_transposed_patches_of_one_channel(problem):
    images, size, stride, padding = problem
    images = np.ascontiguousarray(images[..., :1])
    expected = reference_patches(images, size, stride, padding).T
    columns = np.full(expected.shape, np.nan)
    conv.gather_columns(images, columns, size, stride, padding)
    np.testing.assert_array_equal(columns, expected)


@given(problems(), st.integers(0, 99))
def test_scattering_is_the_transpose_of_gathering(problem, seed):
    images, size, stride, padding = problem
    generator = np.random.default_rng(seed)
    for scatter, gather, part, turn in (
        (conv.scatter_patches, conv.gather_patches, images, False),
        (conv.scatter_columns, conv.gather_columns, np.ascontiguousarray(images[..., :1]), True),
    ):
        patches = reference_patches(part, size, stride, padding)
        patches = np.ascontiguousarray(patches.T) if turn else patches
        gather(part, patches, size, stride, padding)
        weights = generator.standard_normal(patches.shape)
        back = np.full_like(part, np.nan)
        scatter(weights, back, size, stride, padding)
        np.testing.assert_allclose(np.sum(patches * weights), np.sum(part * back), rtol=1e-9, atol=1e-9)


@given(problems(), st.integers(1, 5), st.sampled_from([0.0, 1.0]))
def test_forward_and_both_gradients(problem, channels, beta):
    images, size, stride, padding = problem
    generator = np.random.default_rng(0)
    expected = reference_patches(images, size, stride, padding)
    weight = generator.standard_normal((expected.shape[1], channels))
    patches, out = np.zeros_like(expected), np.zeros((len(expected), channels))
    conv.conv_forward(images, weight, patches, out, size, stride, padding)
    np.testing.assert_allclose(out, expected @ weight, atol=1e-9)

    error = generator.standard_normal(out.shape)
    first = generator.standard_normal(weight.shape)
    for gather in (False, True):
        gradient = first.copy()
        if gather:
            patches[:] = np.nan
        conv.conv_backward_weight(images, patches, error, gradient, size, stride, padding, gather, beta)
        np.testing.assert_allclose(gradient, beta * first + expected.T @ error, atol=1e-9)

    image_error, back = np.full_like(images, np.nan), np.zeros_like(images)
    conv.conv_backward_input(error, weight, patches, image_error, size, stride, padding)
    conv.scatter_patches(error @ weight.T, back, size, stride, padding)
    np.testing.assert_allclose(image_error, back, atol=1e-9)
