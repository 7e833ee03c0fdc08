from __future__ import annotations

import numpy as np
import pytest

from adam_mp.data.reading.loading import load_data
from adam_mp.errors import DataError
from tests.compute.test_columns import Frame

Y = np.arange(60) % 3
NAMES = np.array(["ant", "bee", "cat"])[Y]
FEATURES = np.random.default_rng(0).normal(size=(60, 3))


def test_features_to_test_have_the_columns_of_those_to_train_on():
    def load(columns, trained=("a", "b", "c")):
        return load_data((Frame(FEATURES, trained), Y, Frame(FEATURES[:, : len(columns)], columns), Y))

    with pytest.raises(DataError, match=r"^test: features have the same columns .* in another order"):
        load(("a", "c", "b"))
    assert load(("a", "b", "c")).columns == ("a", "b", "c")
    assert load((0, 1, 2)).notices == load(("x", "y", "z"), (0, 1, 2)).notices == load(("a", "b", "c")).notices == ()
    assert load_data((Frame(FEATURES), Y, FEATURES, Y)).notices == ()


def test_rows_that_the_index_joins_otherwise_are_told():
    order = np.arange(60)[::-1]
    shuffled = Frame(FEATURES, index=order)
    (line,) = load_data((shuffled, Frame(Y, index=range(60)))).notices
    assert line.startswith("training images and labels have the same index in another order")
    assert "labels.loc[images.index]" in line
    for labels in (Frame(Y, index=order), Frame(Y, index=range(60, 120)), Y, Y.tolist(), Frame(Y, index=[*"ab"] * 30)):
        assert load_data((shuffled, labels)).notices == ()


@pytest.mark.parametrize("labels", [Y, NAMES])
def test_features_that_tell_the_label_together_are_told(labels):
    marks = np.eye(3)[Y]
    table = np.hstack([FEATURES, marks])
    (line,) = load_data((table, labels)).notices
    assert line.startswith("feature 3, 4, 5 of the training data together tell the label of all 60 samples")
    assert line.endswith("numpy.delete(features, [3, 4, 5], axis=1)")
    (line,) = load_data((table[:, :-1], labels)).notices
    assert "feature 3, 4 of" in line
    frame = Frame(np.hstack([FEATURES, Y[:, None] / 3 - 7]), ("a", "b", "c", "kind"))
    (line,) = load_data((frame, labels)).notices
    assert "feature 'kind' of the training data tells the label" in line
    assert line.endswith("features.drop(columns=['kind'])")
    assert load_data((np.hstack([marks] * 3), labels)).notices == ()  # clean images
    assert load_data((table[:, :4], labels)).notices == ()  # one class alone is told
    assert load_data((table[:9], labels[:9])).notices == ()  # by chance


def test_row_numbers_among_the_features_are_told():
    def notices(column, count=60):
        return load_data((np.insert(FEATURES, 0, column, axis=1)[:count], Y[:count])).notices

    rows = np.arange(60)
    for column in (rows, rows[::-1] + 1001, np.random.default_rng(0).permutation(60)):
        (line,) = notices(column)
        assert line.startswith("feature 0 of the training data has another whole number in each sample, as row numbers")
        assert line.endswith("numpy.delete(features, 0, axis=1)")
    for column in (rows // 2, rows * 3, rows + 0.5, np.where(rows == 59, 0, rows)):
        assert notices(column) == ()
    assert notices(rows, 30) == ()


def test_times_and_numbers_of_recordings_that_tell_the_class_are_told():
    rows, sorted_labels = np.arange(60), np.arange(60) // 20
    shuffled = np.random.default_rng(0).permutation(60)
    jittered = np.cumsum(np.random.default_rng(0).uniform(0.5, 1.5, 60))

    def notices(column, labels=sorted_labels, order=rows):
        return load_data((np.insert(FEATURES, 1, column, axis=1)[order], labels[order])).notices

    for column in (1.7e12 + 20 * rows, rows * 0.02, -1.5 * rows, jittered, jittered + 600 * sorted_labels, rows // 3):
        (line,) = (each for each in notices(column) if "float32" not in each)
        assert line.startswith("feature 1 of the training data counts up through the samples, as times and numbers")
        assert line.endswith("numpy.delete(features, 1, axis=1)")
        assert not [each for each in notices(column, Y) if "float32" not in each]  # tells nothing
    for column in (1.7e12 + 20 * rows, rows * 0.02):
        assert "counts up" in notices(column, order=shuffled)[-1]
        assert "counts up" in notices(column, order=shuffled[:48])[-1]  # as after train_test_split
        assert not [each for each in notices(column, Y, shuffled) if "float32" not in each]
    for column in (FEATURES[:, 0] + 9 * sorted_labels, rows // 20 * 1.0 + FEATURES[:, 1], rows % 20):
        assert notices(column) == ()
    assert load_data((rows[:, None] * 0.02, sorted_labels)).notices == ()  # the only feature
    assert load_data((np.stack([rows * 0.02] * 2, axis=1)[:30], sorted_labels[:30])).notices == ()


def test_features_whose_differences_float32_cannot_hold_are_told():
    times = 1.7e9 + 20 * Y
    for column in (times, times.astype(np.int64), 2**60 + Y):
        beside = Y[::-1] ** 2 if column.dtype.kind == "i" else FEATURES
        lines = load_data((np.column_stack([column, beside]), Y)).notices
        assert any("feature 0 of the training data has " in line and "float32" in line for line in lines), lines
    for column in (times - 1.7e9, times.astype(np.float32), 1000 + FEATURES[:, 0], np.full(60, 1e12)):
        lines = load_data((np.column_stack([column.astype(np.float32), FEATURES.astype(np.float32)]), Y)).notices
        assert not any("float32" in line for line in lines)
    rare = np.where(np.arange(60) == 7, 1_000_001, 1_000_000)
    for column in (1000 + FEATURES[:, 0], rare, rare.astype(np.int32)):
        beside = Y[::-1] ** 2 if column.dtype.kind == "i" else FEATURES
        lines = load_data((np.column_stack([column, beside]), Y)).notices
        assert not any("float32" in line for line in lines), lines
    with pytest.raises(DataError, match="NaN or infinity"):
        load_data((np.column_stack([np.where(Y, np.nan, 1e300), FEATURES]), Y))
