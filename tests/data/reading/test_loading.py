"""Folders, shards, array files and objects: what is found, and what is said of what is not right."""

from __future__ import annotations

import json
import os
import random
from collections import UserList
from pathlib import Path

import numpy as np
import pytest

from adam_mp.data.reading.faults import Fault, SampleError
from adam_mp.data.reading.loading import LoadOptions, load_data
from adam_mp.data.reading.picture_form import parse_image_size
from adam_mp.data.reading.records import RecordTable
from adam_mp.data.reading.shards import expand_braces
from adam_mp.data.reading.sources import SourceSpec, open_source, pickle_items
from adam_mp.errors import DataError, SettingsError
from adam_mp.training.settings.settings import make_settings
from tests.data.pictures_on_disk import COLOURS, encode, pixels, write_folder, write_shard

LIMIT = 10**6
ENDINGS = {"JPEG": "jpeg", "PNG": "PNG", "BMP": "bmp", "WEBP": "webp"}


@pytest.mark.parametrize("kind", ENDINGS)
def test_class_folders(tmp_path, kind):
    paths = write_folder(tmp_path, 3, kind, ENDINGS[kind])
    data = load_data(tmp_path)
    assert data.class_names == ("blue", "green", "red")
    assert data.train.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert [data.place(number) for number in range(9)] == [str(path) for path in paths]
    assert data.train.table.read(4, LIMIT) == paths[4].read_bytes()
    assert data.image_shape == (40, 48, 3)  # all alike and small: their own size
    assert (data.validation, data.test, data.rejected) == (None, None, [])


def test_parts_of_a_folder(tmp_path):
    for part, count in (("train", 4), ("val", 2), ("test", 1)):
        write_folder(tmp_path / part, count)
    data = load_data(str(tmp_path), LoadOptions("64"))
    assert [len(part) for part in data.parts] == [12, 6, 3]
    assert data.numbers(data.test).tolist() == [18, 19, 20]
    assert data.place(18) == str(tmp_path / "test" / "blue" / "0000.jpg")
    assert data.image_shape == (64, 64, 3)
    assert load_data(tmp_path).digest == data.digest
    (tmp_path / "train" / "blue" / "0000.jpg").rename(tmp_path / "train" / "blue" / "9.jpg")
    assert load_data(tmp_path).digest != data.digest
    (tmp_path / "val" / "pink").mkdir()
    assert load_data(tmp_path).classes == 3  # a folder without an image is no class
    (tmp_path / "val" / "pink" / "0.jpg").write_bytes(encode(pixels("red", 1)))
    with pytest.raises(DataError, match=r"val has the class 'pink', which the training images lack"):
        load_data(tmp_path)


def test_images_of_different_sizes_become_224(tmp_path):
    write_folder(tmp_path, 2)
    write_folder(tmp_path, 1, height=70)
    assert load_data(tmp_path).image_shape == (224, 224, 3)
    assert load_data(tmp_path, LoadOptions("30x20")).image_shape == (30, 20, 3)


def test_what_is_left_out_of_a_folder_is_told(tmp_path):
    write_folder(tmp_path / "data", 2)
    red = tmp_path / "data" / "red"
    (red / "notes.txt").write_text("hello")
    (red / ".hidden").write_text("not looked at")
    (tmp_path / "data" / "white").mkdir()
    (tmp_path / "away.jpg").write_bytes(encode(pixels("red", 9)))
    (red / "link.jpg").symlink_to(tmp_path / "away.jpg")
    (red / "inside.jpg").symlink_to(red / "0000.jpg")
    (red / "circle").symlink_to(red)
    (red / "up").symlink_to(tmp_path / "data")
    (red / "itself.jpg").symlink_to(red / "itself.jpg")
    (red / "nowhere.jpg").symlink_to(red / "nothing")
    os.mkfifo(red / "pipe.jpg")
    (red / "deeper").mkdir()
    (red / "deeper" / "x.jpg").write_bytes(encode(pixels("red", 8)))
    data = load_data(tmp_path / "data")
    assert {(os.path.basename(bad.path), bad.fault) for bad in data.rejected} == {
        ("notes.txt", Fault.NOT_AN_IMAGE), ("white", Fault.NO_IMAGE), ("link.jpg", Fault.LINK), ("circle", Fault.LINK),
        ("up", Fault.LINK), ("itself.jpg", Fault.UNREADABLE), ("nowhere.jpg", Fault.MISSING),
        ("pipe.jpg", Fault.UNREADABLE),
    }  # fmt: skip
    assert len(data.train) == 8
    assert data.classes == 3  # a folder without an image is no class
    assert "white/" in data.account.notes[0]
    followed = load_data(tmp_path / "data", LoadOptions(follow_links=True))
    assert len(followed.train) == 9
    (tmp_path / "data" / "elsewhere").symlink_to(tmp_path)
    with pytest.raises(DataError, match="follow_links"):
        load_data(tmp_path / "data")


def test_a_folder_with_nothing_to_train_on(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="put its images into a folder for each class"):
        load_data(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="put its images into a folder for each class"):
        load_data(tmp_path)
    (tmp_path / "x.jpg").unlink()
    with pytest.raises(DataError, match=r"has an image .* its folders are empty: a$"):
        load_data(tmp_path)
    (tmp_path / "a" / "x.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"only one class folder with images: a \(1\); expected two or more"):
        load_data(tmp_path)
    (tmp_path / "b").mkdir()
    for name in "ab":
        (tmp_path / name / "x.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the first images .* 2 of 2: the file is empty \(.*a/x.jpg\)"):
        load_data(tmp_path)


def test_a_file_that_goes_or_shrinks_is_told_apart(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abcdef")
    table = RecordTable.of_parts(tmp_path, ["a.jpg"], [(0, 2, 3), (0, 4, 9)])
    assert table.read(0, LIMIT) == b"cde"
    for sample, fault in ((1, Fault.DAMAGED), (0, Fault.MISSING)):
        with pytest.raises(SampleError) as caught:
            table.read(sample, LIMIT)
        assert caught.value.fault == fault
        path.unlink(missing_ok=True)
    path.mkdir()
    with pytest.raises(SampleError) as caught:
        table.read(0, LIMIT)
    assert caught.value.fault == Fault.UNREADABLE
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(SampleError) as caught:
        table.read(0, LIMIT)
    assert caught.value.fault == Fault.UNREADABLE
    path.unlink()
    path.write_bytes(bytes(100))
    with pytest.raises(SampleError) as caught:
        table.read(0, 2)
    assert caught.value.fault == Fault.TOO_MANY_BYTES


def test_tables_join_and_are_cut(tmp_path):
    first = RecordTable.of_files(tmp_path / "a", ["1", "22"])
    second = RecordTable.of_parts(tmp_path / "c", [str(tmp_path / "b" / "shard")], [(0, 5, 6), (0, 11, 2)])
    joined = RecordTable.joined([first, second])
    assert [joined.path(sample) for sample in range(4)] == [
        str(tmp_path / "a" / "1"), str(tmp_path / "a" / "22"), *[str(tmp_path / "b" / "shard")] * 2,
    ]  # fmt: skip
    assert joined.place(3) == f"{tmp_path}/b/shard, byte 11"
    few = joined.selected(np.array([3, 0]))
    assert [few.place(0), few.place(1)] == [joined.place(3), joined.place(0)]
    again = RecordTable.in_arrays(joined.arrays())
    assert again is not None
    assert again.digest == joined.digest


def samples_of(count, seed=0):
    return [
        {"jpg": encode(pixels(name, seed + number)), "cls": str(label).encode()}
        for number in range(count)
        for label, name in enumerate(COLOURS)
    ]


def test_shards(tmp_path):
    whole = samples_of(4)
    write_shard(tmp_path / "train-000.tar", whole[:5])
    write_shard(tmp_path / "train-001.tar", whole[5:])
    write_shard(tmp_path / "val-000.tar", samples_of(1, seed=50))
    data = load_data(tmp_path)
    assert [len(part) for part in data.parts] == [12, 3]
    assert data.train.labels.tolist() == [0, 1, 2] * 4
    assert data.train.table.read(7, LIMIT) == whole[7]["jpg"]
    assert data.place(5).startswith(f"{tmp_path}/train-001.tar, byte ")
    braces = load_data(f"{tmp_path}/train-{{000..001}}.tar")
    assert [len(part) for part in braces.parts] == [12]
    with pytest.raises(DataError, match=r"train-002.tar does not exist"):
        load_data(f"{tmp_path}/train-{{000..002}}.tar")


def test_what_is_wrong_in_a_shard_is_left_out(tmp_path):
    good = samples_of(1)
    image = good[0]["jpg"]
    bad = [
        {"jpg": image}, {"cls": b"1"}, {"jpg": image, "cls": b"one"}, {"jpg": image, "cls": b"-1"},
        {"jpg": image, "json": b"[1"}, {"jpg": image, "json": b'{"label": true}'},
        {"jpg": image, "cls": b"1", "json": b'{"label": 2}'},
    ]  # fmt: skip
    fine = [{"png": image, "json": b'{"label": 2, "x": [1]}'}, {"jpg": image, "cls": b"1", "json": b'{"cls": 1}'}]
    data = load_data(write_shard(tmp_path / "a.tar", good + bad + fine))
    assert data.train.labels.tolist() == [0, 1, 2, 2, 1]
    assert [rejected.fault for rejected in data.rejected] == [Fault.NO_LABEL, Fault.NOT_AN_IMAGE] + [Fault.NO_LABEL] * 5
    write_shard(tmp_path / "none.tar", [*bad[:2], *bad[3:5], bad[6]])
    with pytest.raises(DataError, match="no image with a label"):
        load_data(tmp_path / "none.tar")
    content = (tmp_path / "a.tar").read_bytes()
    for cut in (b"no tar file at all" * 100, content[: len(content) // 2 + 700]):
        (tmp_path / "cut.tar").write_bytes(cut)
        with pytest.raises(DataError, match=r"not a whole tar file|no image with a label"):
            load_data(tmp_path / "cut.tar")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{9..11}.tar", ["9.tar", "10.tar", "11.tar"]),
        ("{0..1}-{0..1}.tar", ["0-0.tar", "0-1.tar", "1-0.tar", "1-1.tar"]),
    ],
)
def test_braces(pattern, names):
    assert expand_braces(pattern) == names
    with pytest.raises(DataError, match="counts down"):
        expand_braces("{3..1}.tar")


def test_array_files(tmp_path):
    images, labels = np.zeros((6, 5, 4), np.uint8), np.arange(6) % 3
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images[:2], y_test=labels[:2])
    data = load_data(tmp_path / "a.npz")
    assert (len(data.train), len(data.test), data.image_shape) == (6, 2, (5, 4, 1))
    folder = tmp_path / "arrays"
    folder.mkdir()
    np.save(folder / "images.npy", images)
    with pytest.raises(DataError, match="IDX"):
        load_data(folder)
    np.save(folder / "labels.npy", labels)
    assert len(load_data(folder).train) == 6
    with pytest.raises(DataError, match="alone has no labels"):
        load_data(folder / "images.npy")
    np.savez(tmp_path / "b.npz", pictures=images)
    with pytest.raises(DataError, match="has the arrays pictures; expected x_train and y_train"):
        load_data(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", x=np.array([object()]), y=labels)
    with pytest.raises(DataError, match="cannot be read"):
        load_data(tmp_path / "c.npz")
    (tmp_path / "d.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read"):
        load_data(tmp_path / "d.npz")


@pytest.mark.parametrize("names", [("x_test", "y_test"), ("x_train", "y_train", "x_test", "y_test")])
def test_arrays_of_a_test_part_alone_can_be_evaluated(tmp_path, names):
    arrays = {name: np.zeros((6, 5, 4), np.uint8) if name[0] == "x" else np.arange(6) % 3 for name in names}
    np.savez(tmp_path / "a.npz", **arrays)
    (tmp_path / "folder").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "folder" / f"{name}.npy", array)
    for place in ("a.npz", "folder"):
        data = load_data(tmp_path / place, LoadOptions(only_test=True))
        assert (len(data.train), data.test, data.account.parts_named) == (6, None, True)
        if len(names) == 2:
            with pytest.raises(DataError, match="expected x_train and y_train"):
                load_data(tmp_path / place)


class Items:
    """A data set as PyTorch's users write them."""

    def __init__(self, count=9, shape=(40, 48, 3)):
        self.targets = [number % 3 for number in range(count)]
        self.classes = list(COLOURS)
        self.shape = shape

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return np.full(self.shape, 20 * index, np.uint8), self.targets[index]


def test_objects():
    data = load_data(Items())
    assert (len(data.train), data.image_shape, data.class_names) == (9, (40, 48, 3), tuple(COLOURS))
    assert data.place(4) == "item 4 of the training data"
    pair = load_data((Items(), Items(3)))
    assert [len(part) for part in pair.parts] == [9, 3]
    plain = load_data([(np.zeros((4, 4), np.uint8), number % 2) for number in range(8)])
    assert plain.train.labels.tolist() == [0, 1] * 4
    assert plain.image_shape == (4, 4, 1)
    with pytest.raises(DataError, match=r"float64 \(4, 4\); expected uint8"):
        load_data([(np.zeros((4, 4)), number % 2) for number in range(8)])
    with pytest.raises(DataError, match=r"no item is \(image, label\); the first: ValueError: label is of type list"):
        load_data([(np.zeros((4, 4), np.uint8), [1, 2])] * 8)


class Drawing(Items):
    """An object that draws at random, in a way of its own for each of its items."""

    def __getitem__(self, index):
        drawn = (np.random.randint(200), random.randint(0, 200), 0)[index % 3]
        return np.full(self.shape, drawn, np.uint8), self.targets[index]


def test_an_object_that_draws_is_asked_anew():
    still, drawing = load_data(Items()), load_data(Drawing())
    assert (still.draws, drawing.draws) == (False, True)
    assert "asked for once, and kept (--cache 0 asks anew)" in still.account.layout
    assert "asked for anew in each epoch" in drawing.account.layout
    assert drawing.fingerprints["train"].contents == ()
    spec = SourceSpec(3, (40, 48), datasets=pickle_items([drawing.train]))
    source, other = open_source(spec, None), open_source(spec, None)
    seen = {}
    for key in (None, 1, 2):
        for sample in range(6):
            seen[key, sample] = source.pixels(sample, key)[0, 0, 0]
    for key, sample in reversed(seen):  # whoever asks, and in whatever order
        assert other.pixels(sample, key)[0, 0, 0] == seen[key, sample]
    assert len(set(seen.values())) > 9  # of 12 that are drawn


def test_items_without_a_label_are_left_out():
    image = np.zeros((4, 4), np.uint8)
    data = load_data([(image, 1), (image, "a"), (image, np.int64(0)), 5, (image, 1.5), (image, 0)])
    assert data.train.labels.tolist() == [1, 0, 0]
    assert [bad.path for bad in data.rejected] == [f"item {number} of the training data" for number in (1, 3, 4)]
    assert {bad.fault for bad in data.rejected} == {Fault.BAD_ITEM}
    assert data.place(1) == "item 2 of the training data"
    source = pickle_items([data.train])
    assert open_source(SourceSpec(1, (4, 4), datasets=source), None).pixels(2).shape == (4, 4, 1)


def test_a_small_class_is_looked_at_too(tmp_path):
    """Of 300 images one is looked at in four; the only class in colour has two."""
    for name, count, shape in (("a", 150, (20, 20)), ("b", 2, (20, 20, 3)), ("c", 150, (20, 20))):
        (tmp_path / name).mkdir()
        for number in range(count):
            content = encode(np.full(shape, 100, np.uint8), "PNG")
            (tmp_path / name / f"{number:03}.png").write_bytes(content)
    data = load_data(tmp_path)
    assert data.image_shape == (20, 20, 3)


def test_sizes_of_pictures():
    assert parse_image_size("224") == (224, 224)
    assert parse_image_size("30x40") == (30, 40)
    for text in ("0", "5000", "3x", "x", "-1", "2.5", ""):
        with pytest.raises(SettingsError, match="expected pixels such as 224"):
            parse_image_size(text)


def test_a_folder_with_the_name_of_the_embedded_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_data("mnist").account.notes == ()
    write_folder(tmp_path / "mnist", 2)
    assert len(load_data("mnist").train) == 60_000
    assert load_data("mnist").account.notes == (
        "mnist is the embedded data set; the folder mnist/ here is not used: to use it, give ./mnist",
    )
    for given in ("./mnist", Path("mnist"), "mnist/"):
        assert len(load_data(given).train) == 6
    assert make_settings({"data": Path("mnist")}).data == "./mnist"
    assert make_settings({"data": Path("other")}).data == Path("other")


def named_items(names, labels):
    items = Items(len(labels))
    items.targets, items.classes = list(labels), names
    return items


def test_classes_of_a_second_object_are_found_by_their_names():
    train = named_items(["cat", "dog", "eel"], [0, 1, 2, 0, 1, 2])
    for names, labels in ((["cat", "eel"], [0, 1, 1]), (["eel", "cat"], [1, 0, 0]), (["cat", "dog", "eel"], [0, 2, 2])):
        data = load_data((train, named_items(names, labels)))
        assert data.test.labels.tolist() == [0, 2, 2]
        assert data.class_names == ("cat", "dog", "eel")
    assert load_data((train, named_items(None, [0, 2]))).test.labels.tolist() == [0, 2]
    assert load_data((named_items(None, [0, 1, 2]), named_items(["a"], [0, 2]))).test.labels.tolist() == [0, 2]
    with pytest.raises(DataError, match="test image 1 has label 'fox', which is none of the 3 classes"):
        load_data((train, named_items(["cat", "fox"], [0, 1])))
    with pytest.raises(DataError, match=r"the test data have labels from 0 to 2, but 2 classes .cat, eel."):
        load_data((train, named_items(["cat", "eel"], [0, 2])))


class Some:
    """Some items of another object, as PyTorch's Subset; `relabelled` changes their labels."""

    def __init__(self, dataset, indices, relabelled=lambda label: label):
        self.dataset, self.indices, self._relabelled = dataset, indices, relabelled

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        image, label = self.dataset[self.indices[index]]
        return image, self._relabelled(label)


OTHER_NAMES = [
    ("class_to_idx", {"cat": "1", "eel": "0"}), ("class_names", ["eel", "cat"]), ("CLASSES", ("eel", "cat")),
    ("idx_to_class", {1: "cat", 0: "eel"}), ("label_names", ["eel", "cat"]), ("label_map", {"eel": 0, "cat": 1}),
    ("categories", ["eel", "cat"]), ("vocab", ["eel", "cat"]),
]  # fmt: skip


def test_names_of_classes_are_found_wherever_an_object_has_them():
    train = named_items(None, [0, 1, 2, 0, 1, 2])
    train.class_to_idx = {"eel": 2, "cat": 0, "dog": 1}
    numbered = named_items(None, [1, 0, 0])
    numbered.class_to_idx = {"cat": 1, "eel": 0}
    mapped = named_items({"eel": 0, "cat": 1}, [1, 0, 0])
    other_way = named_items({1: "cat", 0: "eel"}, [1, 0, 0])
    keys = named_items({"eel": None, "cat": None}.keys(), [1, 0, 0])
    listed = named_items(UserList(["eel", "cat"]), [1, 0, 0])
    numbers = named_items(["cat", "eel"], [1, 0, 0])  # which are those of .class_to_idx
    numbers.class_to_idx = {"cat": 1, "eel": 0}
    inside = Some(Some(named_items(["eel", "cat"], [1, 1, 0, 0]), [1, 2, 3]), [0, 1, 2])
    for test in (numbered, mapped, other_way, keys, listed, numbers, inside):
        data = load_data((train, test))
        assert (data.test.labels.tolist(), data.class_names) == ([0, 2, 2], ("cat", "dog", "eel"))
    for name, given in OTHER_NAMES:
        test = named_items(None, [1, 0, 0])
        setattr(test, name, given)
        data = load_data((train, test))
        assert (data.test.labels.tolist(), data.class_names) == ([0, 2, 2], ("cat", "dog", "eel")), name
    joined = named_items(None, [1, 0, 0])
    joined.datasets = [named_items(["eel", "cat"], [1]), named_items(["eel", "cat"], [0, 0])]
    data = load_data((train, joined))
    assert (data.test.labels.tolist(), data.notices) == ([0, 2, 2], ())
    joined.datasets[0] = named_items(["cat", "eel"], [1])
    (notice,) = load_data((train, joined)).notices
    assert "the test data join objects whose classes are numbered differently (" in notice
    joined.datasets[0] = named_items(["eel"], [0])  # the first of the others
    assert load_data((train, joined)).notices == ()


class Changed:
    """The items of another object, or some of them, with other images, as users write them."""

    def __init__(self, wrapped, chosen=None):
        self.wrapped, self.chosen, self.parent = wrapped, chosen, self

    def __len__(self):
        return len(self.wrapped if self.chosen is None else self.chosen)

    def __getitem__(self, index):
        image, label = self.wrapped[index if self.chosen is None else self.chosen[index]]
        return image[::-1], label


class Without:
    """Something that cannot say how many items it has."""

    def __len__(self):
        raise ValueError("closed")

    def __getitem__(self, index):
        raise ValueError("closed")


@pytest.mark.parametrize("indices", [list, tuple, np.array])
def test_names_of_classes_are_those_of_an_object_that_is_changed(indices):
    train = named_items(["cat", "dog", "eel"], [0, 1, 2] * 2)
    inner = named_items(["eel", "cat"], [1, 0, 0, 1])
    for test, labels in (
        (Changed(inner), [0, 2, 2, 0]),
        (Changed(inner, indices([3, 1])), [0, 2]),
        (Changed(Some(inner, [1, 3])), [2, 0]),
        (Changed(Changed(Changed(inner, indices([2, 0])))), [2, 0]),
    ):
        data = load_data((train, test))
        assert (data.test.labels.tolist(), data.class_names) == (labels, ("cat", "dog", "eel"))
    test = Changed(inner)
    test.mean, test.scale, test.closed, test.many = np.float64(0.5), np.array(2), Without(), [1, "a", [2]]
    assert load_data((train, test)).test.labels.tolist() == [0, 2, 2, 0]
    other = Changed(inner)
    other.wrapped, other.names_of = named_items(None, [0, 1, 2, 0]), inner  # whose labels are others
    assert load_data((train, other)).test.labels.tolist() == [0, 1, 2, 0]


def test_names_of_classes_may_have_numbers_with_gaps():
    train, test = named_items(None, [1, 2, 4] * 2), named_items(None, [1, 2, 4])
    train.class_to_idx, test.idx_to_class = {"cat": 1, "dog": 2, "2": 4}, {4: "cat", 2: "dog", 1: "2"}
    data = load_data((train, test))
    assert data.class_names == ("0", "cat", "dog", "3", "2")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([1, 2, 4] * 2, [4, 2, 1])
    train.class_to_idx = {"cat": 1, "dog": 2, "eel": 3}  # of which one has no image, and 4 no name
    assert load_data(train).class_names == ()
    for given in ({"cat": 1, "dog": 70}, {"cat": -1, "dog": 0}, {"cat": 0.5, "dog": 1}, {"cat": 1, "dog": None}):
        train.class_to_idx = given
        assert load_data(train).class_names == ()
    numbered = named_items(None, [0, 1, 0, 1])
    numbered.idx_to_class = {0: "1", 1: "2"}
    assert load_data(numbered).class_names == ("1", "2")


def test_names_of_another_object_do_not_hold_for_other_labels():
    whole = named_items(["a", "b", "c", "d"], [0, 1, 2, 3] * 2)
    data = load_data(Some(whole, range(8), lambda label: label % 2))
    assert (data.classes, data.class_names) == (2, ())
    whole.classes, whole.class_to_idx = None, {"a": 0, "b": 2, "c": 2, "d": "3"}
    assert load_data(whole).class_names == ()


class Transformed(Items):
    """Lists labels, and gives what its transform makes of them, as torchvision's data sets do."""

    def __init__(self, names, labels, transform):
        super().__init__(len(labels))
        self.classes, self.targets, self.target_transform = names, labels, transform

    def __getitem__(self, index):
        return super().__getitem__(index)[0], self.target_transform(self.targets[index])


def test_names_of_classes_go_with_the_numbers_that_a_target_transform_makes():
    letters = Transformed(["N/A", "a", "b", "c"], [1, 2, 3], lambda label: label - 1)  # EMNIST's, numbered from 0
    assert load_data(letters).class_names == ("a", "b", "c")
    assert load_data(Some(letters, [0, 1, 2, 2])).class_names == ("a", "b", "c")
    chosen = Transformed(["cat", "dog", "eel", "fox"], [3, 1, 3, 1], {3: 0, 1: 1}.__getitem__)
    assert load_data(chosen).class_names == ("fox", "dog")
    halves = Transformed(["cat", "dog", "eel"], [0, 1, 2], lambda label: int(label > 0))
    assert load_data(halves).class_names == ()
    names_of_the_made = Transformed(["cat", "dog", "eel"], [1, 2, 3], lambda label: label - 1)
    assert load_data(names_of_the_made).class_names == ("cat", "dog", "eel")
    train = Transformed(["cat", "dog", "eel"], [0, 1, 2], np.int64)
    test = Transformed(["eel", "dog"], [0, 0, 1], lambda label: train.classes.index(test.classes[label]))
    data = load_data((train, test))
    assert (data.test.labels.tolist(), data.class_names) == ([2, 2, 1], ("cat", "dog", "eel"))
    for far in (lambda label: 100 * label, lambda label: 40 * (label == 1)):
        assert load_data(Transformed(["cat", "dog", "eel"], [0, 1, 2], far)).class_names == ()
    for strange in (str.strip, lambda label: np.eye(3)[label], lambda label: 0 / 0):
        other = named_items(["cat", "dog", "eel"], [0, 1, 2])
        other.target_transform = strange
        assert load_data(other).class_names == ("cat", "dog", "eel")


def test_names_of_classes_that_come_twice():
    names = ["cat", "dog", "eel"]
    labels = [0, 1, 2, 0, 1, 2]
    assert load_data(named_items([names[label] for label in labels], labels)).class_names == ()
    assert load_data(named_items([names[n] for n in labels], [names[n] for n in labels])).class_names == tuple(names)
    assert load_data(named_items(["crane", "dog", "crane"], labels)).class_names == ("crane (0)", "dog", "crane (2)")


def test_an_attribute_that_an_object_cannot_give_is_none():
    class Without(Items):
        targets = property(lambda _: (_ for _ in ()).throw(RuntimeError("not loaded")), lambda *_: None)
        classes = property(lambda _: {}["x"], lambda *_: None)
        __len__ = lambda _: 6  # noqa: E731
        __getitem__ = lambda _, index: (np.full((4, 4), index, np.uint8), index % 2)  # noqa: E731

    assert load_data(Without(6)).train.labels.tolist() == [0, 1] * 3


def test_archives_of_other_forms(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros((4, 3, 3)))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(DataError, match=r"one\.npz is one array"):
        load_data(tmp_path / "one.npz")
    with pytest.raises(DataError, match=r"give .*one\.npz$"):
        load_data(tmp_path)
    for part in ("train", "test"):
        np.savez(tmp_path / f"{part}.npz", x=np.zeros((4, 3, 3)), y=[0, 1, 0, 1])
    with pytest.raises(DataError, match=r"put the arrays of all parts into one \.npz file"):
        load_data(tmp_path)


def test_arrays_of_parts_in_folders_are_not_taken_for_the_data(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        np.save(tmp_path / part / "images.npy", np.zeros((4, 3, 3)))
        np.save(tmp_path / part / "labels.npy", [0, 1, 0, 1])
    with pytest.raises(DataError, match=r"test has one part, of another kind: put the files of all parts into "):
        load_data(tmp_path)


def test_labels_that_change_are_refused():
    class Stepping(Items):  # gives the items in turn, whatever is asked for
        turn = -1

        def __getitem__(self, _):
            self.turn = (self.turn + 1) % len(self.targets)
            return np.full((4, 4), self.turn, np.uint8), self.labelled[self.turn]

    stepping = Stepping(40)
    stepping.labelled, stepping.targets = stepping.targets, range(40)
    with pytest.raises(DataError, match=r"training: item \d+ had another label when it was asked again"):
        load_data(stepping)


@pytest.mark.parametrize(
    ("image", "advice"),
    [
        ("a/1.png", r"open the file: numpy.asarray\(PIL.Image.open\(path\)\)"),
        (Path("a/1.png"), r"open the file"),
        (np.full((4, 4), 9), r"write image.astype\(numpy.uint8\)"),
        (np.full((4, 4), 0.5), r"write \(255 \* image\).astype"),
        (np.full((4, 4), 4000, np.uint16), "scale its values to 0 to 255 before"),
        (np.full((4, 4), -0.5), "scale its values to 0 to 255 before"),
    ],
)
def test_images_of_another_type_are_refused_with_what_keeps_their_values(image, advice):
    class Given(Items):
        def __getitem__(self, index):
            return image, self.targets[index]

    with pytest.raises(DataError, match=advice):
        load_data(Given(6))


@pytest.mark.parametrize("said", [True, False])
def test_labels_that_an_object_changes_are_those_of_its_items(said):
    """Of a hundred labels it changes one, whose items are not among those that are asked whatever their label is."""

    class Changing(Items):
        def __getitem__(self, index):
            return np.full((4, 4), 3, np.uint8), self.change(self.targets[index])

    changing = Changing(0)
    changing.targets, changing.change = [n % 100 for n in range(2000)], lambda label: 0 if label == 37 else label
    if said:
        changing.target_transform = changing.change = lambda label: 3 if label == 1237 else label
        changing.targets[5] = 1237
    labels = load_data(changing).train.labels.tolist()
    assert labels == [changing.change(label) for label in changing.targets]


def test_items_with_another_label_than_their_object_lists_are_left_out():
    """Items whose label `__getitem__` corrects, too few for those that are asked."""

    class Corrected(Items):
        def __getitem__(self, index):
            return np.full((4, 4), 3, np.uint8), 2 if index == 1007 else self.targets[index]

    corrected = Corrected(0)
    corrected.targets = [number % 100 for number in range(2000)]
    data = load_data(corrected)
    source = open_source(SourceSpec(1, (4, 4), datasets=pickle_items([data.train])), None)
    assert source.pixels(1006).shape == (4, 4, 1)
    with pytest.raises(SampleError, match="another label than its object lists"):
        source.pixels(1007)

    class OneHot(Items):
        def __getitem__(self, index):
            return np.full((4, 4), 3, np.uint8), np.eye(3)[self.targets[index]]

    listed = load_data(OneHot(6)).train  # by labels of another form than those of the items
    assert open_source(SourceSpec(1, (4, 4), datasets=pickle_items([listed])), None).pixels(5).shape == (4, 4, 1)


def test_paths_that_a_shell_would_have_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pets").mkdir()
    for given in ("~/pets", "$HOME/pets", f" {tmp_path}/pets", f"'{tmp_path}/pets'"):
        with pytest.raises(DataError, match=rf"does not exist; did you mean {tmp_path}/pets\? If not, give a folder"):
            load_data(given)
    with pytest.raises(DataError, match="does not exist; give a folder"):
        load_data("~/dogs")
    with pytest.raises(DataError, match=r"give the path alone: /data/pets$"):
        load_data("file:///data/pets")


def test_an_object_that_gives_batches_is_told_so():
    class Batches(Items):
        def __len__(self):
            return len(self.targets) // 5  # the object lists the labels of all images

        def __getitem__(self, index):
            return np.zeros((5, 4, 4), np.uint8), np.arange(5) % 3

    with pytest.raises(
        DataError, match=r"label is an array of shape \(5,\); expected one number or name: .* no batch$"
    ):
        load_data(Batches(30))


def test_a_folder_of_packed_files_is_to_be_unpacked(tmp_path):
    for name in ("train.zip", "sample_submission.csv"):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(DataError, match=r"it has sample_submission.csv, train.zip; unpack the .zip$"):
        load_data(tmp_path)


@pytest.mark.parametrize("shape", [(5,), (4, 4), (4, 4, 3)])
def test_arrays_in_the_order_of_a_split_are_refused(shape):
    images, labels = np.zeros((12, *shape), np.uint8), np.arange(12) % 2
    split = [images[:8], images[8:], labels[:8], labels[8:]]
    with pytest.raises(DataError, match=r"as from train_test_split.* data\[0\], data\[2\], data\[1\]"):
        load_data(split)
    assert len(load_data((split[0], split[2], split[1], split[3])).test) == 4
    assert len(load_data((images[:8, :1], labels[:8, None], images[8:, :1], labels[8:])).test) == 4


def test_paths_in_place_of_pixels_are_called_that():
    with pytest.raises(DataError, match=r"images are text, such as 'a/1.jpg'.*give the folder"):
        load_data((["a/1.jpg", "b/2.jpg"], [0, 1]))


def test_a_part_that_the_json_of_shards_says_is_told(tmp_path):
    def notes(parts):
        samples = [
            {"png": encode(pixels("red", number), "PNG"), "json": json.dumps(
                {"label": number % 2, "split": parts[number % len(parts)], "author": str(number)}).encode()}
            for number in range(12)
        ]  # fmt: skip
        return load_data(write_shard(tmp_path / "a.tar", samples)).account.notes

    (line,) = notes(["train", "val", "test"])
    assert "says a part (split: 'train', 'val', 'test'), which is not used" in line
    assert not notes(["train"])
