from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp import Conv, Dense, Flatten, Network, ReLU, Softmax
from adam_mp.compute.context import TrainingContext
from adam_mp.compute.views import ONLY, View, ViewScores, measure, parse_views, write_view
from adam_mp.errors import SettingsError
from adam_mp.network.initialization import initial_weights
from adam_mp.training.settings.settings import TrainSettings

SHAPE = (6, 5, 2)
NETWORK = Network.build([Conv(3, 3), ReLU(), Flatten(), Dense(), Softmax()], SHAPE, 4)


def pictures(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)


def test_what_is_written_for_views():
    assert parse_views("one", SHAPE) == ONLY == (View(1.0, 0, False),)
    assert parse_views("reflect", SHAPE) == (View(0.5), View(0.5, 0, True))
    assert parse_views("shift=2", SHAPE) == (View(0.5), View(0.25, -2), View(0.25, 2))
    jordan = parse_views("reflect,shift=1", SHAPE)
    assert jordan == parse_views(" shift=1 , reflect")
    assert [(each.weight, each.shift, each.mirrored) for each in jordan] == [
        (0.25, 0, False), (0.25, 0, True), (0.125, -1, False), (0.125, -1, True), (0.125, 1, False), (0.125, 1, True),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["reflect", "shift=1", "shift=4", "reflect,shift=3", "one"])
def test_the_weights_of_views_are_one_together(text):
    assert sum(view.weight for view in parse_views(text)) == 1.0


@pytest.mark.parametrize(
    "text", ["", "none", "mirror", "reflect,reflect", "shift", "shift=0", "shift=-1", "shift=1.5", "shift=1,shift=2",
             "reflect,", "one,reflect", "reflect=1", "shift=99999", 2, None, True]
)  # fmt: skip
def test_what_are_no_views(text):
    with pytest.raises(SettingsError, match=r"^views is .*; expected reflect, shift=N, "):
        parse_views(text, SHAPE)


def test_settings_refuse_them_before_data_are_read():
    with pytest.raises(SettingsError, match=r"^views is 'mirror'; expected "):
        TrainSettings(views="mirror")
    assert TrainSettings(views="shift=40").views == "shift=40"  # whether the pictures are large enough is not known


def test_views_that_pictures_do_not_have():
    assert len(parse_views("shift=4", SHAPE)) == 3
    with pytest.raises(SettingsError, match=r"^views is 'shift=5', but the network takes pictures of 6x5; expected a "
                                            r"shift below 5$"):  # fmt: skip
        parse_views("shift=5", SHAPE)
    with pytest.raises(SettingsError, match=r"^views is 'reflect', but features have no other views; leave it out$"):
        parse_views("reflect", (1, 1, 7))


@given(st.integers(-4, 4), st.booleans(), st.integers(0, 3))
def test_a_view_is_the_picture_shifted_with_a_reflected_border_and_mirrored(shift, mirrored, count):
    given_, out = pictures(count), np.zeros((count, *SHAPE), np.float32)
    write_view(View(1.0, shift, mirrored), given_, out)
    padded = np.pad(given_, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    expected = padded[:, 4 - shift : 10 - shift, 4 - shift : 9 - shift]
    np.testing.assert_array_equal(out, expected[:, :, ::-1] if mirrored else expected)


def scores_of(context, images):
    program = context.program(np.ascontiguousarray(images), None, training=False)
    program.run_forward()
    return program.scores.copy()


@pytest.mark.parametrize("count", [1, 3, 4])
def test_scores_are_the_weighted_mean_over_the_views(count):
    context = TrainingContext(NETWORK, initial_weights(NETWORK, 1), 4)
    views, x = parse_views("reflect,shift=1", SHAPE), pictures(count)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    expected = 0.25 * (scores_of(context, x) + scores_of(context, x[:, :, ::-1]))
    for part in (padded[:, :-2, :-2], padded[:, 2:, 2:]):
        expected += 0.125 * (scores_of(context, part) + scores_of(context, part[:, :, ::-1]))
    scores = ViewScores(context, views)
    for _ in range(2):  # made once, and again from the program that is kept
        np.testing.assert_allclose(scores.of(x), expected, rtol=1e-5, atol=1e-6)
    assert (scores.of(x) == scores.of(x)).all()
    assert np.abs(expected - scores_of(context, x)).max() > 1e-3


def test_one_view_has_the_bits_of_the_picture_itself():
    context, x = TrainingContext(NETWORK, initial_weights(NETWORK, 1), 4), pictures(4)
    np.testing.assert_array_equal(ViewScores(context, ONLY).of(x), scores_of(context, x))


def test_what_is_measured_of_scores_is_what_a_program_measures():
    context, x = TrainingContext(NETWORK, initial_weights(NETWORK, 1), 16), pictures(16)
    labels = np.arange(16, dtype=np.int32) % 4
    program = context.program(x, labels, training=False)
    program.run_forward()
    np.testing.assert_array_equal(measure(program.scores, labels), program.totals)
