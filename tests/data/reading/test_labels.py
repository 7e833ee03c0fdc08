"""Labels as people have them: what each kind becomes, and what is said of those that cannot be meant."""

from __future__ import annotations

import enum
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from adam_mp.data.reading.items import item_pixels
from adam_mp.data.reading.labels import Classes, find_classes, most_alike, plain_label, plain_labels
from adam_mp.data.reading.loading import load_data
from adam_mp.errors import DataError
from tests.data.pictures_on_disk import encode, write_shard

Y = np.arange(60) % 3
NAMES = np.array(["cat", "dog", "eel"])
IMAGES = np.zeros((60, 5, 6), np.uint8)


class Series:
    """What numpy knows of a pandas series: that it can be made an array."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        (Y, Y, ()),
        (Y.tolist(), Y, ()),
        (Y[:, None], Y, ()),
        (Y[None], Y, ()),
        (Y.astype(np.uint8), Y, ()),
        (Y.astype(np.uint64), Y, ()),
        (Y.astype(np.float16), Y, ()),
        (Y.astype(">i8"), Y, ()),
        (Y.astype(object), Y, ()),
        ([float(y) for y in Y], Y, ()),
        (np.array([np.int16(y) for y in Y], object), Y, ()),
        (Series(Y), Y, ()),
        (Series(Y.astype(object)), Y, ()),
        (np.ma.masked_array(Y, False), Y, ()),
        (Y > 0, Y > 0, ("False", "True")),
        ((Y > 0).astype(object), Y > 0, ("False", "True")),
        ((Y > 0)[:, None], Y > 0, ("False", "True")),
        (NAMES[Y], Y, tuple(NAMES)),
        (NAMES[Y].tolist(), Y, tuple(NAMES)),
        (NAMES[Y].astype(object)[:, None], Y, tuple(NAMES)),
        (NAMES.astype("S")[Y], Y, tuple(NAMES)),
        (Series(NAMES[Y].astype(object)), Y, tuple(NAMES)),
        (Y.astype(str), Y, ("0", "1", "2")),
        ((Y + 5_000_000).astype(str), Y, ("5000000", "5000001", "5000002")),
    ],
)
def test_every_kind_becomes_class_numbers(labels, numbers, names):
    data = load_data((IMAGES, labels))
    assert data.train.labels.dtype == np.int32
    np.testing.assert_array_equal(data.train.labels, numbers)
    assert data.class_names == names
    assert data.classes == (len(names) or 3)
    assert not data.notices


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.eye(3)[Y], r"one-hot; write numpy.argmax\(labels, axis=1\)"),
        (np.eye(3, dtype=bool)[Y], r"one-hot; write numpy.argmax\(labels, axis=1\)"),
        (np.full((60, 4), 0.25), r"probabilities; .* write numpy.argmax\(labels, axis=1\)"),
        (np.ones((60, 3), int), "several classes, or none, for one image"),
        (np.stack([Y, 7 * Y], 1), r"choose one column, such as labels\[:, 0\]"),
        (np.stack([NAMES[Y], NAMES[Y]], 1), r"choose one column, such as labels\[:, 0\]"),
        (Y[:59], "60 images, but labels of shape"),
        (Y + 0.5, "image 0 has label 0.5; expected whole numbers"),
        (np.where(Y == 2, np.nan, Y), r"image 2 has no label \(nan\) \(20 images have none\)"),
        ([None, *Y[1:]], r"image 0 has no label \(None\)"),
        (["cat", "", *NAMES[Y[2:]]], r"image 1 has no label \(empty text\)"),
        (np.ma.masked_array(Y, Y == 1), r"image 1 has no label \(masked\)"),
        (Y + 2**32, "image 0 has label 4294967296"),
        (Y.astype(np.uint64) + np.uint64(2**63), "image 0 has label 9223372036854775808"),
        (Y * 1e10, r"image 1 has label 10000000000.0; .*numpy.unique\(labels, return_inverse=True\)"),
        (np.where(Y == 1, np.inf, Y), "image 1 has label inf"),
        ([int(y) + 10**30 for y in Y], "image 0 has label 10{30}"),
        (Y + 5_000_000, r"5,000,003 classes, but only 3 of them have images; number them anew: .*labels.astype\(str\)"),
        (Y - 1, r"image 0 has label -1; .*numpy.unique"),
        (["cat", 3, *NAMES[Y[2:]]], r"text \('cat' of image 0\) and numbers \(3 of image 1\)"),
        (Y * 0, "are all 0; expected images of at least two classes"),
        (["cat"] * 60, "are all 'cat'; expected images of at least two classes"),
        (Y > 9, "are all False; expected images of at least two classes"),
        (Y.astype("M8[D]"), "labels are of type datetime64"),
        (Y + 1j, "labels are of type complex128"),
        ([enum.Enum("Kind", "A").A] * 60, "label is of type Kind"),
        ([[1, 2], *Y[1:].tolist()], "labels are no array"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_to_write(labels, message):
    with pytest.raises(DataError, match=message):
        load_data((IMAGES, labels))


def test_measured_values_are_no_classes():
    images = np.zeros((300, 8), np.float32)
    with pytest.raises(DataError, match="300 images have 300 different labels"):
        load_data((images, np.arange(300)))
    assert load_data((images, np.arange(300).astype(str))).classes == 300


@pytest.mark.parametrize(
    ("labels", "classes", "notice"),
    [
        (10 * (Y + 1), 31, r"28 of 31 classes have no training image \(0, 1, 2, 3, 4, 5 and 22 more\)"),
        (Y + 1, 4, r"1 of 4 classes has no training image \(0\)"),
        (np.array(["cat", "Cat"])[Y % 2], 2, "'Cat' and 'cat' look the same: they differ only"),
        (np.array(["cat ", "cat"])[Y % 2], 2, "differ only in spaces"),
    ],
)
def test_what_is_odd_is_trained_with_a_notice(labels, classes, notice):
    data = load_data((IMAGES, labels))
    assert data.classes == classes
    (line,) = data.notices
    assert re.search(notice, line)


def test_parts_are_numbered_alike():
    data = load_data((IMAGES, NAMES[Y], IMAGES[:2], np.array(["eel", "dog"])))
    assert data.test.labels.tolist() == [2, 1]
    with pytest.raises(DataError, match=r"test image 1 has label 'fox', which is none of the 3 classes \('cat', 'dog'"):
        load_data((IMAGES, NAMES[Y], IMAGES[:2], np.array(["eel", "fox"])))
    with pytest.raises(DataError, match="test labels are numbers, but the classes have names"):
        load_data((IMAGES, NAMES[Y], IMAGES[:2], np.array([0, 1])))
    with pytest.raises(DataError, match="test labels are booleans, but there are 3 classes; give"):
        load_data((IMAGES, Y, IMAGES[:2], np.array([False, True])))
    assert load_data((IMAGES, Y % 2, IMAGES[:2], np.array([False, True]))).test.labels.tolist() == [0, 1]


def test_items_have_the_same_rules():
    image = np.zeros((4, 4), np.uint8)
    for label in (str, np.str_, np.array, lambda name: name.encode()):
        data = load_data([(image, label(NAMES[y])) for y in Y])
        assert (data.train.labels.tolist(), data.class_names) == (Y.tolist(), tuple(NAMES))
    assert load_data([(image, np.array([float(y)])) for y in Y]).train.labels.tolist() == Y.tolist()
    with pytest.raises(DataError, match=r"write label.argmax\(\)"):
        load_data([(image, row) for row in np.eye(3)[Y]])
    with pytest.raises(DataError, match="5,000,003 classes"):
        load_data([(image, y + 5_000_000) for y in Y])

    class Listed:
        targets, classes = NAMES[Y], ["eel", "dog", "cat"]

        def __len__(self):
            return len(self.targets)

        def __getitem__(self, index):
            return image, self.targets[index]

    data = load_data(Listed())  # the data set's own order of names holds
    assert (data.train.labels.tolist(), data.class_names) == ((2 - Y).tolist(), ("eel", "dog", "cat"))


def test_shards_have_the_same_rules(tmp_path):
    content = encode(np.zeros((9, 9, 3), np.uint8))
    write_shard(tmp_path / "train.tar", [{"jpg": content, "cls": NAMES[y].encode() + b"\n"} for y in Y])
    write_shard(tmp_path / "test.tar", [{"jpg": content, "json": b'{"label": "eel"}'}])
    data = load_data(tmp_path)
    assert (data.train.labels.tolist(), data.class_names) == (Y.tolist(), tuple(NAMES))
    assert data.test.labels.tolist() == [2]
    ids = write_shard(tmp_path / "ids.tar", [{"jpg": content, "cls": b"%d" % (y + 5_000_000)} for y in Y])
    with pytest.raises(DataError, match="5,000,003 classes"):
        load_data(ids)
    far = write_shard(tmp_path / "far.tar", [{"jpg": content, "cls": b"%d" % (y + 2**32)} for y in Y])
    with pytest.raises(DataError, match="has label 4294967296"):
        load_data(far)
    flags = write_shard(tmp_path / "flags.tar", [{"jpg": content, "json": b'{"label": %s}' % [b"false", b"true"][y % 2]}
                                                 for y in Y])  # fmt: skip
    assert load_data(flags).class_names == ("False", "True")


@pytest.mark.parametrize(
    "label_of",
    [
        lambda y: {"cls": b"%d" % y, "json": b'{"width": 9, "caption": "a cat"}'},
        lambda y: {"cls": b"%d" % y, "json": b'{"label": "%s"}' % NAMES[y].encode()},
        lambda y: {"cls": b"%d.0" % y},
    ],
    ids=["json of other things", "name and number", "whole numbers with a point"],
)
def test_a_label_beside_other_things_is_found(tmp_path, label_of):
    content = encode(np.zeros((9, 9, 3), np.uint8))
    write_shard(tmp_path / "train.tar", [{"jpg": content, **label_of(y)} for y in Y.tolist()])
    data = load_data(tmp_path)
    assert data.rejected == []
    assert data.class_names == ()
    assert data.train.labels.tolist() == Y.tolist()


def test_array_files_have_the_same_rules(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=NAMES[Y])
    np.savez(tmp_path / "b.npz", images=IMAGES, labels=Y[:, None])
    assert load_data(tmp_path / "a.npz").class_names == tuple(NAMES)
    assert load_data(tmp_path / "b.npz").train.labels.tolist() == Y.tolist()


@given(st.lists(st.one_of(st.integers(-5, 2**40), st.booleans(), st.text(max_size=3), st.none(), st.floats())))
def test_whatever_is_given_is_plain_or_refused(values):
    try:
        labels = plain_labels(np.array(values, object), len(values), "set")
    except DataError:
        return
    assert labels.dtype.kind in "ibO"
    for given_label, label in zip(values, labels.tolist(), strict=True):
        assert given_label == label


@given(st.lists(st.integers(0, 50), min_size=2))
def test_numbers_keep_their_values(values):
    labels = np.array(values)
    try:
        classes = find_classes(labels, "set")
    except DataError:
        assert len(set(values)) == 1 or len(values) > 100
        return
    assert classes.count == max(values) + 1
    assert classes.number(labels, "set").tolist() == values


def test_the_kind_of_most_decides():
    assert most_alike([1, "a", 2, True]) == [True, False, True, False]
    assert most_alike(["a", "b", 1]) == [True, True, False]
    assert plain_label(np.float32(3)) == 3
    assert plain_label(np.bool_(True)) is True
    with pytest.raises(DataError, match="outside the classes 0 to 1"):
        Classes(2).number(np.array([0, 2]), "set")


def test_what_stands_for_a_missing_label_is_named():
    with pytest.raises(DataError, match=r"has label -1; .*; if -1 says that there is none, leave these images out"):
        load_data((IMAGES, np.where(Y == 2, -1, Y)))
    with pytest.raises(DataError, match=r"numpy.argmax\(labels, axis=0\)"):
        load_data((IMAGES, np.eye(3)[Y].T))
    notices = load_data((IMAGES, np.array(["cat", "dog", "nan"])[Y])).notices
    assert "images have the label 'nan'; if they have none, leave them out" in notices[0]


class Listing:
    """A data set object with a list of labels; its items have others if `change` changes them."""

    def __init__(self, targets, change=lambda label: label):
        self.targets, self.change = list(targets), change

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return np.zeros((4, 4), np.uint8), self.change(index % 3)


def test_labels_that_an_object_lists_must_be_those_of_its_items():
    assert load_data(Listing(Y)).train.labels.tolist() == Y.tolist()
    assert load_data(Listing(Y[::-1])).train.labels.tolist() == Y.tolist()  # listed in another order
    data = load_data(Listing(Y, lambda label: "abc"[label]))  # transformed as they are asked for
    assert (data.train.labels.tolist(), data.class_names) == (Y.tolist(), ("a", "b", "c"))


@pytest.mark.parametrize("item", [{"image": 1, "label": 2}, "ab", b"ab"])
def test_what_only_looks_like_an_image_and_a_label_is_none(item):
    class Others(Listing):
        targets = None

        def __getitem__(self, index):
            return item

    others = Others(Y)
    del others.__dict__["targets"]
    others.__class__.__len__ = lambda self: 60
    with pytest.raises(DataError, match=f"the item is a {type(item).__name__}; expected .image, label."):
        load_data(others)
    with pytest.raises(DataError, match="data is "):
        load_data(Others)


def test_classes_of_one_image_each_are_named(tmp_path):
    texts = np.array([f"id{number}" for number in range(200)])
    said = "200 of 200 classes have a single image; expected several images of each class"
    assert load_data((np.zeros((200, 5)), texts)).notices == (said,)
    for name in texts:
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(encode(np.zeros((9, 9, 3), np.uint8)))
    assert load_data(tmp_path).account.notes == (said,)


def test_an_image_with_a_palette_has_its_colours():
    colours = np.random.default_rng(0).choice([0, 80, 240], (60, 6, 6, 3)).astype(np.uint8)
    pictures = [Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE) for pixels in colours]
    data = load_data(list(zip(pictures, Y.tolist(), strict=True)))
    assert data.image_shape == (6, 6, 3)
    found = np.stack([item_pixels(data.train.dataset, index, 3) for index in range(60)])
    np.testing.assert_array_equal(found, np.stack([np.asarray(picture.convert("RGB")) for picture in pictures]))
    half = [(Image.fromarray(pixels).convert("RGBA"), label) for pixels, label in zip(colours, Y.tolist(), strict=True)]
    assert load_data(half).image_shape == (6, 6, 3)


def test_images_of_pillow_that_are_to_be_turned_are_told_as_items_and_refused_as_arrays():
    def photograph(orientation):
        picture = Image.fromarray(IMAGES[0])
        picture.getexif()[0x112] = orientation
        written = io.BytesIO()
        picture.save(written, "PNG", exif=picture.getexif())
        return Image.open(written)

    upright, turned, damaged = photograph(1), photograph(6), photograph(9)
    labels = [0, 1, 0, 1, 0, 1]
    items = [list(zip([upright, damaged, each] * 2, labels, strict=True)) for each in (upright, turned)]
    assert load_data(items[0]).notices == ()
    for source in (items[1], (items[0], items[1])):
        (line,) = load_data(source).notices
        assert "have an EXIF orientation, and are taken as they are stored" in line
    as_shown = [(ImageOps.exif_transpose(image), label) for image, label in items[1]]
    assert load_data(as_shown).notices == ()
    assert len(load_data(([upright, damaged] * 3, labels)).train) == 6
    with pytest.raises(DataError, match=r"an EXIF orientation, .* write PIL.ImageOps.exif_transpose\(image\)"):
        load_data(([upright, turned.convert("L")] * 3, labels))


SAME_TO_THE_EYE = [
    ("cat", "\ufeffcat"), ("cat", "cat\u200b"), ("cat", "c\u00adat"), ("cat", "\uff43\uff41\uff54"), ("cat", "Cat "),
    ("cat", "'cat'"), ("1", "01"), ("1", "1.0"), ("1", "\u0661"), ("cat", '"cat"'), ("a b", "a\u00a0b"), ("a b", "a_b"),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), SAME_TO_THE_EYE)
def test_classes_that_look_the_same_are_told(first, second):
    labels = [(first, second, "other")[y] for y in Y]
    (line,) = find_classes(plain_labels(labels, 60, "set"), "set").notices
    assert repr(first) in line
    assert repr(second) in line


@pytest.mark.parametrize(
    "names", [("a", "b"), ("cat-1", "cat-2"), ("1", "2"), ("10", "1"), ("1a", "01a"), ("c++", "c#")]
)
def test_classes_that_look_different_are_not(names):
    assert find_classes(plain_labels([*names] * 9, 18, "set"), "set").notices == ()


@pytest.mark.parametrize("missing", ["nan", "None", "N/A", "NULL"])
def test_words_for_a_missing_label_are_told(missing):
    (line,) = find_classes(plain_labels([missing, "cat", "dog"] * 9, 27, "set"), "set").notices
    assert f"9 images have the label {missing!r}; if they have none, leave them out" in line


def test_text_of_an_enum_is_text():
    kind = enum.Enum("Kind", {"CAT": "cat", "DOG": "dog"}, type=str)
    assert load_data((IMAGES, [(kind.CAT, kind.DOG)[y % 2] for y in Y])).class_names == ("cat", "dog")


def test_a_label_among_the_features_is_told():
    features = np.random.default_rng(0).normal(size=(60, 4))
    table = np.insert(features, 2, Y, axis=1)
    (line,) = load_data((table, Y)).notices
    assert line.startswith("feature 2 of the training data tells the label of all 60 samples, with one value for")
    assert line.endswith("leave it out: numpy.delete(features, 2, axis=1)")
    table[59, 2] += 1
    for images, labels in ((table, Y), (features, Y), (table[:9], Y[:9]), (table, NAMES[Y])):
        assert load_data((images, labels)).notices == ()


def test_several_labels_in_one_text_are_told():
    labels = np.array(["cat", "dog", "cat|dog", "cat", "dog"] * 4, object)
    (line,) = find_classes(labels, "training").notices
    assert line.startswith("4 images have several labels in one text, such as 'cat|dog'")
    for others in (["cat", "dog", "cat-dog"], ["a/b", "c"], ["cat|fish", "cat", "dog"], ["rock+roll", "rock"]):
        assert not find_classes(np.array(others * 4, object), "training").notices


def test_text_beside_numbers_is_called_that():
    with pytest.raises(DataError, match="test labels are text, such as '1', but those to train on are numbers, 0 to 1"):
        Classes(2).number(np.array(["1", "0"], object), "test")
