"""Mixup and CutMix: what is drawn, what becomes of a batch, and what cannot be mixed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from adam_mp.data.mixing import Mixing
from adam_mp.errors import SettingsError

SEED, EPOCH = 5, 2
KINDS = [Mixing(mixup=0.4), Mixing(cutmix=1.0), Mixing(mixup=0.4, cutmix=1.0)]


def draws(mixing, count=4000, height=32, width=24):
    return [mixing.draw(SEED, EPOCH, batch, height, width) for batch in range(count)]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_the_share_of_mixup_is_of_the_beta_distribution(alpha):
    shares = [each.mixed for each in draws(Mixing(mixup=alpha))]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.06)
    assert all(each.rectangle is None for each in draws(Mixing(mixup=alpha), 50))


def test_the_rectangle_of_cutmix_has_the_drawn_area_anywhere():
    height, width = 400, 300
    drawn = [each.rectangle for each in draws(Mixing(cutmix=1.0), height=height, width=width)]
    inside = [r for r in drawn if r.top > 0 and r.bottom < height and r.left > 0 and r.right < width]
    for r in inside:  # of the image's shape, where the border does not cut it off
        assert (r.bottom - r.top) / height == pytest.approx((r.right - r.left) / width, abs=0.01)
    lengths = [r.bottom - r.top for r in drawn if r.top == 0]
    assert max(lengths) > 0.95 * height
    # A whole rectangle of side s (as a share) has its middle within s / 2 of no border: for Beta(1, 1), where the area
    # s * s is uniform, that has a probability of 1/6, the mean of (1 - s)(1 - s).
    assert len(inside) / len(drawn) == pytest.approx(1 / 6, abs=0.03)
    middles = np.array([(r.top + r.bottom, r.left + r.right) for r in inside]) / (2 * height, 2 * width)
    np.testing.assert_allclose(middles.mean(axis=0), 0.5, atol=0.03)


def test_the_root_of_a_drawn_area_is_the_mean_length():
    sides = [math.sqrt(each.mixed) for each in draws(Mixing(mixup=1.0))]
    lengths = [  # with their middle in the image, rectangles lose to the border: a side s keeps s - s * s / 4
        math.sqrt(each.mixed) for each in draws(Mixing(cutmix=1.0), height=1000, width=1000)
    ]
    assert np.mean(sides) == pytest.approx(2 / 3, abs=0.02)
    assert np.mean(lengths) == pytest.approx(2 / 3 - 1 / 8, abs=0.02)


def test_with_both_each_batch_has_one_of_them_by_equal_odds():
    drawn = draws(Mixing(0.4, 1.0))
    assert np.mean([each.rectangle is None for each in drawn]) == pytest.approx(0.5, abs=0.03)
    blended = [each.mixed for each in drawn if each.rectangle is None]
    assert np.var(blended) == pytest.approx(1 / (4 * 1.8), rel=0.08)


@given(
    alpha=some.sampled_from([1e-320, 0.01, 1.0, 1000.0]), batch=some.integers(0, 10**6), height=some.integers(1, 60),
    width=some.integers(1, 60),
)  # fmt: skip
def test_the_share_is_exactly_that_of_the_pixels(alpha, batch, height, width):
    mixed, rectangle = Mixing(cutmix=alpha).draw(SEED, EPOCH, batch, height, width)
    marked = np.zeros((height, width))
    marked[rectangle.top : rectangle.bottom, rectangle.left : rectangle.right] = 1
    assert mixed == marked.mean() == rectangle.pixels / (height * width)
    assert 0 <= rectangle.top <= rectangle.bottom <= height
    assert 0 <= rectangle.left <= rectangle.right <= width
    assert 0 <= Mixing(mixup=alpha).draw(SEED, EPOCH, batch, height, width).mixed <= 1


@pytest.mark.parametrize("mixing", KINDS)
def test_draws_are_of_seed_epoch_and_batch(mixing):
    places = [(seed, epoch, batch) for seed in range(4) for epoch in range(4) for batch in range(4)]
    drawn = [mixing.draw(*place, 40, 40) for place in places]
    assert drawn == [mixing.draw(*place, 40, 40) for place in places]
    assert len(set(drawn)) > 55  # rectangles without pixels are alike


@pytest.mark.parametrize("mixing", KINDS)
@pytest.mark.parametrize("count", [2, 5, 8])
def test_a_batch_is_mixed_as_it_was_drawn(mixing, count):
    images = np.random.default_rng(count).standard_normal((count, 9, 7, 2), dtype=np.float32)
    for batch in range(20):
        mixed, rectangle = mixing.draw(SEED, EPOCH, batch, 9, 7)
        share = np.full((9, 7, 1), mixed)
        if rectangle is not None:
            share[...] = 0
            share[rectangle.top : rectangle.bottom, rectangle.left : rectangle.right] = 1
        expected = (1 - share) * images + share * images[::-1]
        found = images.copy()
        assert mixing.mix(found, SEED, EPOCH, batch) == mixed
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("mixing", "count"), [(Mixing(), 6), *((each, n) for each in KINDS for n in (0, 1))])
def test_one_image_and_no_mixing_leave_all_as_it_is(mixing, count):
    images = np.random.default_rng(0).standard_normal((count, 4, 4, 1), dtype=np.float32)
    found = images.copy()
    assert mixing.mix(found, SEED, EPOCH, 0) == 0.0
    np.testing.assert_array_equal(found, images)


def test_what_cannot_be_mixed_is_refused():
    for mixing in KINDS:
        mixing.check(2, (28, 28, 1))
    Mixing().check(1, (1, 1, 30))
    Mixing(mixup=0.2).check(16, (1, 1, 30))
    Mixing(cutmix=0.2).check(16, (1, 30, 1))
    with pytest.raises(SettingsError, match=r"^mixup mixes the images of a batch .* has one image; give a batch_size"):
        Mixing(0.2, 1.0).check(1, (28, 28, 1))
    with pytest.raises(SettingsError, match=r"^cutmix mixes the images of a batch"):
        Mixing(cutmix=1.0).check(1, (28, 28, 1))
    with pytest.raises(SettingsError, match=r"^cutmix exchanges parts of images, but the data are rows of 30 feat"):
        Mixing(0.2, 1.0).check(16, (1, 1, 30))
