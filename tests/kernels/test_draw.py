from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.kernels import draw
from adam_mp.kernels.draw import RANGES, TRANSFORMATIONS, draw_colours, draw_field, draw_geometry


def ranges_of(ranges):
    return np.array([float(ranges.get(name, 0.0)) for name in RANGES])


def test_each_transformation_has_its_place():
    places = [getattr(draw, name.upper()) for name in TRANSFORMATIONS]
    assert places == list(range(len(RANGES)))
    assert list(RANGES[: draw.MOVING]) == [
        "translate", "shift", "rotate", "scale", "shear", "reflect", "elastic", "crop",
    ]  # fmt: skip


@given(st.integers(0, 2**64 - 1))
def test_draws_keep_to_their_ranges(key):
    matrix = np.zeros(6, np.float32)
    draw_geometry(np.uint64(key), False, ranges_of({"translate": 2}), 1.0, 28, 28, 28, 28, matrix)
    assert abs(matrix[2]) <= 2.0001
    assert abs(matrix[5]) <= 2.0001
    np.testing.assert_array_equal(matrix[[0, 1, 3, 4]], [1, 0, 0, 1])
    draw_geometry(np.uint64(key), False, ranges_of({"rotate": 10, "scale": 0.1}), 1.0, 28, 28, 28, 28, matrix)
    scale = np.hypot(matrix[0], matrix[3])
    assert 1 / 1.1 - 1e-5 <= scale <= 1 / 0.9 + 1e-5
    assert abs(np.degrees(np.arctan2(matrix[3], matrix[0]))) <= 10.001
    middle = np.array([[matrix[0], matrix[1]], [matrix[3], matrix[4]]]) @ [13.5, 13.5] + matrix[[2, 5]]
    np.testing.assert_allclose(middle, 13.5, atol=1e-3)


def test_shifts_are_whole_and_all_as_likely():
    found, matrix = [], np.zeros(6, np.float32)
    for key in range(2000):
        draw_geometry(np.uint64(key << 20), False, ranges_of({"shift": 2}), 1.0, 9, 7, 9, 7, matrix)
        np.testing.assert_array_equal(matrix[[0, 1, 3, 4]], [1, 0, 0, 1])
        found.append(matrix[[2, 5]].tolist())
    places, counts = np.unique(found, axis=0, return_counts=True)
    assert places.tolist() == [[x, y] for x in range(-2, 3) for y in range(-2, 3)]
    assert counts.min() > 45  # of 80


@given(st.integers(0, 2**64 - 1), st.booleans())
def test_what_takes_its_turn_is_mirrored(key, turn):
    matrix = np.zeros(6, np.float32)
    draw_geometry(np.uint64(key), turn, ranges_of({"reflect": draw.ALTERNATING}), 1.0, 9, 7, 9, 7, matrix)
    assert matrix[0] == (-1 if turn else 1)
    draw_geometry(np.uint64(key), turn, ranges_of({}), 1.0, 9, 7, 9, 7, matrix)
    assert matrix[0] == 1


@given(st.integers(0, 2**64 - 1), st.just(0.0) | st.floats(0.1, 5))
def test_the_field_stays_within_its_strength(key, strength):
    field = np.full((2, draw.GRID + 1, draw.GRID + 1), np.nan, np.float32)
    draw_field(np.uint64(key), strength, field)
    assert np.abs(field).max() <= strength + 1e-6
    assert (field == 0).all() if strength == 0 else len(np.unique(field)) > 0.9 * field.size


@given(st.integers(0, 2**64 - 1))
def test_without_ranges_colours_are_normalised_alone(key):
    mean, deviation = np.array([10, 20], np.float32), np.array([2, 4], np.float32)
    gain, offset = np.zeros(2, np.float32), np.zeros(2, np.float32)
    draw_colours(np.uint64(key), ranges_of({}), mean, deviation, np.eye(2, dtype=np.float32), gain, offset)
    np.testing.assert_allclose(gain, 1 / deviation)
    np.testing.assert_allclose(offset, -mean / deviation)
    draw_colours(
        np.uint64(key), ranges_of({"brightness": 0.2}), mean, deviation, np.eye(2, dtype=np.float32), gain, offset
    )
    assert ((gain * deviation >= 0.8 - 1e-6) & (gain * deviation <= 1.2 + 1e-6)).all()
    assert gain[0] * deviation[0] == pytest.approx(gain[1] * deviation[1])
