from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from adam_mp.errors import SettingsError
from adam_mp.training.settings.option import help_of
from adam_mp.training.settings.schedule import Schedule
from adam_mp.training.settings.settings import FIELDS, TrainSettings
from adam_mp.training.settings.shapes import SHAPES

EPOCHS, STEPS = 10, 50


def course(rate):
    """The learning rates of all updates of a run, and the progress at each."""
    schedule = Schedule(TrainSettings(lr=rate).lr, EPOCHS, STEPS)
    schedule.check()
    rates = [schedule.values(epoch, np.arange(STEPS) + epoch * STEPS) for epoch in range(EPOCHS)]
    return np.concatenate(rates), np.arange(EPOCHS * STEPS) / (EPOCHS * STEPS)


def test_cosine():
    rates, progress = course("0.2 * cosine")
    np.testing.assert_allclose(rates, 0.1 * (1 + np.cos(math.pi * progress)), rtol=1e-12)


@given(peak=some.floats(0.01, 0.99))
def test_a_triangle_has_its_peak_there(peak):
    rates, progress = course(f"3 * triangle({peak})")
    np.testing.assert_allclose(rates, np.interp(progress, [0, peak, 1], [0, 3, 0]), atol=1e-9)


@given(peak=some.floats(0.01, 0.99))
def test_one_cycle_rises_and_falls_along_cosines(peak):
    rates, progress = course(f"one_cycle({peak})")
    rise = 0.04 + 0.96 * (1 - np.cos(math.pi * progress / peak)) / 2
    fall = (1 + np.cos(math.pi * (progress - peak) / (1 - peak))) / 2
    np.testing.assert_allclose(rates, np.where(progress < peak, rise, fall), atol=1e-9)


def test_steps():
    rates, _ = course("0.1 * steps(3, 0.5)")
    np.testing.assert_allclose(rates, 0.1 * 0.5 ** (np.arange(EPOCHS * STEPS) // STEPS // 3), rtol=1e-12)


def test_shapes_are_parts_of_formulas():
    rates, progress = course("0.1 * sqrt(cosine + 1) * steps(5, 0.1) + 0.01")
    cosine = 0.5 * (1 + np.cos(math.pi * progress))
    np.testing.assert_allclose(rates, 0.1 * np.sqrt(cosine + 1) * np.where(progress < 0.5, 1, 0.1) + 0.01, rtol=1e-12)


@pytest.mark.parametrize(("rate", "follows"), [("cosine", True), ("triangle(0.5)", True), ("steps(2, 0.1)", False)])
def test_what_changes_within_an_epoch(rate, follows):
    assert Schedule(rate, EPOCHS, STEPS).follows_steps is follows


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ("triangle", "unknown name 'triangle'"),
        ("cosine(0.1)", "unknown function 'cosine'"),
        ("triangle()", r"triangle has 0 numbers; expected triangle\(peak\)"),
        ("steps(30)", r"steps has 1 number; expected steps\(every, by\)"),
        ("triangle(1)", "peak of triangle is 1; expected a number above 0 and below 1"),
        ("triangle(-0.5)", "peak of triangle is -0.5"),
        ("one_cycle(progress)", "peak of one_cycle is progress"),
        ("steps(0, 0.1)", "every of steps is 0; expected a number above 0$"),
        ("trangle(0.5)", "did you mean 'triangle'"),
        ("triangle(peak=0.5)", "not allowed"),
    ],
)
def test_what_is_refused(rate, message):
    with pytest.raises(SettingsError, match=message):
        TrainSettings(lr=rate)


def test_the_help_names_all():
    assert all(name in help_of(FIELDS["lr"]) for name in SHAPES)
