"""A class folder with the images of the other class folders is refused: it is no class."""

from __future__ import annotations

import os
import shutil

import pytest

from adam_mp.data.reading.loading import load_data
from adam_mp.errors import DataError
from tests.data.pictures_on_disk import write_folder
from tests.data.reading.test_meant_classes import fill


@pytest.mark.parametrize("named", ["{}", "copy of {}"])
@pytest.mark.parametrize("how", [shutil.copy, os.link])
@pytest.mark.parametrize("part", ["", "train"])
def test_a_folder_of_all_images_is_no_class(tmp_path, how, part, named):
    root = tmp_path / part
    paths = write_folder(root, 20)
    (root / "originals").mkdir()
    for path in paths:
        moved = path.rename(path.with_name(f"{path.parent.name}.{path.name}"))
        how(moved, root / "originals" / named.format(moved.name))
    with pytest.raises(DataError, match=r"originals are in other class folders too, such as originals/.* 8 of 8"):
        load_data(tmp_path)
    for path in sorted((root / "originals").iterdir())[:30]:  # half of them
        path.unlink()
    shutil.rmtree(root / "red")
    shutil.rmtree(root / "green")
    assert load_data(tmp_path).class_names == ("blue", "originals")


def test_two_folders_of_the_same_images_are_not_two_classes(tmp_path):
    write_folder(tmp_path, 5)
    shutil.copytree(tmp_path / "red", tmp_path / "rot")
    with pytest.raises(DataError, match=r"such as red/0000.jpg and rot/0000.jpg: 5 of 5 that were compared"):
        load_data(tmp_path)


def test_images_of_the_same_names_are_no_copies(tmp_path):
    write_folder(tmp_path / "a", 12)
    fill(tmp_path / "b", {"red": 4, "blue": 4})  # all of one content
    assert load_data(tmp_path / "a").class_names == ("blue", "green", "red")
    assert load_data(tmp_path / "b").class_names == ("blue", "red")
