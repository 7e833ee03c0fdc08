from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.data.normalization import measure_normalization
from adam_mp.data.reading.dataset import epoch_order, match_classes, split, split_by_class
from adam_mp.data.reading.loading import load_data
from adam_mp.data.reading.samples import Samples, make_samples
from adam_mp.errors import DataError, SettingsError

IMAGES, LABELS = np.zeros((4, 5, 6), np.uint8), np.array([0, 1, 2, 0])


def test_the_embedded_set():
    data = load_data()
    assert (len(data.train), len(data.test), data.classes, data.image_shape) == (60_000, 10_000, 10, (28, 28, 1))
    assert np.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.parametrize(
    "source",
    [(IMAGES, LABELS), [IMAGES, LABELS], (IMAGES, LABELS, IMAGES, LABELS), ((IMAGES, LABELS), (IMAGES, LABELS))],
)
def test_arrays(source):
    data = load_data(source)
    assert data.classes == 3
    assert data.image_shape == (5, 6, 1)
    assert (data.test is None) == (len(source) == 2 and not isinstance(source[0], tuple))
    assert load_data(data) == data


@pytest.mark.parametrize(
    ("images", "shape", "dtype"),
    [
        (np.zeros((4, 5, 6, 3), np.uint8), (5, 6, 3), np.uint8),
        (np.zeros((4, 5, 6), np.float64), (5, 6, 1), np.float32),
        (np.zeros((4, 5, 6), bool), (5, 6, 1), np.float32),
        (np.zeros((4, 7), np.int64), (1, 1, 7), np.float32),
        ([[0.5, 1], [1, 2], [3, 4], [5, 6]], (1, 1, 2), np.float32),
    ],
)
def test_shapes_and_types_are_brought_in_order(images, shape, dtype):
    (samples,), _ = make_samples([("set", images, LABELS)])
    assert samples.images.shape == (4, *shape)
    assert samples.images.dtype == dtype
    assert samples.labels.dtype == np.int32


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((IMAGES, LABELS[:3]), "one label an image"),
        ((IMAGES[:0], LABELS[:0]), "empty"),
        ((IMAGES, LABELS.astype(float) + 0.5), "whole numbers"),
        ((IMAGES, np.array([*"abc", None])), "no label"),
        ((np.full((4, 2, 2), np.nan), LABELS), "image 0 holds NaN"),
        ((np.array([["a"] * 3] * 4), LABELS), "expected arrays of pixels or features"),
        ((np.zeros((4, 2, 2), complex), LABELS), "expected numbers"),
        ((np.zeros((4, 0, 2)), LABELS), "at least one pixel"),
        ((np.zeros(4), LABELS), "expected \\[n, h, w\\]"),
        ((IMAGES, LABELS - 1), "label -1; expected classes numbered from 0"),
        ((IMAGES, LABELS * 0), "at least two classes"),
        ((IMAGES, LABELS, IMAGES, LABELS + 1), "test image 2 .* label 3"),
        ((IMAGES, LABELS, IMAGES[:, :4], LABELS), "expected the same"),
        ((IMAGES,), "expected a folder"),
        (3, "expected a folder"),
        ("nowhere", "does not exist"),
    ],
)
def test_what_is_wrong_is_said(source, message):
    with pytest.raises(DataError, match=message):
        load_data(source)


@given(st.integers(2, 300), st.floats(0, 0.99), st.integers(0, 9))
def test_a_split_holds_out_its_share(count, share, seed):
    try:
        training, validation = split(count, share, seed)
    except SettingsError:
        assert round(count * share) in (0, count)
        return
    assert len(validation) == round(count * share)
    assert sorted([*training, *validation]) == list(range(count))
    again = split(count, share, seed)
    np.testing.assert_array_equal(training, again[0])


@given(st.lists(st.integers(0, 5), min_size=2, max_size=200), st.floats(0, 0.99), st.integers(0, 9))
def test_a_split_by_class_leaves_each_class_an_image_to_train_on(labels, share, seed):
    labels = np.array(labels, np.int32)
    possible = len(labels) - len(np.unique(labels))
    try:
        training, validation = split_by_class(labels, share, seed)
    except SettingsError:
        assert round(len(labels) * share) in (0, len(labels)) or possible == 0
        return
    assert set(labels[training]) == set(labels)
    assert len(validation) == min(round(len(labels) * share), possible)
    assert sorted([*training, *validation]) == list(range(len(labels)))
    for label in np.unique(labels):
        held_out, of_class = np.count_nonzero(labels[validation] == label), np.count_nonzero(labels == label)
        assert held_out >= min(int(of_class * share), of_class - 1)
    np.testing.assert_array_equal(validation, split_by_class(labels, share, seed)[1])


def test_a_split_by_class_follows_the_seed():
    labels = np.arange(300) % 3
    assert (split_by_class(labels, 0.2, 1)[1] != split_by_class(labels, 0.2, 2)[1]).any()
    assert np.bincount(labels[split_by_class(labels, 0.2, 1)[1]]).tolist() == [20, 20, 20]


def test_a_rare_class_is_never_held_out_whole():
    labels = np.r_[np.zeros(30), np.ones(30), [2, 2]].astype(int)
    drawn = [2 not in labels[split(62, 0.2, seed)[0]] for seed in range(200)]
    assert sum(drawn) == 10  # what runs of earlier versions did, and are resumed with
    assert all(2 in labels[split_by_class(labels, 0.2, seed)[0]] for seed in range(200))


def test_classes_are_matched_by_name():
    data = dataclasses.replace(load_data((IMAGES, LABELS)), class_names=("c", "d", "z"))
    with pytest.raises(DataError, match=r"class .z., which the model does not know; the data have c, d, z, the model"):
        match_classes(data, ("a", "b", "c", "d"), 4)
    matched = match_classes(data, ("z", "b", "c", "d"), 4)
    assert matched.train.labels.tolist() == [2, 3, 0, 2]
    assert (matched.class_names, matched.classes) == (("z", "b", "c", "d"), 4)
    unnamed = dataclasses.replace(data, class_names=())
    assert match_classes(unnamed, ("x", "y", "z"), 3).train.labels.tolist() == LABELS.tolist()
    for numbers, names, wanted in ((("0", "1", "10"), (), [0, 1, 10]), ((), ("00", "01", "02"), [0, 1, 2])):
        found = match_classes(dataclasses.replace(data, class_names=numbers), names, 11 if numbers else 3)
        assert found.train.labels.tolist() == [wanted[label] for label in LABELS]  # by number, not by order
        assert not found.account.notes
    ones = dataclasses.replace(unnamed, train=dataclasses.replace(data.train, labels=np.array([1, 2, 1, 2], np.int32)))
    for names in (("1", "2", "3"), ("01", "02")):  # not by order: no image has label 0
        assert match_classes(ones, names, len(names)).train.labels.tolist() == [0, 1, 0, 1]
    with pytest.raises(DataError, match=r"class .0., which the model does not know; the data have 0, 1, 2, the"):
        match_classes(unnamed, ("1", "2", "3"), 3)
    assert "matched by their order" in match_classes(unnamed, ("x", "y", "z"), 3).account.notes[0]
    for given_names, names, count in ((("c", "d", "z"), (), 4), ((), ("x", "y"), 2)):
        with pytest.raises(DataError, match=r"has 3 classes .*, but the model has"):
            match_classes(dataclasses.replace(data, class_names=given_names), names, count)


@given(st.lists(st.integers(0, 999), unique=True, max_size=50), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_is_a_permutation_by_seed_and_epoch(indices, seed, epoch):
    order = epoch_order(np.array(indices, np.int64), seed, epoch)
    assert sorted(order) == sorted(indices)
    np.testing.assert_array_equal(order, epoch_order(np.array(indices, np.int64), seed, epoch))
    if len(indices) > 20:
        assert (order != epoch_order(np.array(indices, np.int64), seed, epoch + 1)).any()


def test_normalization_is_measured_on_the_training_part():
    images = np.random.default_rng(0).integers(0, 200, (30, 4, 4, 2), dtype=np.uint8)
    images[:, [0, 0, -1, -1], [0, -1, 0, -1]] = 250
    images[..., 1] = 9
    chosen = np.arange(0, 30, 2)
    measured = measure_normalization(Samples(images, np.zeros(30, np.int32)), chosen)
    assert measured.mean == pytest.approx((images[chosen, ..., 0].mean(), 9))
    assert measured.deviation == pytest.approx((images[chosen, ..., 0].std(), 1))
    assert measured.fill in (9.0, 250.0, 129.5)


def test_data_is_known_again_by_its_digest():
    assert load_data((IMAGES, LABELS)).digest == load_data((IMAGES.copy(), LABELS)).digest
    other = IMAGES.copy()
    other[3, 2, 1] = 1
    assert load_data((IMAGES, LABELS)).digest != load_data((other, LABELS)).digest


def test_parts_with_classes_that_are_not_trained():
    images = np.zeros((6, 4, 4), np.uint8)
    ones = np.array([1, 2, 3, 1, 2, 3])
    with pytest.raises(
        DataError, match=r"test labels of arrays go from 0 to 2, but those to train on from 1 to 3; count"
    ):
        load_data((images, ones, images, ones - 1))
    for labels, said in (([1, 1, 1, 1, 3, 3], ()), ([0, 0, 1, 1, 3, 3], ("2 test images of arrays are of classes",))):
        notices = load_data((images, ones, images, np.array(labels))).notices
        assert [line.split(" without an")[0] for line in notices[1:]] == list(said)
    assert notices[1].endswith("without an image to train on: 0")


def test_masks_are_no_test_images_for_bytes():
    images = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4) * 2
    load_data((images, np.arange(6) % 2, images // 9, np.arange(6) % 2))
    with pytest.raises(DataError, match=r"test images of arrays: .* were bytes from 0 to 255; write 255 \* images"):
        load_data((images, np.arange(6) % 2, (images > 90).astype(np.uint8), np.arange(6) % 2))


BRIGHT = np.random.default_rng(0).integers(0, 256, (20, 6, 6), dtype=np.uint8)


@pytest.mark.parametrize(
    ("train", "test"),
    [(BRIGHT // 128, BRIGHT // 128 * 255), (BRIGHT // 16, BRIGHT), (BRIGHT // 128 * 255, BRIGHT // 128)],
)
def test_bytes_of_another_scale_are_refused(train, test):
    with pytest.raises(DataError, match="test images of arrays: the images are uint8 with values from 0 to"):
        load_data((train, np.arange(20) % 2, test, np.arange(20) % 2))


@pytest.mark.parametrize(
    ("train", "test", "told"),
    [
        (BRIGHT, BRIGHT // 16, True), (BRIGHT / 2.55, BRIGHT / 255, True), (BRIGHT.astype(int) - 128, BRIGHT / 2, True),
        (BRIGHT, BRIGHT // 4, False), (BRIGHT // 4, BRIGHT // 3, False), (BRIGHT, BRIGHT[:5] // 16, False),
        (BRIGHT, np.zeros_like(BRIGHT), False), (BRIGHT.astype(int) - 128, BRIGHT.astype(int) - 120, False),
    ],
)  # fmt: skip
def test_images_that_may_have_another_scale_are_told(train, test, told):
    data = load_data((train, np.arange(20) % 2, test, np.arange(len(test)) % 2))
    assert [notice.partition(":")[0] for notice in data.notices] == ["test images of arrays"] * told
