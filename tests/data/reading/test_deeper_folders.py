"""Folders that decide what the classes are may lie deeper than in the class folders."""

from __future__ import annotations

import re

import pytest

from adam_mp.data.reading.loading import load_data
from adam_mp.errors import DataError
from tests.data.reading.test_meant_classes import fill

REFUSED = {
    "parts in a folder in a folder": (
        {"small/small/ok": 3, "small/small/bad": 3, "big/big/train/ok": 3, "big/big/train/bad": 3, "big/big/test/a": 1},
        "hold parts .big/big/test/, big/big/train/.; give .*/big/big$"),
    "parts of each class deeper": (
        {f"{name}/x/{part}": 3 for name in ("cat", "dog") for part in ("train", "test")},
        "hold parts .cat/x/test/, cat/x/train/.; move the images to test/cat/$"),
    "two sets of partly the same classes": (
        {"a/a/cat": 3, "a/a/dog": 3, "b/b/cat": 3, "b/b/dog": 3, "b/b/eel": 3},
        "not clear: .* folders of partly the same names .a/a/ cat, dog; b/b/ cat, dog, eel"),
    "one of two sets a folder deeper": (
        {"a/cat": 3, "a/dog": 3, "b/b/cat": 3, "b/b/dog": 3}, "not clear: .* .a/ cat, dog; b/b/ cat, dog"),
    "masks of each patient": (
        {f"{name}/{name}{n}/{kind}": 2 for name in ("cat", "dog") for n in range(3) for kind in ("images", "masks")},
        "cat/cat0/masks seems to hold what belongs to the images of cat, and no images of this class"),
    "masks beside the images of one patient": (
        {"cat/p1": 3, "cat/p1/mask": 3, "dog/p2": 3}, "cat/p1/mask seems to hold what belongs"),
    "masks of patients of all classes": (
        {f"{name}/p{n}/{kind}": 2 for name in ("cat", "dog") for n in (1, 2) for kind in ("images", "masks")},
        "cat/p1/masks seems to hold what belongs"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_classes(tmp_path, kind):
    folders, said = REFUSED[kind]
    with pytest.raises(DataError) as caught:
        load_data(fill(tmp_path, folders))
    assert re.search(said, str(caught.value)), caught.value


def test_folders_below_a_single_folder_are_told(tmp_path):
    fill(tmp_path, {"cats/cats/persian": 3, "cats/cats/siam": 3, "dogs/dogs/pug": 3, "birds/birds": 3})
    assert load_data(tmp_path).account.notes == (
        "the images of the classes birds, cats, dogs lie in folders below them, which are no classes: birds, dogs, "
        "persian, siam",
    )


@pytest.mark.parametrize(
    "folders",
    [
        {"cat/tom/rgb": 3, "cat/tom/depth": 3, "dog/rex/rgb": 3, "dog/rex/depth": 3},
        {f"{a}/images/{b}": 2 for a in ("cat", "dog") for b in ("000", "0a1")},
        {"cat/cat/1": 3, "cat/cat/2": 3, "dog/dog/2": 3, "dog/dog/3": 3},
        {"cat/x/y": 3, "dog/x/y": 3},
    ],
)
def test_what_can_be_classes(tmp_path, folders):
    data = load_data(fill(tmp_path, folders))
    assert (data.class_names, len(data.train)) == (("cat", "dog"), sum(folders.values()))
