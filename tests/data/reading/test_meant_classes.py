"""Folders that cannot be meant as classes are refused, with what to do; what only looks so is read."""

from __future__ import annotations

import re

import pytest

from adam_mp.data.reading.loading import load_data
from adam_mp.data.reading.options import LoadOptions
from adam_mp.errors import DataError
from tests.data.reading.odd_data import JPEG, write

REFUSED = {
    "images and masks": ({"images": 5, "masks": 5}, "images/, masks/ .* are no classes"),
    "masks below a part": ({"train/Img": 5, "train/ground_truth": 5}, "Img/, ground_truth/ .* are no classes"),
    "parts in classes": (
        {"red/train": 9, "red/test": 3, "blue/train": 9}, "hold parts .red/test/, red/train/.; move .* to test/red/$"),
    "parts in folds": (
        {f"fold{k}/{part}/{name}": 2 for k in (1, 2) for part in ("train", "test") for name in ("red", "blue")},
        "hold parts .*; give one of them, such as .*/fold1$"),
    "parts beside a folder": (
        {"data/train/red": 9, "data/train/blue": 9, "data/test/red": 2, "docs": 1}, "hold parts .*; give .*/data$"),
    "downloads of parts": (
        {"train-1/train/red": 9, "train-1/train/blue": 9, "test-1/test/red": 2},
        r"hold parts .test-1/test/, train-1/train/.; they may be pieces of one data set: put"),
    "downloads of pieces": (
        {"drive-1/train/red": 9, "drive-2/train/blue": 9, "drive-2/test/red": 2},
        r"hold parts .drive-1/train/, drive-2/test/, drive-2/train/.; they may be pieces of one data set: put"),
    "parts in classes of a part": (
        {"train/red": 3, "train/blue": 3, "test/red/test": 3}, "hold parts .red/test/.; move .* to test/red/$"),
    "one too deep": ({"pets/red": 30, "pets/blue": 30, "shots": 1}, "60 of 61 images .* if these are .*, give"),
    "parts of a year": ({"train2017": 3, "val2017": 3, "annotations": 1}, "look like parts.* call them train/ and val"),
    "parts of two sides": ({"trainA": 3, "trainB": 3, "testA": 1, "testB": 1}, "look like parts.* train/ and test/"),
    "pieces": ({"images_001/images": 3, "images_002/images": 3}, "are no classes, but pieces of one data set"),
    "folds": ({"Fold1": 3, "Fold2": 3, "Fold3": 3}, "are no classes, but pieces of one data set"),
    "images and masks in classes": (
        {"cat/images": 3, "cat/masks": 3, "dog/images": 3, "dog/masks": 3},
        "images/, masks/ in cat/, dog/ .* are no classes, but kinds .* move their images out of the inner ones"),
    "an image and its masks in each": (
        {"train/a1/images": 1, "train/a1/masks": 3, "train/b2/images": 1, "train/b2/masks": 1}, "train are no classes"),
    "kinds of pictures": (
        {"cat/rgb": 3, "cat/Depth": 3, "dog/rgb": 3, "dog/Depth": 3}, "Depth/, rgb/ in cat/, dog/ .* are no classes"),
    "copies": ({"cat/original": 3, "cat/augmented": 3, "dog/original": 3, "dog/augmented": 3}, "are no classes"),
    "years": ({"cat/2019": 3, "cat/2020-01": 3, "dog/2019": 3, "dog/2020-01": 3}, "2019/, 2020-01/ .* are no classes"),
    "masks of parts of images": (
        {"cat/images": 3, "cat/lung masks": 3, "cat/infection masks": 3,
         "dog/images": 3, "dog/lung masks": 3, "dog/infection masks": 3}, "in cat/, dog/ .* are no classes, but kinds"),
    "pieces of classes": ({"a/batch1": 3, "a/batch_2": 3, "b/batch1": 3, "b/batch_2": 3}, "kinds or pieces"),
    "kinds alone": ({"rgb": 3, "depth": 3}, "depth/, rgb/ .* are no classes"),
    "sizes": ({"HR": 3, "LR": 3, "thumbs": 3}, "are no classes"),
    "images and two kinds of masks": (
        {"JPEGImages": 3, "SegmentationClass": 3, "SegmentationObject": 3}, "are no classes, but images and what"),
    "images, masks and one more": ({"train/images": 3, "train/mask": 3, "train/1st_manual": 3}, "are no classes, but"),
    "images and labels of one camera": ({"image_2": 3, "label_2": 3}, "are no classes, but images and what belongs"),
    "pieces with a name": ({"HAM_images_part_1": 3, "HAM_images_part_2": 3}, "are no classes, but pieces of one data"),
    "the same images three times": (
        {f"{kind}/{name}": 3 for kind in ("color", "segmented") for name in ("apple", "corn")}, "give one .*/color$"),
    "a second copy inside": (
        {"red": 3, "blue": 3, "all/red": 3, "all/blue": 3}, "all holds folders with the names of classes"),
    "masks of each class": (
        {"cat": 3, "cat_masks": 3, "dog": 3}, "cat_masks seems to hold what belongs to the images of cat/, and is no"),
    "images by the kind of their files": ({"jpg": 5, "segmim": 5}, "segmim/ .* are no classes, but images"),
    "images and what a hand drew": ({"train/images": 3, "train/1st_manual": 3}, "are no classes, but images and what"),
    "input and output": ({"input": 3, "output": 3}, "are no classes, but images and what"),
    "images and truth of one task": (
        {"ISIC2018_Task1-2_Training_Input": 3, "ISIC2018_Task1_Training_GroundTruth": 3},
        "GroundTruth seems to hold what belongs to the images of ISIC2018_Task1-2_Training_Input/, and is no class"),
    "magnifications": (
        {f"{kind}/{times}X": 3 for kind in ("benign", "malignant") for times in (40, 100)},
        "100X/, 40X/ in benign/, malignant/ .* are no classes, but kinds"),
    "sizes of images": ({f"{kind}/{n}x{n}": 3 for kind in ("cat", "dog") for n in (64, 128)}, "but kinds"),
    "kinds of files": ({f"{kind}/{ending}": 3 for kind in ("cat", "dog") for ending in ("jpg", "png")}, "but kinds"),
    "a part in a part": (
        {"train/a": 3, "train/b": 3, "train/val/a": 1, "train/val/b": 1}, "train/val has the name of a part.* move it"),
    "images of a part in a part": ({"train/a": 3, "train/b": 3, "train/test": 1}, "train/test has the name of a part"),
    "parts and a word": ({"box_train": 3, "box_test": 3, "query": 3}, "look like parts.* call them train/ and test/"),
    "one part with letters": ({"trainA": 3, "trainB": 3}, "look like parts"),
    "the same folders below one": (
        {"amazon/images/mug": 3, "amazon/images/pen": 3, "dslr/images/mug": 3, "dslr/images/pen": 3},
        "are not clear: the folders amazon/, dslr/ all hold the folders mug/, pen/; if these are"),
    "the same folders in all of the same": (
        {f"{a}/{b}/{c}": 2 for a in "ab" for b in ("x", "y") for c in ("mug", "pen")}, "not clear: the folders x/, y/"),
    "a part in Spanish": (
        {"entrenamiento/a": 3, "entrenamiento/b": 3, "prueba/a": 3, "prueba/b": 3}, "prueba/ seems to be held out"),
    "a part in German": (
        {f"{part}/{name}": 3 for part in ("Trainingsdaten", "Testdaten") for name in ("red", "blue")},
        "Testdaten/ seems to be held out"),
    "a part in Chinese": (
        {f"{part}/{name}": 3 for part in ("训练集", "测试集") for name in ("red", "blue")},
        "测试集/ seems to be held out"),
    "a part by another word": (
        {"fit/red": 3, "fit/blue": 3, "hold_out/red": 3, "hold_out/blue": 3},
        "fit/, hold_out/ .* hold the same classes, and hold_out/ seems to be held out: call the folders train/"),
    "the same classes to validate on": (
        {"cat": 3, "cat_val": 3, "dog": 3, "dog_val": 3}, "look like parts.* call them train/ and val/"),
    "images and annotations by other words": ({"img_dir/train": 3, "ann_dir/train": 3}, "are no classes, but images"),
    "images and masks of a kind of file": ({"images_png": 3, "masks_png": 3}, "are no classes, but images and what"),
    "augmented copies of each class": (
        {"cat": 3, "cat_aug": 3, "dog": 3, "Augmented dog": 3, "eel": 3},
        "folders Augmented dog, dog and cat, cat_aug of .* seem to be of one class each: put the images"),
    "originals and changed copies": (
        {f"{name} {kind}": 3 for name in ("cat", "dog") for kind in ("original", "flipped")}, "of one class each"),
    "parts of each class": (
        {f"{name}_part{n}": 3 for name in ("cat", "dog") for n in (1, 2)}, "cat_part1, cat_part2 and dog_part1, dog_p"),
    "folds of each class": (
        {f"Fold{n}{name}": 3 for name in ("Cat", "Dog") for n in (1, 2)}, "Fold1Cat, Fold2Cat and Fold1Dog, Fold2Dog"),
    "patients of one class each": (
        {f"p{n}/{('sick', 'well', 'unclear')[n % 3]}": 2 for n in range(9)}, r"not clear.*p0/ sick; p1/ well"),
    "folds of which one lacks a class": (
        {"fold1/red": 3, "fold1/blue": 3, "fold2/red": 3}, r"not clear.*fold1/ blue, red; fold2/ red"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_classes(tmp_path, kind):
    folders, said = REFUSED[kind]
    with pytest.raises(DataError) as caught:
        load_data(fill(tmp_path, folders))
    assert re.search(said, str(caught.value)), caught.value


READ = {
    "kinds of one class": ({"dog/pug": 3, "dog/collie": 3, "cat": 5}, ("cat", "dog")),
    "a folder of images in each class": ({"cat/images": 3, "dog/images": 3, "dog/more": 1}, ("cat", "dog")),
    "cameras of their own": ({"cat/1": 3, "dog/2": 3}, ("cat", "dog")),
    "only the training part in each": ({"cat/train": 3, "dog/train": 3}, ("cat", "dog")),
    "masks as a class among others": ({"masks": 3, "hats": 3}, ("hats", "masks")),
    "kinds with a class's name": ({"cat/dog": 3, "cat/wild": 3, "dog/1": 3, "dog/2": 3}, ("cat", "dog")),
    "kinds of documents": ({"label": 3, "photos": 3, "letter": 3}, ("label", "letter", "photos")),
    "spare parts": ({"part 1": 3, "part 22": 3, "bolt": 3}, ("bolt", "part 1", "part 22")),
    "things of a kind": (
        {"fox": 3, "gray fox": 3, "cola": 3, "cola original": 3},
        ("cola", "cola original", "fox", "gray fox"),
    ),
    "numbers of things": ({"cat_1": 3, "cat_2": 3, "dog_1": 3, "dog_2": 3}, ("cat_1", "cat_2", "dog_1", "dog_2")),
    "a vehicle": ({"train/train": 3, "train/bus": 3, "test/train": 1}, ("bus", "train")),
    "views of single things": (
        {f"{a}/{b}/{c}": 2 for a, b in (("cat", "tom"), ("dog", "rex")) for c in ("rgb", "depth")},
        ("cat", "dog"),
    ),
    "a word among classes": (
        {"test_tube": 3, "train_station": 3, "target": 3},
        ("target", "test_tube", "train_station"),
    ),
    "gears": ({"manual": 3, "automatic": 3}, ("automatic", "manual")),
    "masks on faces": (
        {"mask_images": 3, "nomask_images": 3, "mask_weared_incorrect": 3},
        ("mask_images", "mask_weared_incorrect", "nomask_images"),
    ),
    "numbered types": ({"type1_target": 3, "type2": 3}, ("type1_target", "type2")),
    "images of two kinds": ({"fake_images": 3, "real_images": 3}, ("fake_images", "real_images")),
    "magnifications of each slide": (
        {"40x/benign": 3, "40x/malignant": 3, "100x/benign": 3, "100x/malignant": 3},
        ("benign", "malignant"),
    ),
    "images of each class in one of a few numbered folders": (
        {f"{a}/{n % 3}": 3 for n, a in enumerate(("cat", "cow", "dog", "eel", "fox", "owl"))},
        ("cat", "cow", "dog", "eel", "fox", "owl"),
    ),
    "breeds of a few names": (
        {
            f"{a}/{b}": 3
            for a, b in (("cat", "wild"), ("dog", "wild"), ("eel", "tame"), ("fox", "red"), ("cow", "farm"))
        },
        ("cat", "cow", "dog", "eel", "fox"),
    ),
    "raw fish": ({"raw": 3, "fried": 3}, ("fried", "raw")),
    "writers": ({"ann/1": 3, "ann/2": 3, "bob/1": 3, "bob/2": 3}, ("1", "2")),
    "places": ({"web/cat": 3, "web/raw": 3, "shop/cat": 3, "shop/raw": 3}, ("cat", "raw")),
    "years of fashion": ({"2019": 3, "2020": 3}, ("2019", "2020")),
    "numbers": ({"1": 3, "2": 3}, ("1", "2")),
    "names of a part as classes of all parts": (
        {"train/valid": 3, "train/invalid": 3, "test/valid": 1, "test/invalid": 1},
        ("invalid", "valid"),
    ),
    "images over numbered folders": (
        {f"{a}/images/{b}": 2 for a in ("cat", "dog") for b in ("000", "0a1")},
        ("cat", "dog"),
    ),
    "images of numbered classes": ({"img_class_0": 3, "img_class_1": 3}, ("img_class_0", "img_class_1")),
    "numbered classes": ({"class1": 3, "class2": 3}, ("class1", "class2")),
    "one class with a part's word and a number": ({"test1": 3, "cat": 3}, ("cat", "test1")),
    "a class with another's name and a part's word": (
        {"tube": 3, "test_tube": 3, "cat": 3},
        ("cat", "test_tube", "tube"),
    ),
    "a part's word in a class": ({"test_tube/a": 3, "beaker/a": 3}, ("beaker", "test_tube")),
}


@pytest.mark.parametrize("kind", READ)
def test_what_can_be_classes(tmp_path, kind):
    folders, names = READ[kind]
    data = load_data(fill(tmp_path, folders))
    assert data.class_names == names
    assert sum(map(len, data.parts)) == sum(folders.values())


def test_two_names_of_one_folder_are_not_two_classes(tmp_path):
    fill(tmp_path, {"red": 3, "blue": 3})
    (tmp_path / "rot").symlink_to("red")
    with pytest.raises(DataError, match=r"rot and .*red are one folder by two names"):
        load_data(tmp_path, LoadOptions(follow_links=True))


def test_a_store_to_which_links_of_classes_lead_is_no_class(tmp_path):
    fill(tmp_path, {"all": 6, "red": 0, "blue": 0})
    for number in range(6):
        folder = tmp_path / ("red", "blue")[number % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.jpg").symlink_to(tmp_path / "all" / f"{number}.jpg")
    with pytest.raises(DataError, match=r"6 of 6 images of .*all are in other class folders too, by links: .* move it"):
        load_data(tmp_path)
    for number in range(1, 5):
        (tmp_path / ("red", "blue")[number % 2] / f"{number}.jpg").unlink()
    assert load_data(tmp_path).class_names == ("all", "blue", "red")


def test_an_accent_is_one_letter_however_it_is_stored(tmp_path):
    fill(tmp_path, {"train/caf\u00e9": 3, "train/tea": 3, "test/cafe\u0301": 2})
    data = load_data(tmp_path)
    assert (data.class_names, data.test.labels.tolist()) == (("caf\u00e9", "tea"), [0, 0])


def test_two_parts_are_not_one_folder(tmp_path):
    fill(tmp_path, {"train/red": 3, "train/blue": 3})
    (tmp_path / "test").symlink_to("train")
    for options in (LoadOptions(), LoadOptions(follow_links=True)):
        with pytest.raises(DataError, match=r"test and .*train are two parts, but one folder by two names"):
            load_data(tmp_path, options)


def test_folders_below_all_classes_are_told(tmp_path):
    fill(tmp_path, {"animals/cat": 3, "animals/dog": 3, "vehicles/car": 3, "vehicles/bus": 3})
    assert load_data(tmp_path).account.notes == (
        "the images of the classes animals, vehicles lie in folders below them, which are no classes: bus, car, cat, "
        "dog",
    )


@pytest.mark.parametrize("copy", ["cat (copy)", "cat - Copy", "Copy of cat", "cat.bak", "cat~", "cat_old", "cat (2)"])
def test_copies_of_class_folders_are_told(tmp_path, copy):
    fill(tmp_path, {"cat": 3, "dog": 3, copy: 3, "fox (2)": 3})
    assert load_data(tmp_path).account.notes == (f"the class folder {copy}/ may be a copy of cat/",)


def test_runs_in_the_data_folder_are_no_class(tmp_path):
    fill(tmp_path, {"red": 3, "blue": 3, "red/shots": 1})
    for name in ("run.json", "metrics.jsonl", "curves.png"):
        write(tmp_path / "runs" / "first" / name, JPEG)
    data = load_data(tmp_path)
    assert (data.class_names, len(data.train)) == (("blue", "red"), 7)
    assert "runs/" in data.account.notes[0]


def fill(root, folders):
    for name, count in folders.items():
        for number in range(count):
            write(root / name / f"{number}.jpg", JPEG)
    return root


def test_folders_that_may_be_of_one_class_are_told(tmp_path):
    fill(tmp_path, {"cat": 3, "cat_resized": 3, "dog": 3})
    assert load_data(tmp_path).account.notes == ("the classes cat, cat_resized may be one class",)


@pytest.mark.parametrize("name", ["#recycle", "@Recycle", "RECYCLER", "$RECYCLE.BIN"])
def test_deleted_images_are_no_class(tmp_path, name):
    fill(tmp_path, {"cat": 3, "dog": 3, f"dog/{name}": 2, name: 3})
    assert len(load_data(tmp_path).train) == 6
