"""From what a user gives as data to a `DataSet`: the one module that knows all formats."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adam_mp.compute.columns import column_names
from adam_mp.data.reading.account import Account, some
from adam_mp.data.reading.array_files import has_array_files, read_array_files
from adam_mp.data.reading.array_names import meaning_of
from adam_mp.data.reading.beside import notes_beside, unread_files
from adam_mp.data.reading.dataset import DataSet, Part, make_dataset
from adam_mp.data.reading.idx import exchanged_axes, exchanged_items, find_idx, has_idx, read_idx, unused_idx
from adam_mp.data.reading.image_folder import read_image_folder
from adam_mp.data.reading.image_kinds import has_image_ending, is_dropping
from adam_mp.data.reading.items import Items, is_item_source, kinds_within, look_at_items, make_items
from adam_mp.data.reading.options import LoadOptions
from adam_mp.data.reading.part_names import TEST, TRAIN, VALIDATION, part_of
from adam_mp.data.reading.picture_form import (
    LOOKED_AT,
    least_images,
    looked_at,
    picture_shape,
    told_of_ends,
    with_form,
)
from adam_mp.data.reading.samples import make_samples
from adam_mp.data.reading.shards import (
    PACKED,
    expand_braces,
    is_shard_name,
    packed_shards,
    read_shard_set,
    shards_by_part,
)
from adam_mp.errors import DataError, refusal, several, shown
from adam_mp.proposals import nearest

EMBEDDED = "mnist"
_EMBEDDED_FOLDER = Path(__file__).parents[1] / "mnist"
_FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
          "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}  # fmt: skip
_MORE_ITEMS = 64  # items that are looked at beyond the first, to have one of each class
_ASKED_TWICE = 32  # items that are asked a second time, to see whether the object draws at random
_TO_TURN = (
    "images of Pillow among the items have an EXIF orientation, and are taken as they are stored, while files are "
    "turned: write PIL.ImageOps.exif_transpose(image), or give --ignore-orientation where files are classified"
)


def load_data(source: Any = EMBEDDED, options: LoadOptions | None = None) -> DataSet:
    """Return the data set of `source`; raises DataError if it is missing, damaged or inconsistent.

    `source` is one of

    - "mnist", the embedded data set, also if there is such a folder, which "./mnist" names;
    - a folder with the four IDX files, with class folders of images, with tar shards, or with .npy files;
    - tar shards by name, `name.tar` or `name-{00..31}.tar`; or an .npz file;
    - arrays: `(images, labels)`, `(images, labels, test_images, test_labels)` or `((images, labels), (test_images,
      test_labels))`;
    - an object whose items are (image, label), or a pair of such objects to train and to test on;
    - a DataSet, of which a copy is returned that shares its arrays.
    """
    options = options or LoadOptions()
    if isinstance(source, DataSet):
        return dataclasses.replace(source)  # what it has computed of its arrays may be true no more
    if isinstance(source, os.PathLike) and os.fsdecode(source) == EMBEDDED:
        source = os.path.join(os.curdir, EMBEDDED)
    if isinstance(source, (str, bytes, os.PathLike)):
        return _load_path(os.fsdecode(source), options)
    if isinstance(source, Sequence) and not _has_items(source):
        parts = list(source)
        if len(parts) == 2 and all(_is_pair_of_arrays(part) for part in parts):
            parts = [*parts[0], *parts[1]]
        elif len(parts) == 2 and all(_has_items(part) for part in parts):
            return _load_items(parts, options)
        if len(parts) == 4 and _are_of_a_split(parts):
            raise DataError(
                "the second of four arrays has the shape of the first, as from train_test_split(images, labels); "
                "expected (images, labels, test_images, test_labels): data[0], data[2], data[1], data[3]"
            )
        if len(parts) in (2, 4):
            named = {TRAIN: ("training", *parts[:2])}
            if len(parts) == 4:
                named[TEST] = ("test", *parts[2:])
            return _tested(_with_arrays("arrays", named, Account("arrays", {}, len(parts) == 4), options), options)
    elif _has_items(source):
        return _load_items([source], options)
    raise DataError(
        f"data is {shown(source)}; expected a folder, (images, labels), "
        "(images, labels, test_images, test_labels), or an object whose items are (image, label)"
    )


def names_files(source: str) -> bool:
    """Tell whether `source` is the path of something that is there, or names tar shards of which the first is there."""
    if Path(source).exists():
        return True
    return is_shard_name(source) and Path(expand_braces(source)[0]).exists()


def _has_items(source: Any) -> bool:
    """Tell whether `source` is an object whose items are (image, label); arrays and lists of arrays are not."""
    if (
        isinstance(source, type)
        or not is_item_source(source)
        or isinstance(source, np.ndarray)
        or hasattr(source, "__array__")
    ):
        return False
    if isinstance(source, (list, tuple)):
        pairs = len(source) > 0 and all(isinstance(item, tuple) and len(item) == 2 for item in source[:3])
        return pairs and (len(source) > 4 or all(_is_one_label(item[1]) for item in source))  # not images with labels
    return True


def _is_pair_of_arrays(given: Any) -> bool:
    return isinstance(given, Sequence) and len(given) == 2 and not _is_one_label(given[1])


def _are_of_a_split(parts: Sequence[Any]) -> bool:
    """Tell whether four arrays are images, test images, labels and test labels, in this order."""
    images, test_images, labels = (getattr(part, "shape", ()) for part in parts[:3])
    return len(images) > 1 and images[1:] not in ((), (1,)) and images[1:] == test_images[1:] and len(labels) == 1


def _is_one_label(given: Any) -> bool:
    return isinstance(given, (str, bytes, int, float)) or getattr(given, "shape", None) == ()


def _load_path(source: str, options: LoadOptions) -> DataSet:
    if not source.strip():
        raise DataError(f"data is {source!r}; expected a folder, a file or {EMBEDDED!r}")
    if source == EMBEDDED:
        return _load_idx(_EMBEDDED_FOLDER, source, options)
    if source.startswith("file://"):
        raise DataError(f"{source} is an address; give the path alone: {source.removeprefix('file://')}")
    if "://" in source:
        raise DataError(f"{source} is an address; fetch it first, and give the folder or file")
    path = Path(source)
    if is_shard_name(source) and not path.is_dir():
        return _load_shards(source, {TRAIN: [Path(name) for name in expand_braces(source)]}, False, options)
    try:
        is_file = path.is_file()
    except OSError as error:  # no file can have this name
        raise DataError(f"data {shown(source)}: {refusal(error)}") from None
    if is_file:
        return _load_file(path, options)
    if not path.is_dir():
        raise DataError(
            f"data folder {path} does not exist; {_another_path(source)}give a folder with class folders, IDX files, "
            f"tar shards or .npy files, or {EMBEDDED!r}"
        )
    load = _loader(path)
    if load is None:
        raise DataError(_why_no_data(path))
    return load(path, options)


def _another_path(source: str) -> str:
    """Return what to say of a path that is not there, if a shell would have made another of it that is; else ""."""
    meant = os.path.expandvars(os.path.expanduser(source.strip().strip("'\"")))
    return f"did you mean {meant}? If not, " if meant != source and os.path.exists(meant) else ""


def _loader(path: Path) -> Callable[[Path, LoadOptions], DataSet] | None:
    """Return the function that loads what a folder has, None if nothing in it is known."""
    if any((path / (name + ending)).is_file() for name in _FILES[TRAIN] for ending in ("", ".gz")):
        return lambda path, options: _load_idx(path, str(path), options)
    if shards := shards_by_part(path):
        named = len(shards) > 1 or TRAIN not in shards
        return lambda path, options: _load_shards(str(path), shards, named, options, path)
    if has_array_files(path) or has_array_files(path, TEST):
        return _load_arrays
    if has_idx(path):
        return lambda path, options: _load_idx(path, str(path), options)
    if any(entry.is_dir() and not is_dropping(entry.name) for entry in path.iterdir()):
        return _load_folder
    return None


def _load_file(path: Path, options: LoadOptions) -> DataSet:
    name = path.name.lower()
    if name.endswith((*PACKED, ".gz", ".bz2", ".xz", ".zst", ".zip", ".rar", ".7z")):
        raise DataError(f"{path} is compressed; unpack it and give the folder or the plain .tar")
    if has_image_ending(name):
        raise DataError(f"{path} is one image; give a folder that has a folder of images for each class")
    if not name.endswith((".npz", ".npy")):
        raise DataError(
            f"{path} is of a kind that is not read; expected a folder of images, tar shards, an .npz file, or IDX "
            "files; or load it in Python and give arrays: adam_mp.train(network, (images, labels))"
        )
    return _load_arrays(path, options)


def _why_no_data(path: Path) -> str:
    """Say why nothing in a folder can be trained on, by what it has."""
    names = sorted(entry.name for entry in path.iterdir() if not is_dropping(entry.name))
    said = (
        f"data folder {path} has no class folders with images, no IDX files of MNIST's names, no tar shards, no "
        "images.npy and labels.npy"
    )
    if packed := packed_shards(path):
        return f"{said}; {some(packed, 3)} is compressed: unpack it to a plain .tar, or to a folder of class folders"
    if any(has_image_ending(name) for name in names):
        return f"{said}; put its images into a folder for each class"
    if arrays := [name for name in names if name.lower().endswith(".npy")]:
        unknown = [f"{name}, {nearest(name[:-4], _WANTED_ARRAYS)}" for name in arrays if not meaning_of(name[:-4])]
        known = [f"{name} alone, which is not enough" for name in arrays if meaning_of(name[:-4])]
        return f"{said}; it has {' and '.join((known + unknown)[:2])}"
    if files := [name for name in names if name.lower().endswith((".npz", ".zip", ".h5", ".parquet", ".csv"))]:
        archives = [name for name in files if name.lower().endswith(".npz")]
        use = f"; give {path / archives[0]}" if len(archives) == 1 else ""
        if not archives and any(name.lower().endswith(".zip") for name in files):
            use = "; unpack the .zip"
        use = use or ("; put the arrays of all parts into one .npz file, as x_train, y_train, ..." if archives else "")
        return f"{said}; it has {some(files, 3)}{use}"
    return f"{said}; it has {some(names, 5) or 'nothing at all'}"


_WANTED_ARRAYS = ("images", "labels", "x_train", "y_train", "train_images", "train_labels")


def _load_idx(folder: Path, name: str, options: LoadOptions) -> DataSet:
    parts, places = {}, {}
    used: list[Path] = []
    for part, (images_name, labels_name) in _FILES.items():
        if options.only_test and part == TRAIN:
            continue
        files = find_idx(folder, images_name), find_idx(folder, labels_name)
        images, labels = read_idx(files[0], 3), read_idx(files[1], 1)
        if len(images) != len(labels):
            raise DataError(
                f"{folder}: {images_name} has {several(len(images), 'image')}, "
                f"but {labels_name} {several(len(labels), 'label')}"
            )
        parts[part] = (f"{part} set of {folder}", images, labels)
        used += files
        places[part] = " and ".join(file.relative_to(folder).as_posix() for file in files)
    account = Account("IDX files", places, True)
    if name == EMBEDDED:
        account = account.with_notes(_not_the_folder())
    else:
        account = account.with_notes(unused_idx(folder, used))
        account = account.with_notes(exchanged_axes(used))
        account = account.with_notes(
            notes_beside(folder, "IDX files", [path.relative_to(folder).parts[0] for path in used])
        )
    if options.only_test:
        parts = {TRAIN: parts[TEST]}
    return _with_arrays(name, parts, account, options)


def _not_the_folder() -> list[str]:
    """Return a line if the present folder has an entry of the embedded data set's name, which may have been meant."""
    if not os.path.isdir(EMBEDDED):
        return []
    here = os.path.join(os.curdir, EMBEDDED)
    return [f"{EMBEDDED} is the embedded data set; the folder {EMBEDDED}/ here is not used: to use it, give {here}"]


def _load_arrays(path: Path, options: LoadOptions) -> DataSet:
    found = read_array_files(path, options.only_test)
    parts = {part: (f"{part} set of {path}", *pair) for part, pair in found.pairs.items()}
    if TEST in parts and TRAIN not in parts:
        parts = {TRAIN: parts[TEST]}  # what is tested is the only part
    account = found.account.with_notes(notes_beside(path, "arrays") if path.is_dir() else ())
    dataset = _with_arrays(str(path), parts, account, options)
    return dataset if TEST in found.pairs and options.only_test else _tested(dataset, options)


def _with_arrays(
    name: str, parts: Mapping[str, tuple[str, Any, Any]], account: Account, options: LoadOptions
) -> DataSet:  # fmt: skip
    """Return the data set of parts that are each (what errors call it, images, labels)."""
    order = [part for part in (TRAIN, VALIDATION, TEST) if part in parts]
    samples, classes = make_samples([parts[part] for part in order], to_train=not options.only_test)
    made = dict(zip(order, samples, strict=True))
    dataset = make_dataset(
        name, made[TRAIN], made.get(VALIDATION), made.get(TEST), class_names=classes.names, account=account,
        least=least_images(options), options=options, notices=classes.notices,
    )  # fmt: skip
    return dataclasses.replace(dataset, columns=column_names(parts[order[0]][1]))


def _load_folder(path: Path, options: LoadOptions) -> DataSet:
    try:
        found = read_image_folder(path, options.follow_links, options.only_test)
    except DataError as error:
        inside = _other_data_below(path)
        if inside is not None and part_of(inside.name) is not None:
            raise DataError(
                f"{error}; {inside} has one part, of another kind: put the files of all parts into {inside.parent}"
            ) from None
        if inside is not None:
            raise DataError(f"{error}; {inside} has data: give that folder") from None
        raise
    return with_form(str(path), found.parts, found.classes, options, found.account)


def _other_data_below(path: Path, deepest: int = 3) -> Path | None:
    """Return a folder below `path`, an archive's own, that has data of another kind than class folders; else None."""
    for inside in sorted(each for each in path.iterdir() if each.is_dir() and not is_dropping(each.name)):
        try:
            load = _loader(inside)
        except (DataError, OSError):
            continue
        if load is _load_folder and deepest > 1:
            if (found := _other_data_below(inside, deepest - 1)) is not None:
                return found
        elif load is not None and load is not _load_folder:
            return inside
    return None


def _load_shards(
    source: str, shards: Mapping[str, Sequence[Path]], parts_named: bool, options: LoadOptions,
    folder: Path | None = None,
) -> DataSet:  # fmt: skip
    """Return the data set of tar shards; if they lie in a data folder, `folder` is that."""
    notes = []
    if folder is not None:
        used = {path.relative_to(folder).parts[0] for paths in shards.values() for path in paths}
        notes = notes_beside(folder, "tar shards", used)
        read = {path for paths in shards.values() for path in paths}
        inside = sorted({path.parent for path in read} - {folder})
        for place in inside:
            notes += notes_beside(place, "tar shards", {path.name for path in read if path.parent == place})
        notes += unread_files([folder, *inside], read)
    found = read_shard_set(shards, parts_named, options.only_test)
    account = found.account.with_notes(notes)
    return with_form(source, found.parts, found.classes, options, account, found.notices)


def _tested(dataset: DataSet, options: LoadOptions) -> DataSet:
    """Return the data set; with `only_test` one that has only what is to be tested, as its training part."""
    if not options.only_test or (dataset.test is None and not dataset.account.parts_named):
        return dataset
    if dataset.test is None:
        raise DataError(f"{dataset.name} has no test images to evaluate on")
    return dataclasses.replace(dataset, train=dataset.test, validation=None, test=None)


def _known_again(part: Items) -> Items:
    """Return a part with checksums of some of its images, by which a resumed run knows them, unless it draws them."""
    chosen = looked_at(part.labels, np.arange(min(LOOKED_AT, len(part))), 0)
    try:
        _, look = look_at_items(part, chosen, len(chosen))
    except DataError:  # none can be used: it is told when they are tested
        return part
    return dataclasses.replace(part, look=dataclasses.replace(look, draws=False))


def _load_items(datasets: Sequence[Any], options: LoadOptions) -> DataSet:
    parts, classes = make_items(
        list(zip(("training", "test"), datasets, strict=False)), to_train=not options.only_test
    )  # fmt: skip
    chosen = looked_at(parts[0].labels, np.arange(min(LOOKED_AT, len(parts[0]))), _MORE_ITEMS)
    sizes, look = look_at_items(parts[0], chosen, _ASKED_TWICE)
    parts[0] = dataclasses.replace(parts[0], look=look)
    shape = picture_shape(sizes, options)
    test: Part | None = _known_again(parts[1]) if len(parts) > 1 else None
    asked = (
        "items, asked for anew in each epoch: the object draws at random"
        if look.draws
        else "items, which were the same when asked for twice: each is asked for once, and kept (--cache 0 asks anew)"
    )
    account, name = Account(asked, {}, test is not None), type(datasets[0]).__name__
    notices = (*classes.notices, *exchanged_items(kinds_within(datasets[0])), *told_of_ends(sizes, shape, options))
    if any(isinstance(part, Items) and part.look.to_turn for part in (parts[0], test)):
        notices = (*notices, _TO_TURN)
    return _tested(
        make_dataset(
            name, parts[0], None, test, shape, classes.names, account, least_images(options), options, notices
        ),
        options,
    )
