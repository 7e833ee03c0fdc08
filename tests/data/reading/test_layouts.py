"""What people really give: each kind of input, with what must be trained or said."""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.data.reading.account import left_out
from adam_mp.data.reading.faults import Fault
from adam_mp.data.reading.loading import LoadOptions, load_data
from adam_mp.errors import DataError
from tests.data.pictures_on_disk import add_members, encode, pixels
from tests.data.reading.odd_data import pack
from tests.system.conftest import write_idx

JPEG = encode(pixels("red", 0))


def write(root: Path, *names: str, content: bytes = JPEG) -> Path:
    """Write files below a folder."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"GIF89a" if name.endswith(".gif") else content)
    return root


def classes(where: str, count: int = 3, names=("blue", "red")) -> list[str]:
    return [f"{where}{name}/{number}.jpg" for name in names for number in range(count)]


def sizes(data):
    return tuple(0 if part is None else len(part) for part in (data.train, data.validation, data.test))


@given(
    st.sampled_from(("train", "Train", "TRAINING", "Training_set", "train-data", "trainset")),
    st.sampled_from((None, "val", "Valid", "VALIDATION", "val_set")),
    st.sampled_from((None, "test", "TEST", "Testing", "Test_set")),
)
def test_parts_however_they_are_spelled(train, validation, test):
    with tempfile.TemporaryDirectory() as name:
        root = write(Path(name), *classes(f"{train}/"))
        for part, count in ((validation, 2), (test, 1)):
            if part is not None:
                write(root, *classes(f"{part}/", count))
        data = load_data(root)
    assert data.class_names == ("blue", "red")
    assert sizes(data) == (6, 4 if validation else 0, 2 if test else 0)
    assert data.account.places["train"] == f"{train}/"
    assert data.account.parts_named


# What is written -> classes, (train, validation, test), words of the notes.
READ = {
    "droppings": ([*classes(""), "__MACOSX/red/._0.jpg", "red/.DS_Store", "red/Thumbs.db", "desktop.ini",
                   ".ipynb_checkpoints/x.jpg"], ("blue", "red"), (6, 0, 0), ""),
    "a folder without an image": ([*classes(""), "notes/a.txt"], ("blue", "red"), (6, 0, 0), "no class.*notes/.*txt"),
    "no part of a usual name": (classes("fold1/") + classes("fold2/"), ("blue", "red"), (12, 0, 0), "are the classes"),
    "flat test": ([*classes("train/"), "test/1.jpg", "test/2.jpg"], ("blue", "red"), (6, 0, 0),
                  "test has 2 images, but no class folders, so nothing is tested; `predict`"),
    "flat val": ([*classes("train/"), "val/1.jpg"], ("blue", "red"), (6, 0, 0), "val has 1 image,.*not validated"),
    "test in one folder": ([*classes("train/"), "test/images/1.jpg"], ("blue", "red"), (6, 0, 0), "none of the"),
    "empty test": ([*classes("train/"), "test/readme.txt"], ("blue", "red"), (6, 0, 0), "test has no image"),
    "beside the parts": ([*classes("train/"), "extra/1.jpg", "x.jpg"], ("blue", "red"), (6, 0, 0), "not used.*extra/"),
    "test deep": (classes("train/") + classes("test/a/") + classes("test/b/"), ("blue", "red"), (6, 0, 12), "same"),
    "masks of the same numbers": (
        [f"{name}/{n:03}_{kind}.jpg" for name in ("blue", "red") for n in range(6) for kind in ("sat", "mask")],
        ("blue", "red"), (12, 0, 0), ""),
    "pairs": ([f"{name}/{n}{kind}.jpg" for name in ("blue", "red") for n in range(6) for kind in ("", "_vis")],
              ("blue", "red"), (24, 0, 0), "the class 'blue' come in pairs, such as blue/0.jpg and blue/0_vis"),
    "parts in names": ([f"{name}/{part}_{n}.jpg" for name in ("blue", "red") for part in ("Training", "PublicTest")
                        for n in range(6)], ("blue", "red"), (24, 0, 0), "names of images say different parts"),
    "jfif": ([*classes(""), "red/x.jfif", "red/y"], ("blue", "red"), (8, 0, 0), ""),
    "a class of part-like name": (["test_tube/1.jpg", "beaker/1.jpg"], ("beaker", "test_tube"), (2, 0, 0), ""),
    "a class without images to train": (
        [*classes("train/"), "train/pink/x.txt", "test/pink/1.jpg"], ("blue", "pink", "red"), (6, 0, 1), ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_what_is_read(tmp_path, kind):
    names, expected, counts, said = READ[kind]
    data = load_data(write(tmp_path, *names))
    assert data.class_names == expected
    assert sizes(data) == counts
    assert re.search(said, "\n".join(data.account.notes)), data.account.notes
    if not said:
        assert not data.account.notes


REFUSED = {
    "one class": ([*classes("", names=["red"]), "notes/readme.txt"], "only one class folder with images: red .3."),
    "one folder too deep": ([*classes("pets/"), "__MACOSX/pets/red/._0.jpg"], "all 6 images .* give .*/pets$"),
    "two folders too deep": (classes("a/pets/"), "give .*/a/pets$"),
    "parts too deep": (classes("pets/train/") + classes("pets/test/"), "give .*/pets$"),
    "train too deep": (classes("train/train/") + classes("test/"), "move these folders up into .*/train$"),
    "test too deep": (classes("train/") + classes("test/test/"), "one folder deeper, in .*test/test"),
    "a part misspelt": (classes("train/") + classes("Valid1/"), "Valid1 is no part.*call it val/"),
    "all parts misspelt": (classes("seg_train/") + classes("seg_test/"), "call seg_test/ test/ and seg_train/ train/"),
    "no train": (classes("") + classes("test/"), "has test/, but no train/"),
    "two folders of a part": (classes("train/") + classes("Training/"), "2 folders that name its train part"),
    "flat train": ([f"train/red.{i}.jpg" for i in range(9)], "train has 9 images, but no class .*for each class"),
    "flat": ([f"red.{i}.jpg" for i in range(9)], "put its images into a folder for each class"),
    "another class in test": (classes("train/") + classes("test/", names=["red", "reed"]), "class 'reed'.*mean 'red'"),
    "an unknown kind": ([f"{name}/{i}.gif" for name in "ab" for i in range(4)], "8 left out .*gif images are not read"),
    "hidden": ([f"{name}/.{i}.jpg" for name in "ab" for i in range(4)], "8 left out .*begins with a dot"),
    "nothing": (["readme.txt"], "it has readme.txt"),
    "one image": (["a.npy"], "a.npy"),
    "almost arrays": (["image.npy", "lables.npy"], "lables.npy, did you mean 'labels'"),
    "compressed shards": (["train-0.tar.gz"], "train-0.tar.gz is compressed: unpack it"),
    "an archive of arrays": (["x.npz"], "give .*x.npz"),
    "a folder of arrays too deep": (["a/x_train.npy", "a/y_train.npy"], "a has data: give that folder"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_names_what_was_found(tmp_path, kind):
    names, said = REFUSED[kind]
    write(tmp_path, *names)
    with pytest.raises(DataError, match=said) as caught:
        load_data(tmp_path)
    assert "\n" not in str(caught.value)


def test_links_are_the_reason_that_is_told(tmp_path):
    store = write(tmp_path / "store", *classes(""))
    linked = tmp_path / "linked"
    for name in classes(""):
        (linked / name).parent.mkdir(parents=True, exist_ok=True)
        (linked / name).symlink_to(store / name)
    with pytest.raises(DataError, match=r"6 left out \(a link .*follow_links"):
        load_data(linked)
    data = load_data(linked, LoadOptions(follow_links=True))
    assert (data.class_names, len(data.train)) == (("blue", "red"), 6)
    (linked / "green").mkdir()
    (linked / "green" / "x.jpg").write_bytes(JPEG)
    (linked / "red" / "own.jpg").write_bytes(JPEG)
    data = load_data(linked)
    assert data.class_names == ("green", "red")
    assert [(each.count, "--follow-links" in str(each)) for each in left_out(data.rejected)][:1] == [(6, True)]


def test_what_is_to_be_evaluated_is_read_alone(tmp_path):
    only = LoadOptions(only_test=True)
    assert len(load_data(write(tmp_path / "plain", *classes("")), only).train) == 6
    both = write(tmp_path / "parts", *classes("train/"), *classes("Test/", 1, ["red"]))
    data = load_data(both, only)
    assert (data.class_names, len(data.train), data.test) == (("red",), 1, None)
    with pytest.raises(DataError, match="no test images to evaluate on: it has train/ and val/"):
        load_data(write(tmp_path / "none", *classes("train/"), *classes("val/")), only)
    images, labels = np.zeros((6, 4, 4), np.uint8), np.arange(6) % 2
    assert len(load_data((images, labels), only).train) == 6
    assert len(load_data((images, labels, images[:2], labels[:2]), only).train) == 2


ARRAYS = {
    ("x_train", "y_train", "x_test", "y_test"): (6, 0, 2),
    ("X_train", "Y_train", "X_valid", "Y_valid"): (6, 2, 0),
    ("Xtrain", "ytrain", "Xtest", "ytest"): (6, 0, 2),
    ("trainImages", "trainLabels", "valImages", "valLabels"): (6, 2, 0),
    ("images_train", "labels_train", "images_test", "labels_test"): (6, 0, 2),
    ("data", "targets"): (6, 0, 0),
    ("arr_0", "arr_1", "arr_2", "arr_3"): (6, 0, 2),
    ("train_set_x", "train_set_y", "test_set_x", "test_set_y"): (6, 0, 2),
}


@pytest.mark.parametrize("names", ARRAYS)
@pytest.mark.parametrize("folder", [False, True])
def test_arrays_by_their_names(tmp_path, names, folder):
    images, labels = np.zeros((6, 4, 4), np.uint8), np.arange(6) % 2
    few = (images, labels, images[:2], labels[:2])
    arrays = dict(zip(names, few, strict=False))
    if folder:
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
        path = tmp_path
    else:
        path = tmp_path / "a.npz"
        np.savez(path, **arrays)
    if folder and names[0] == "arr_0":
        return  # numpy gives these names in archives alone
    data = load_data(path)
    assert sizes(data) == ARRAYS[names]
    assert not data.account.notes


def test_arrays_that_are_not_used_are_named(tmp_path):
    images, labels = np.zeros((6, 4, 4), np.uint8), np.arange(6) % 2
    np.savez(tmp_path / "a.npz", images=images, labels=labels, x_test=images, names=labels)
    notes = load_data(tmp_path / "a.npz").account.notes
    assert "has x_test, but no labels with it" in notes[0]
    assert "not used in" in notes[1]
    assert "names" in notes[1]
    np.savez(tmp_path / "b.npz", img=images, pictures=images, y=labels)
    with pytest.raises(DataError, match="img, pictures, which mean the same"):
        load_data(tmp_path / "b.npz")


IDX = {
    "points": ("{}-images.idx3-ubyte", "{}-labels.idx1-ubyte"),
    "prefix": ("emnist-letters-{}-images-idx3-ubyte", "emnist-letters-{}-labels-idx1-ubyte"),
    "folders": ("{0}-images-idx3-ubyte/{0}-images-idx3-ubyte", "{0}-labels-idx1-ubyte/{0}-labels-idx1-ubyte"),
    "other file inside": ("{0}-images-idx3-ubyte/data", "{0}-labels-idx1-ubyte/data"),
    "capitals": ("{}-IMAGES-IDX3-UBYTE", "{}-LABELS-IDX1-UBYTE"),
    "gz": ("{}-images.idx3-ubyte.gz", "{}-labels.idx1-ubyte.gz"),
}


def write_set(root: Path, images: str, labels: str) -> None:
    for part, count in (("train", 30), ("t10k", 6)):
        for name, array in ((images, np.zeros((count, 5, 4), "u1")), (labels, np.arange(count, dtype="u1") % 3)):
            path = root / name.format(part)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_idx(path, array)


@pytest.mark.parametrize("kind", IDX)
def test_idx_files_by_other_names(tmp_path, kind):
    write_set(tmp_path, *IDX[kind])
    assert sizes(load_data(tmp_path)) == (30, 0, 6)


def test_idx_files_that_are_not_clear(tmp_path):
    for name in ("letters", "digits"):
        write_set(tmp_path / "two", f"emnist-{name}-{{}}-images-idx3-ubyte", f"emnist-{name}-{{}}-labels-idx1-ubyte")
    with pytest.raises(DataError, match="several data sets: emnist-digits, emnist-letters"):
        load_data(tmp_path / "two")
    write_set(tmp_path / "three", "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte")
    (tmp_path / "three" / "t10k-labels-idx1-ubyte").unlink()
    (tmp_path / "three" / "t10k-labels-idx1-ubyte").mkdir()
    with pytest.raises(DataError, match=r"has no t10k-labels-idx1-ubyte.*t10k-labels-idx1-ubyte, a folder"):
        load_data(tmp_path / "three")
    write_set(tmp_path / "twice", "{}-images-idx3-ubyte.gz", "{}-labels-idx1-ubyte.gz")
    path = tmp_path / "twice" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert len(load_data(tmp_path / "twice").train) == 30


def pairs(key, ending="cls", label=lambda number: str(number % 2)):
    """Members of a tar: 60 images with labels."""
    return [
        member
        for number in range(60)
        for member in ((f"{key(number)}.jpg", JPEG), (f"{key(number)}.{ending}", label(number).encode()))
    ]


def plain(number):
    return f"{number:04d}"


SHARDS = {
    "plain": pairs(plain),
    "some dots": pairs(lambda number: f"{'v1.' if number > 50 else ''}{number:04d}"),
    "dots": pairs(lambda number: f"shot.{number:04d}"),
    "apart": sorted(pairs(plain), key=lambda member: member[0].endswith(".cls")),
    "names": pairs(plain, label=lambda number: ("blue", "red")[number % 2]),
    "named in json": pairs(plain, "json", lambda number: json.dumps({"label": ("blue", "red")[number % 2]})),
    "keys again": pairs(plain)[:60] + [(name, each) for name, each in pairs(lambda number: plain(number % 30))[60:]],
    "longer endings": [m for n in range(60) for m in ((f"{n}.input.jpg", JPEG), (f"{n}.cls", b"%d" % (n % 2)))],
}  # fmt: skip


@pytest.mark.parametrize("kind", SHARDS)
def test_shards_are_read_whole(tmp_path, kind):
    data = load_data(add_members(tmp_path / "train-0.tar", SHARDS[kind]))
    assert len(data.train) == 60
    assert np.bincount(data.train.labels).tolist() == [30, 30]
    assert data.train.labels.tolist() == [number % 2 for number in range(60)]
    assert data.rejected == []
    assert data.class_names == (("blue", "red") if "name" in kind else ())


EMPTY_SHARDS = {
    "text": (pairs(plain, "txt", lambda number: "a red thing"), "60 images, 0 labels .*60 .txt.*Expected a .cls"),
    "folders": ([(f"{('red', 'blue')[n % 2]}/{n}.jpg", JPEG) for n in range(60)], "blue, red.*unpack"),
    "captions": (pairs(plain, label=lambda number: f"thing {number}"), "60 different labels"),
    "labels of others": ([("a.jpg", JPEG), ("b.cls", b"1")], "1 image, 1 label.*without an image of its key"),
    "no images": ([("a.cls", b"1"), ("b.npy", b"1")], "0 images, 1 label.*1 .npy"),
}  # fmt: skip


@pytest.mark.parametrize("kind", EMPTY_SHARDS)
def test_shards_without_samples_say_what_they_have(tmp_path, kind):
    members, said = EMPTY_SHARDS[kind]
    with pytest.raises(DataError, match=said):
        load_data(add_members(tmp_path / "train-0.tar", members))


def test_compressed_shards(tmp_path):
    path = add_members(tmp_path / "train-0.tar", SHARDS["plain"])
    for name in ("packed.tar", "packed.tar.gz"):
        (tmp_path / name).write_bytes(gzip.compress(path.read_bytes()))
        with pytest.raises(DataError, match="compressed"):
            load_data(tmp_path / name)


def test_every_image_of_a_shard_is_trained_or_named(tmp_path):
    members = [
        *pairs(plain), ("0000.png", JPEG), ("0001.jpg", JPEG), ("0002.cls", b"1"), ("lone.jpg", JPEG),
        ("lone.txt", b"x"), ("stray.cls", b"1"), ("other.bin", b"x"),
    ]  # fmt: skip
    data = load_data(add_members(tmp_path / "train-0.tar", members))
    images = sum(name.endswith((".jpg", ".png")) for name, _ in members)
    bad = [each.path.rpartition(": ")[2] for each in data.rejected]
    assert (len(data.train), images) == (60, 60 + sum(name.endswith((".jpg", ".png")) for name in bad))
    assert sorted(bad) == ["0000.png", "0001.jpg", "0002.cls", "lone.jpg", "other.bin", "stray.cls"]


def test_shards_of_parts(tmp_path):
    for name in ("imagenet-train-0", "imagenet-val-0", "test"):
        add_members(tmp_path / f"{name}.tar", pairs(plain))
    assert sizes(load_data(tmp_path)) == (60, 60, 60)
    add_members(tmp_path / "test.tar", pairs(plain, "txt"))
    data = load_data(tmp_path)
    assert data.test is None
    assert "nothing is tested" in data.account.notes[0]
    (tmp_path / "imagenet-train-0.tar").unlink()
    with pytest.raises(DataError, match="no training images: the tar shards are"):
        load_data(tmp_path)
    for part in ("Train", "test_set"):
        (tmp_path / "below" / part).mkdir(parents=True)
        add_members(tmp_path / "below" / part / "0.tar", pairs(plain))
    assert sizes(load_data(tmp_path / "below")) == (60, 0, 60)


def test_left_out_is_summed_up_by_reason(tmp_path):
    write(tmp_path, *classes(""), "red/a.gif", "red/b.gif", "red/c.txt", "stray.jpg")
    found = left_out(load_data(tmp_path).rejected)
    assert [(each.count, each.reason.split()[0]) for each in found] == [(2, ".gif"), (1, "a"), (1, "an")]
    assert found[2].remedy == "move it into the folder of its class"
    assert {bad.fault for bad in load_data(tmp_path).rejected} == {Fault.NOT_AN_IMAGE, Fault.NO_CLASS}


def shard_of(*members, root, name="train-0.tar"):
    pack(root / name, list(members))
    return root


@pytest.mark.parametrize(
    ("size", "asked", "said"),
    [
        ((60, 240), None, "such as 60x60 of 60x240 pixels; .* such as 60x240$"),
        ((240, 60), "28", "such as 60x60 of 240x60 pixels; .* such as 112x28"),
        ((3, 5000), None, "such as 2x4096$|such as 3x3 of .* such as 2x4096$"),
        ((60, 240), "28x112", None), ((90, 160), None, None), ((30, 40), None, None), ((20, 80), None, None),
    ],
)  # fmt: skip
def test_wide_images_of_which_the_middle_is_used_are_told(tmp_path, size, asked, said):
    write(tmp_path, *classes(""), content=encode(pixels("red", 0, *size)))
    notices = [each for each in load_data(tmp_path, LoadOptions(image_size=asked)).notices if "middle" in each]
    assert len(notices) == (said is not None)
    assert all(re.search(said, each) for each in notices)


def test_links_in_a_tar_file_are_files_or_counted(tmp_path):
    pairs = [each for n in range(4) for each in ((f"{n}.jpg", JPEG), (f"{n}.cls", str(n % 2).encode()))]
    linked = [("8.jpg", "0.jpg"), ("8.cls", "1.cls"), ("9.jpg", "nowhere.jpg"), ("9.cls", b"1")]
    data = load_data(shard_of(*pairs, *linked, root=tmp_path))
    assert data.train.labels.tolist() == [0, 1, 0, 1, 1]
    assert sorted(bad.fault for bad in data.rejected) == [Fault.NOT_AN_IMAGE, Fault.LINK]
    assert "tar --dereference" in next(bad.reason for bad in data.rejected if bad.fault == Fault.LINK)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda content: content + content, "behind its members, at byte .* it goes on"),
        (lambda content: content.rstrip(b"\0")[:-900] + b"\xff" * 600 + content[-2000:], "goes on|not a whole tar"),
        (lambda content: content[: 512 * 4], "no mark of its end"),
    ],
)
def test_a_tar_file_that_ends_early_or_late_is_refused(tmp_path, spoil, said):
    pairs = [each for n in range(4) for each in ((f"{n}.jpg", JPEG[:500]), (f"{n}.cls", str(n % 2).encode()))]
    path = shard_of(*pairs, root=tmp_path) / "train-0.tar"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=said):
        load_data(tmp_path)


def test_numbers_among_names_are_names(tmp_path):
    names = ("0", "7", "A", "B")
    pairs = [each for n in range(20) for each in ((f"{n}.jpg", JPEG), (f"{n}.cls", names[n % 4].encode()))]
    assert load_data(shard_of(*pairs, root=tmp_path)).class_names == names
    (tmp_path / "train-0.tar").unlink()
    pairs = [each for n in range(20) for each in ((f"{n}.jpg", JPEG), (f"{n}.cls", b"1_%d" % (n % 2)))]
    assert load_data(shard_of(*pairs, root=tmp_path)).class_names == ("1_0", "1_1")  # which Python reads as 10 and 11


def test_when_one_class_is_left_the_reason_is_why_others_are_not(tmp_path):
    pairs = [each for n in range(20) for each in ((f"{n}.jpg", JPEG), (f"{n}.cls", b"%d" % (n % 2 - 1)))]
    with pytest.raises(DataError, match=r"are all 0; .*; 10 left out \(its .cls has no whole number from 0"):
        load_data(shard_of(*pairs, root=tmp_path))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "data is ''; expected a folder"), (" ", "data is ' '"), (b"/no/where", "/no/where does not exist"),
        (Path("/no/where"), "/no/where does not exist"), ([(np.zeros((4, 4), np.uint8), 0)], "are all 0"),
        (([np.zeros((4, 4)), np.zeros((2, 4))], [0, 1]), "images are no array"),
    ],
)  # fmt: skip
def test_what_is_given_as_data_is_named_as_it_is(source, said):
    with pytest.raises(DataError, match=said):
        load_data(source)


@pytest.mark.parametrize("ending", ["csv", "parquet", "h5", "pkl", "mat"])
def test_files_of_other_kinds_are_said_to_be_such(tmp_path, ending):
    with pytest.raises(DataError, match=f"a.{ending} is of a kind that is not read; .* load it in Python"):
        load_data(write(tmp_path, f"a.{ending}") / f"a.{ending}")


def test_two_pairs_in_a_list_are_items_and_two_arrays_are_not():
    image = np.zeros((4, 4), np.uint8)
    assert len(load_data([(image, 0), (image, 1)]).train) == 2
    assert len(load_data(([image, image, image], [0, 1, 1])).train) == 3
    assert len(load_data(([image, image], [0, 1])).train) == 2
    assert len(load_data(((np.array([image] * 2), [0, 1]), (np.array([image] * 2), [1, 1]))).test) == 2


def test_names_that_would_break_a_line_do_not(tmp_path):
    with pytest.raises(DataError) as caught:
        load_data(write(tmp_path, "a\nb\x1b/1.jpg", "c/x.txt"))
    assert "a\\nb\\x1b" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_items_of_which_most_fail_are_refused():
    image = np.zeros((4, 4), np.uint8)
    with pytest.raises(DataError, match=r"38 of 40 items cannot be used; .* item 1: ValueError: label is 0.02"):
        load_data([(image, value) for value in np.linspace(0, 1, 40)])


def test_files_of_arrays_that_are_none_or_damaged_are_told_as_that(tmp_path):
    for name in ("images.npy", "labels.npy", "a.npz"):
        (tmp_path / name).write_bytes(b"no file of numpy's")
    for place in (tmp_path, tmp_path / "a.npz"):
        with pytest.raises(DataError, match=r"it is no file of numpy's, or a damaged one"):
            load_data(place)
    np.savez_compressed(tmp_path / "B.npz", images=np.zeros((10, 4, 4)), labels=np.arange(10) % 2)
    content = (tmp_path / "B.npz").read_bytes()
    (tmp_path / "B.NPZ").write_bytes(content)
    assert len(load_data(tmp_path / "B.NPZ").train) == 10
    (tmp_path / "c.npz").write_bytes(content[:60] + bytes(20) + content[80:])
    with pytest.raises(DataError, match="cannot be read as arrays"):
        load_data(tmp_path / "c.npz")
    with pytest.raises(DataError, match="is an address; fetch it first"):
        load_data("https://example.org/a.tar")


def test_a_part_of_almost_its_name_is_seen_by_the_first_bytes_of_its_images(tmp_path):
    write(tmp_path, *classes("train/"), "seg_test/red/1", "seg_test/blue/1.tif")
    with pytest.raises(DataError, match=r"seg_test is no part.*call it test/"):
        load_data(tmp_path)


@pytest.mark.parametrize("names", [("0", "1"), ("cat", "dog")])
def test_a_mark_of_the_order_of_bytes_is_no_part_of_a_label(tmp_path, names):
    pairs = [each for n in range(6) for each in ((f"{n}.jpg", JPEG), (f"{n}.cls", names[n % 2].encode("utf-8-sig")))]
    data = load_data(shard_of(*pairs, root=tmp_path))
    assert (data.train.labels.tolist(), data.classes) == ([0, 1] * 3, 2)


@pytest.mark.parametrize(
    ("others", "used"),
    [(("mask.png",), "rgb.png"), (("depth.png", "seg.png"), "image.png"), (("seg.png",), "png"), (("a.png",), "b.png")],
)
def test_of_several_images_of_a_sample_none_that_is_a_mask_is_used(tmp_path, others, used):
    members, mask = [], encode(pixels("blue", 0), "PNG")
    for number in range(6):
        shown = encode(pixels("red", number), "PNG")
        images = [*((f"x{number}.{each}", mask) for each in others), (f"x{number}.{used}", shown)]
        images = images if used != "b.png" else images[::-1]  # of two that are no masks, the first
        members += [*images, (f"x{number}.cls", b"%d" % (number % 2))]
    data = load_data(add_members(tmp_path / "a.tar", members))
    assert [data.train.table.read(n, 1 << 20) == mask for n in range(6)] == [False] * 6
    assert {bad.reason for bad in data.rejected} == {f"a further image of one sample, of which .{used} is used"}
