"""From what a user gives as data to a `DataSet`: the one module that knows all formats."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adam_mp.data.reading.array_files import has_array_files, read_array_files
from adam_mp.data.reading.dataset import DataSet, Part, make_dataset
from adam_mp.data.reading.decoding import image_size
from adam_mp.data.reading.depths import Depths
from adam_mp.data.reading.faults import SampleError, summary_of
from adam_mp.data.reading.idx import find_idx, read_idx
from adam_mp.data.reading.image_folder import ENDINGS, is_image_folder, part_folders, read_image_folder
from adam_mp.data.reading.items import is_item_source, item_size, make_items
from adam_mp.data.reading.labels import find_classes
from adam_mp.data.reading.options import LoadOptions
from adam_mp.data.reading.records import Records
from adam_mp.data.reading.samples import make_samples
from adam_mp.data.reading.shards import expand_braces, is_shard_name, read_shards, shards_by_part
from adam_mp.errors import DataError, SettingsError

EMBEDDED = "mnist"
_EMBEDDED_FOLDER = Path(__file__).parents[1] / "mnist"
_FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
          "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}  # fmt: skip
_USUAL_SIDE = 224
_LOOKED_AT = 64  # images whose headers decide the size and colours of all pictures
_LARGEST_SIDE = 4096  # pixels


def load_data(source: Any = EMBEDDED, options: LoadOptions | None = None) -> DataSet:
    """Return the data set of `source`; raises DataError if it is missing, damaged or inconsistent.

    `source` is one of

    - "mnist", the embedded data set;
    - a folder with the four IDX files, with class folders of images, with tar shards, or with .npy files;
    - tar shards by name, `name.tar` or `name-{00..31}.tar`; or an .npz file;
    - arrays: `(images, labels)`, `(images, labels, test_images, test_labels)` or `((images, labels), (test_images,
      test_labels))`;
    - an object whose items are (image, label), or a pair of such objects to train and to test on;
    - a DataSet, which is returned as it is.
    """
    options = options or LoadOptions()
    if isinstance(source, DataSet):
        return source
    if isinstance(source, (str, Path)):
        return _load_path(str(source), options)
    if isinstance(source, Sequence) and not _has_items(source):
        parts = list(source)
        if len(parts) == 2 and all(isinstance(part, Sequence) and len(part) == 2 for part in parts):
            parts = [*parts[0], *parts[1]]
        elif len(parts) == 2 and all(_has_items(part) for part in parts):
            return _load_items(parts, options)
        if len(parts) in (2, 4):
            named = [("training", *parts[:2]), *([("test", *parts[2:])] if len(parts) == 4 else [])]
            return _with_arrays("arrays", named, options)
    elif _has_items(source):
        return _load_items([source], options)
    raise DataError(
        f"data is {type(source).__name__}; expected a folder, (images, labels), "
        "(images, labels, test_images, test_labels), or an object whose items are (image, label)"
    )


def _has_items(source: Any) -> bool:
    """Tell whether `source` is an object whose items are (image, label); arrays and lists of arrays are not."""
    if not is_item_source(source) or isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        return False
    if isinstance(source, (list, tuple)):
        return len(source) > 4 and all(isinstance(item, tuple) and len(item) == 2 for item in source[:3])
    return True


def _load_path(source: str, options: LoadOptions) -> DataSet:
    if source == EMBEDDED:
        return _load_idx(_EMBEDDED_FOLDER, source, options)
    path = Path(source)
    if is_shard_name(source):
        return _load_shards(source, {"train": [Path(name) for name in expand_braces(source)]}, options)
    if path.is_file():
        return _load_arrays(path, options)
    if not path.is_dir():
        raise DataError(
            f"data folder {path} does not exist; give a folder with class folders, IDX files, tar shards or .npy "
            f"files, or {EMBEDDED!r}"
        )
    if any((path / (name + ending)).exists() for name in _FILES["train"] for ending in ("", ".gz")):
        return _load_idx(path, source, options)
    if shards := shards_by_part(path):
        return _load_shards(source, shards, options)
    if has_array_files(path):
        return _load_arrays(path, options)
    if part_folders(path) or is_image_folder(path):
        records, classes = read_image_folder(path, options.follow_links)
        return _with_form(source, records, classes, options)
    if any("-ubyte" in entry.name for entry in path.iterdir()):
        return _load_idx(path, source, options)  # raises an error that names the missing file
    beside = any(entry.name.lower().endswith(ENDINGS) for entry in path.iterdir())
    advice = "; put its images into a folder for each class" if beside else ""
    raise DataError(
        f"data folder {path} has no class folders with images, no IDX files of MNIST's names, no tar shards, no "
        f"images.npy and labels.npy{advice}"
    )


def _load_idx(folder: Path, name: str, options: LoadOptions) -> DataSet:
    parts = []
    for part, (images_name, labels_name) in _FILES.items():
        images = read_idx(find_idx(folder, images_name), 3)
        labels = read_idx(find_idx(folder, labels_name), 1)
        if len(images) != len(labels):
            raise DataError(f"{folder}: {images_name} has {len(images)} images, but {labels_name} {len(labels)} labels")
        parts.append((f"{part} set of {folder}", images, labels))
    return _with_arrays(name, parts, options)


def _load_arrays(path: Path, options: LoadOptions) -> DataSet:
    parts = [(f"{part} set of {path}", *pair) for part, pair in read_array_files(path).items()]
    return _with_arrays(str(path), parts, options)


def _with_arrays(name: str, parts: Sequence[tuple[str, Any, Any]], options: LoadOptions) -> DataSet:
    """Return the data set of (what errors call it, images, labels) to train on and, if there, to test on."""
    samples, classes = make_samples(parts)
    test = samples[1] if len(samples) > 1 else None
    return make_dataset(
        name, samples[0], None, test, class_names=classes.names, options=options, notices=classes.notices
    )


def _load_items(datasets: Sequence[Any], options: LoadOptions) -> DataSet:
    parts, classes = make_items(list(zip(("training", "test"), datasets, strict=False)))
    sizes, failure = [], None
    for index in parts[0].numbers[:_LOOKED_AT].tolist():
        try:
            sizes.append(item_size(datasets[0], index))
        except DataError as error:
            failure = failure or error  # only this item is bad: it is reported when it is to be trained
    if failure is not None and not sizes:
        raise failure
    shape = _shape(sizes, options)
    test: Part | None = parts[1] if len(parts) > 1 else None
    name = type(datasets[0]).__name__
    return make_dataset(name, parts[0], None, test, shape, classes.names, options, classes.notices)


def _load_shards(name: str, shards: Mapping[str, Sequence[Path]], options: LoadOptions) -> DataSet:
    read = {part: read_shards(paths) for part, paths in shards.items()}
    if "train" not in read:
        raise DataError(f"{name} has no training images")
    classes = find_classes(read["train"][1], f"tar shard {shards['train'][0]}")
    parts = {
        part: dataclasses.replace(records, labels=classes.number(plain, f"tar shard {shards[part][0]}"))
        for part, (records, plain) in read.items()
    }
    return _with_form(name, parts, classes.names, options, classes.notices)


def _with_form(
    name: str, parts: Mapping[str, Records], classes: Sequence[str], options: LoadOptions, notices: Sequence[str] = ()
) -> DataSet:
    """Return the data set of these parts; the first images decide the size, colours and depth of pictures."""
    if "train" not in parts or not len(parts["train"]):
        raise DataError(f"{name} has no training images")
    train = parts["train"]
    step = max(1, len(train) // _LOOKED_AT)
    sizes, faults, depths = [], [], Depths()
    for sample in range(0, len(train), step):
        try:
            content = train.table.read(sample, options.byte_limit)
            sizes.append(image_size(content, options))
        except SampleError as error:  # the sample is bad: it is reported when it is to be trained
            faults.append((train.table.place(sample), error))
        else:
            depths.look(content, options)
    if not sizes:
        raise DataError(f"none of the first images of {name} can be read; {summary_of(faults)}")
    shape = _shape(sizes, options)
    validation, test = (parts[part] if part in parts and len(parts[part]) else None for part in ("validation", "test"))
    options = dataclasses.replace(options, white=depths.white(options))
    return make_dataset(name, train, validation, test, shape, classes, options, (*notices, *depths.notices(options)))


def _shape(sizes: Sequence[tuple[int, int, int]], options: LoadOptions) -> tuple[int, int, int]:
    """Return height, width and channels of pictures: as `options` asks, or as all images are, or 224x224."""
    channels = options.channels or max(size[2] for size in sizes)
    if options.image_size is not None:
        return (*parse_image_size(options.image_size), channels)
    same = {size[:2] for size in sizes}
    if len(same) == 1 and max(sizes[0][:2]) <= _USUAL_SIDE:
        return (*sizes[0][:2], channels)
    return _USUAL_SIDE, _USUAL_SIDE, channels


def parse_image_size(text: str) -> tuple[int, int]:
    """Return the (height, width) that "224" or "192x256" stands for; raises SettingsError for other texts."""
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", str(text).strip())
    if match is None or not all(1 <= int(side) <= _LARGEST_SIDE for side in match.groups() if side is not None):
        raise SettingsError(f"image_size is {text!r}; expected pixels such as 224, or HEIGHTxWIDTH such as 192x256")
    return int(match[1]), int(match[2] or match[1])
