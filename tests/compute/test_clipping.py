from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from adam_mp.compute.clipping import Clip, clipped_share
from adam_mp.compute.shares import whole_stretch


@given(values=some.lists(some.floats(-1e3, 1e3, width=32), min_size=1, max_size=70), bound=some.floats(1e-3, 1e4))
def test_a_gradient_keeps_its_direction_and_is_no_longer_than_the_bound(values, bound):
    given_one = np.array(values, np.float64)
    gradient = given_one.copy()
    clip = Clip(bound, gradient, whole_stretch(gradient.size))
    clip()
    norm = float(np.linalg.norm(given_one))
    assert np.linalg.norm(gradient) <= bound * (1 + 1e-9) + 1e-12
    assert clip.share == pytest.approx(min(1.0, bound / norm) if norm else 1.0)
    np.testing.assert_allclose(gradient, given_one * clip.share, rtol=1e-12)
    if norm < bound * (1 - 1e-9):
        np.testing.assert_array_equal(gradient, given_one)


def test_frozen_tensors_do_not_count():
    gradient = np.array([3.0, 100.0, 4.0])
    clip = Clip(1.0, gradient, np.array([(1, 1.0, 1.0), (2, 0.0, 1.0), (3, 0.5, 0.0)]))
    assert clip.square() == 25
    clip()
    np.testing.assert_allclose(gradient[[0, 2]], [0.6, 0.8])


def test_a_part_is_clipped_by_the_norm_of_the_whole():
    whole = np.arange(1.0, 9.0)
    part = whole[:3].copy()
    clip = Clip(2.0, part, whole_stretch(3))
    assert clip.square() == 14
    clip.finish(float(whole @ whole))
    np.testing.assert_allclose(part, whole[:3] * 2 / np.linalg.norm(whole))


def test_what_is_no_number_stays_so():
    assert clipped_share(math.nan, 1.0) == 1.0
    gradient = np.array([1.0, np.inf])
    Clip(1.0, gradient, whole_stretch(2))()
    assert not np.isfinite(gradient).all()  # the guard must see it
