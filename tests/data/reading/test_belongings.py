"""Masks and the like beside the images of a class are no images of it; classes that may be none are told."""

from __future__ import annotations

import pytest

from adam_mp.data.reading.account import left_out
from adam_mp.data.reading.loading import load_data
from adam_mp.errors import DataError
from tests.data.reading.odd_data import JPEG, write
from tests.data.reading.test_meant_classes import fill


@pytest.mark.parametrize(
    "mask",
    ["{}_mask.png", "{}_mask_1.png", "{}-Mask.jpg", "{} mask2.png", "{}_segmentation.png", "{}_GT.bmp", "{}.seg.jpg",
     "{}_ground_truth.png", "{}_trimap.png"],
)  # fmt: skip
def test_masks_beside_their_images_are_left_out(tmp_path, mask):
    for part in ("train", "test"):
        for name in ("benign", "normal"):
            for number in range(3):
                write(tmp_path / part / name / f"{name} ({number}).jpg", JPEG)
                write(tmp_path / part / name / mask.format(f"{name} ({number})"), JPEG)
    data = load_data(tmp_path)
    assert (len(data.train), len(data.test)) == (6, 6)
    (told,) = left_out(data.rejected)
    assert (told.count, told.reason) == (
        12,
        "by its name a mask or the like of the image beside it, as 1_mask.png of 1.png",
    )
    assert told.remedy == "if it is an image of the class, rename it"


def test_words_that_may_be_names_count_behind_the_name_of_an_image_alone(tmp_path):
    kept = ("img_1", "lesion_1", "2", "manual-2", "photo_3", "edge_3", "7_binary", "8_instance")
    for stem in (*kept, "7_binary_mask", "8_instance_mask", "2_edges"):
        write(tmp_path / "a" / f"{stem}.jpg", JPEG)
        write(tmp_path / "b" / f"{stem}.jpg", JPEG)
    data = load_data(tmp_path)
    assert (len(data.train), len(data.rejected)) == (2 * len(kept), 6)


def test_names_with_such_words_are_those_of_images(tmp_path):
    for name in ("1_mask.jpg", "3_mask.jpg", "2.jpg", "2_masked.jpg", "2_hat.jpg", "mask.jpg", "unmask.jpg"):
        write(tmp_path / "hats" / name, JPEG)  # 1.jpg lies elsewhere
    for name in ("1.jpg", "1_mask.jpg", "3.jpg"):
        write(tmp_path / "with_mask" / name, JPEG)
    data = load_data(tmp_path)
    assert (len(data.train), data.rejected) == (10, [])


def test_folders_of_masks_beside_the_images_of_a_class_are_refused(tmp_path):
    fill(tmp_path / "a", {"cat": 4, "cat/masks": 4, "dog": 4, "dog/masks": 4})
    fill(tmp_path / "b", {"cat/images": 4, "cat/masks": 4, "dog/images": 4})
    fill(tmp_path / "c", {"cat": 4, "dog": 4})
    for number in range(4):
        write(tmp_path / "c" / "cat" / "GT" / f"{number}_mask.png", JPEG)
    for case in "abc":
        with pytest.raises(DataError, match=r"cat/(masks|GT) seems to hold what belongs to the images of cat, and no"):
            load_data(tmp_path / case)


def test_folders_with_such_names_may_be_kinds_of_a_class(tmp_path):
    fill(tmp_path, {"bottle/label": 3, "bottle/cap": 3, "can": 3})
    for number in range(5, 8):
        write(tmp_path / "can" / "label" / f"{number}.jpg", JPEG)
    assert len(load_data(tmp_path).train) == 12


def test_images_of_one_name_are_told(tmp_path):
    fill(tmp_path, {"cat": 4, "dog": 4})
    write(tmp_path / "dog" / "0.png", JPEG)
    assert load_data(tmp_path).account.notes == ()
    for number in range(4):
        write(tmp_path / "cat" / f"{number}.png", JPEG)
    (note,) = load_data(tmp_path).account.notes
    assert note.startswith("images of the class cat have the same names but for their endings, such as 1.jpg and 1.png")


def test_copies_in_a_folder_inside_a_class_are_told(tmp_path):
    fill(tmp_path, {"cat": 4, "dog": 4, "dog/other": 2})
    for number in range(4):
        write(tmp_path / "cat" / "small" / f"{number}.png", JPEG)
        write(tmp_path / "dog" / "pug" / f"{10 + number}.jpg", JPEG)
    (tmp_path / "dog" / "other" / "0.jpg").rename(tmp_path / "dog" / "other" / "21.jpg")
    (tmp_path / "dog" / "other" / "1.jpg").rename(tmp_path / "dog" / "other" / "22.jpg")
    (note,) = load_data(tmp_path).account.notes
    assert note.startswith("images in cat/small/ have the names of those in the folder around them; if they are copies")


@pytest.mark.parametrize(
    "name", ["unlabeled", "Unlabelled", "unlabeled_data", "tmp", "_backup", "To sort", "venv", "results", "no_label"]
)
def test_classes_that_may_be_none_are_told(tmp_path, name):
    fill(tmp_path, {"cat": 3, "dog": 3, name: 3})
    (note,) = load_data(tmp_path).account.notes
    assert note == f"the class {name} may hold images of no class; if so, move its folder out of {tmp_path}"


@pytest.mark.parametrize(
    "mask",
    [
        "mask_{}.png",
        "GT-{}.bmp",
        "{}mask.png",
        "{}_label.png",
        "{}_heatmap.jpg",
        "{}_depth.png",
        "{}_lbl.png",
        "{}_superpixels.png",
        "{}_color_mask.png",
        "{}_watershed_mask.png",
        "{}_attribute_pigment_network.png",
        "{}_lesion.bmp",
        "{}_1stHO.png",
        "{}_manual1.png",
        "{}_gtFine_labelIds.png",
        "{}_overlay.png",
        "{}_pred.png",
        "{}_boundaries.png",
        "{}_gradcam.jpg",
        "{}_instance_mask.png",
    ],
)
def test_masks_are_known_by_words_before_names_and_by_further_words(tmp_path, mask):
    for name in ("benign", "normal"):
        for number in range(3):
            write(tmp_path / name / f"{number}.jpg", JPEG)
            write(tmp_path / name / mask.format(number), JPEG)
    data = load_data(tmp_path)
    assert (len(data.train), len(data.rejected)) == (6, 6)


@pytest.mark.parametrize(
    ("image", "mask"),
    [("img_{}", "mask_{}"), ("{}_rgb", "{}_depth"), ("a_{}_crop", "a_{}_maskcrop"), ("image-{}", "Seg-{}")],
)
def test_images_may_have_a_word_where_their_masks_have_one(tmp_path, image, mask):
    for name in ("benign", "normal"):
        for number in range(3):
            write(tmp_path / name / f"{image.format(number)}.png", JPEG)
            write(tmp_path / name / f"{mask.format(number)}.png", JPEG)
    data = load_data(tmp_path)
    assert (len(data.train), len(data.rejected)) == (6, 6)
    assert all("mask" in bad.path or "depth" in bad.path or "Seg" in bad.path for bad in data.rejected)


@pytest.mark.parametrize(
    "name",
    [
        "pred",
        "to_predict",
        "all",
        "images",
        "wandb",
        "__pycache__",
        "New folder",
        "my_test",
        "tests",
        "holdout",
        "dev",
        "unseen",
        "test 2",
        "val_pics",
        "alien_test",
        "live_test",
        "Testdaten",
        "тест",
        "测试集",
    ],
)
def test_folders_of_other_images_beside_classes_are_told(tmp_path, name):
    fill(tmp_path, {"yes": 3, "no": 3, name: 3})
    (note,) = load_data(tmp_path).account.notes
    assert note.startswith(f"the class {name} may hold images of no class")


@pytest.mark.parametrize("part", ["", "train/", "test/"])
@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("dog", "the inner one has the name of another class"),
        ("young/Dog", "the inner one has the name of another class"),
        ("deleted", "if they are not to be used, move them away"),
        ("holdout", "if they are not to be used, move them away"),
        ("wrong", "if they are not to be used, move them away"),
    ],
)
def test_folders_in_a_class_that_are_not_of_it_are_told(tmp_path, part, inside, said):
    for where in ("train/", "test/") if part else ("",):
        for name in ("cat", "dog"):
            write(tmp_path / where / name / "1.jpg", JPEG)
    write(tmp_path / part / "cat" / inside / "1.jpg", JPEG)
    (line,) = load_data(tmp_path).account.notes
    assert line.startswith(f"images in cat/{inside}/ are taken for those of the")
    assert said in line


@pytest.mark.parametrize("inside", ["cat", "young", "images", "pug", "samples", "a/b"])
def test_folders_in_a_class_that_are_of_it_are_not_told(tmp_path, inside):
    for name in ("cat", "dog"):
        write(tmp_path / name / "1.jpg", JPEG)
    write(tmp_path / "cat" / inside / "1.jpg", JPEG)
    assert load_data(tmp_path).account.notes == ()


def test_good_and_bad_ones_of_a_class_are_no_news(tmp_path):
    for name in ("apple/good", "apple/bad", "pear/1", "pear/2"):
        write(tmp_path / name / "1.jpg", JPEG)
    (line,) = load_data(tmp_path).account.notes
    assert "lie in folders below them, which are no classes: 1, 2, bad, good" in line
