"""A data folder has one kind of data: a second kind is refused, other folders with data are named."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from adam_mp.data.reading.loading import load_data
from adam_mp.data.reading.options import LoadOptions
from adam_mp.errors import DataError
from tests.data.reading.odd_data import JPEG, pack, write
from tests.system.conftest import write_idx

SAMPLES = [each for n in range(6) for each in ((f"{n}.jpg", JPEG), (f"{n}.cls", str(n % 2).encode()))]
IMAGES, LABELS = np.zeros((12, 6, 6), np.uint8), np.arange(12) % 2


def write_kind(root, kind):
    root.mkdir(exist_ok=True)
    if kind == "tar shards":
        pack(root / "train-0.tar", SAMPLES)
    elif kind == "arrays":
        np.save(root / "images.npy", IMAGES)
        np.save(root / "labels.npy", LABELS)
    else:
        for part in ("train", "t10k"):
            write_idx(root / f"{part}-images-idx3-ubyte", IMAGES)
            write_idx(root / f"{part}-labels-idx1-ubyte", LABELS.astype(np.uint8))


@pytest.mark.parametrize("kind", ["tar shards", "arrays", "IDX files"])
@pytest.mark.parametrize("folders", [["test"], ["red", "blue"], ["Val", "docs"]])
def test_a_second_data_set_is_refused(tmp_path, kind, folders):
    write_kind(tmp_path, kind)
    for name in folders:
        write(tmp_path / name / "1.jpg", JPEG)
    with pytest.raises(DataError, match=f"has {kind} and, beside them, data in the folders {min(folders)}/"):
        load_data(tmp_path)


@pytest.mark.parametrize("kind", ["tar shards", "arrays", "IDX files"])
def test_one_folder_of_no_part_is_named(tmp_path, kind):
    write_kind(tmp_path, kind)
    write(tmp_path / "figures" / "1.jpg", JPEG)
    write(tmp_path / "notes" / "a.txt", b"text")
    assert any(
        f"not used beside the {kind}" in note and "figures/" in note for note in load_data(tmp_path).account.notes
    )


def test_tables_of_labels_beside_class_folders_are_named(tmp_path):
    for part in ("train", "test"):
        for name in ("p1", "p2"):
            write(tmp_path / part / name / "1.jpg", JPEG)
        write(tmp_path / part / "metadata.jsonl", b"{}")
    for name in ("train_labels.csv", "Test.csv", "sizes.csv", "labels.txt"):
        write(tmp_path / name, b"id,label")
    notes = load_data(tmp_path).account.notes
    assert [note.partition(": ")[2] for note in notes] == [
        f"{names}; the class of an image is the name of its folder"
        for names in ("Test.csv, train_labels.csv", "metadata.jsonl", "metadata.jsonl")
    ]


@pytest.mark.parametrize("kind", ["tar shards", "arrays", "IDX files"])
def test_runs_and_what_is_hidden_beside_data_are_no_data(tmp_path, kind):
    write_kind(tmp_path, kind)
    write(tmp_path / "figures" / "1.jpg", JPEG)
    for name in ("runs/a/curves.png", "runs/a/run.json", "runs/a/metrics.jsonl", "code/.venv/tests/x.npz"):
        write(tmp_path / name, JPEG)
    write(tmp_path / "download" / "raw.zip", b"PK")
    assert sum("not used beside" in note for note in load_data(tmp_path).account.notes) == 1


def test_other_idx_files_are_named(tmp_path):
    write_kind(tmp_path, "IDX files")
    write_idx(tmp_path / "val-images-idx3-ubyte", IMAGES)
    assert load_data(tmp_path).account.notes == (f"not used in {tmp_path}: val-images-idx3-ubyte",)


def test_shards_of_parts_may_lie_apart(tmp_path):
    pack(tmp_path / "train-0.tar", SAMPLES)
    pack(tmp_path / "test" / "0.tar", SAMPLES[:4])
    data = load_data(tmp_path)
    assert (len(data.train), len(data.test)) == (6, 2)
    pack(tmp_path / "train" / "1.tar", SAMPLES)
    with pytest.raises(DataError, match="are of one part"):
        load_data(tmp_path)


def test_a_shard_of_no_part_beside_others_is_not_trained_on(tmp_path):
    pack(tmp_path / "train-0.tar", SAMPLES)
    pack(tmp_path / "dev-0.tar", SAMPLES)
    with pytest.raises(DataError, match=r"dev-0\.tar in .* say no part, but that of train-0\.tar does"):
        load_data(tmp_path)


def test_nothing_waits_for_named_pipes(tmp_path):
    for folder, names in (
        ("a", ["images.npy", "labels.npy"]),
        ("b", ["train.tar"]),
        ("c", ["train-images-idx3-ubyte"]),
    ):
        (tmp_path / folder).mkdir()
        for name in names:
            os.mkfifo(tmp_path / folder / name)
        with pytest.raises(DataError):
            load_data(tmp_path / folder)


def test_packed_files_beside_class_folders_are_named(tmp_path):
    for name in ("train/red/1.jpg", "train/blue/1.jpg", "test/red/1.jpg"):
        write(tmp_path / name, JPEG)
    for name in ("train.zip", f"{tmp_path.name}.tar.gz", "train/red.zip", "._val.zip", "notes.txt"):
        write(tmp_path / name, b"PK")  # unpacked, or no data
    assert load_data(tmp_path).account.notes == ()
    for name in ("val.zip", "extra.npz", "train/green.tar.gz", "test/blue.7z"):
        write(tmp_path / name, b"PK")
    assert load_data(tmp_path).account.notes == (
        f"not read in {tmp_path}: extra.npz, val.zip; unpack or convert it if it belongs to the data",
        f"not read in {tmp_path}/train: green.tar.gz; unpack or convert it if it belongs to the data",
        f"not read in {tmp_path}/test: blue.7z; unpack or convert it if it belongs to the data",
    )


@pytest.mark.parametrize("name", ["test-0.tar.gz", "train/1.tar.gz", "train/val.zip"])
def test_packed_files_beside_tar_shards_are_named(tmp_path, name):
    pack(tmp_path / "train" / "0.tar", SAMPLES)
    assert load_data(tmp_path).account.notes == ()
    write(tmp_path / name, b"PK")
    place = (tmp_path / name).parent
    assert load_data(tmp_path).account.notes == (
        f"not read in {place}: {name.split('/')[-1]}; unpack or convert it if it belongs to the data",
    )


@pytest.mark.parametrize("name", ["test/0.tar.gz", "test/more/0.tar", "val/red/1.jpg"])
def test_parts_of_another_kind_than_tar_shards_are_refused(tmp_path, name):
    pack(tmp_path / "train" / "0.tar", SAMPLES)
    write(tmp_path / name, JPEG if name.endswith(".jpg") else b"PK")
    with pytest.raises(DataError, match=f"beside them, data in the folders {name[:3]}"):
        load_data(tmp_path)


def test_folders_beside_the_tar_shards_of_a_part(tmp_path):
    pack(tmp_path / "train" / "0.tar", SAMPLES)
    write(tmp_path / "train" / "more" / "1.tar", b"")
    assert load_data(tmp_path).account.notes == (
        f"not used beside the tar shards in {tmp_path}/train: the folder more/",
    )
    write(tmp_path / "train" / "red" / "1.jpg", JPEG)
    with pytest.raises(DataError, match="train has tar shards and, beside them, data in the folders more/, red/"):
        load_data(tmp_path)


def test_what_is_odd_in_tar_shards_is_told(tmp_path):
    pack(tmp_path / "train-0.tar", [*SAMPLES, *SAMPLES[:2]])
    assert load_data(tmp_path).account.notes == (
        f"2 images and labels in {tmp_path}/train-0.tar have the name of an earlier one: all are used, though "
        "unpacking would keep the last alone",
    )
    pack(tmp_path / "train-0.tar", SAMPLES)
    pack(tmp_path / "train-0 (1).tar", SAMPLES)
    assert load_data(tmp_path).account.notes == ("the tar shard train-0 (1).tar may be a copy of train-0.tar",)
    (tmp_path / "train-0 (1).tar").unlink()
    named = [(name, content if name[-1] == "g" else b"red") for name, content in SAMPLES]
    pack(tmp_path / "train-1.tar", named)
    assert load_data(tmp_path).account.notes == (
        f"the labels in {tmp_path}/train-0.tar are numbers, and those in {tmp_path}/train-1.tar names: numbers are "
        "taken as names of further classes",
    )


def test_numbers_among_names_are_the_names_that_they_are(tmp_path):
    labels = ["007", "7", "A", "+7", "B", "A"] * 4
    pack(tmp_path / "train.tar", labelled(labels))
    assert load_data(tmp_path).class_names == ("+7", "007", "7", "A", "B")
    labels = ["007", "1", "7", "01"] * 4
    pack(tmp_path / "train.tar", labelled(labels))
    assert load_data(tmp_path).train.labels.tolist() == [7, 1, 7, 1] * 4


def labelled(labels):
    return [each for n, name in enumerate(labels) for each in ((f"{n}.jpg", JPEG), (f"{n}.cls", name.encode()))]


def test_folders_of_several_parts_in_tar_shards_are_refused(tmp_path):
    def write_in(name, *folders):
        pack(tmp_path / name, [(f"{folder}{name}", content) for folder in folders for name, content in SAMPLES])
        return tmp_path / name

    for folders in (("set/train/", "set/test/"), ("train/", "holdout/"), ("", "x/Test/", "val/")):
        with pytest.raises(DataError, match=r"a\.tar has images in the folders .*/, .*/, which are of several parts"):
            load_data(write_in("a.tar", *folders))
    for folders in (("train/", ""), ("test/",), ("cat/", "dog/")):
        assert len(load_data(write_in("a.tar", *folders)).train) == 6 * len(folders)
    (tmp_path / "a.tar").rename(tmp_path / "train-0.tar")
    write_in("test-0.tar", "train/")
    with pytest.raises(DataError, match=r"test-0\.tar has images in the folders train/, which"):
        load_data(tmp_path)


def test_a_held_out_shard_beside_others_is_told(tmp_path):
    for name in ("shard-000.tar", "shard-001.tar", "holdout-000.tar"):
        pack(tmp_path / name, SAMPLES)
    (line,) = load_data(tmp_path).account.notes
    assert line == "the tar shards holdout-000.tar may not be meant to be trained on; if so, move them away"


def test_a_description_with_two_numbers_has_no_label(tmp_path):
    def load(**more):
        described = [(f"x{n}.jpg", JPEG) for n in range(2)]
        described += [(f"x{n}.json", json.dumps({"label": n, **more}).encode()) for n in range(2)]
        pack(tmp_path / "a.tar", [*SAMPLES, *described])
        return load_data(tmp_path / "a.tar")

    for more in ({}, {"cls": "cat"}, {"cls": None}, {"name": 1}):
        assert len(load(**more).train) == 8
    assert [bad.path[-6:] for bad in load(cls=1).rejected] == ["x0.jpg"]


def test_shards_to_train_on_that_are_tested_are_told(tmp_path):
    pack(tmp_path / "train-0.tar", SAMPLES)
    told = load_data(tmp_path, LoadOptions(only_test=True))
    assert (len(told.train), told.account.notes) == (
        6, ("the tar shards train-0.tar are named as those to train on, and tested: there are no others",)
    )  # fmt: skip
    (tmp_path / "train-0.tar").rename(tmp_path / "a.tar")
    assert load_data(tmp_path, LoadOptions(only_test=True)).account.notes == ()
