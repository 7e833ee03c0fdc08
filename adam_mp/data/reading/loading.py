"""From what a user calls the data to a `DataSet`: one place that knows all forms."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adam_mp.data.reading.array_files import has_array_files, read_array_files
from adam_mp.data.reading.dataset import DataSet, Part, make_dataset
from adam_mp.data.reading.decoding import PIXEL_LIMIT, byte_limit, image_size
from adam_mp.data.reading.faults import SampleError
from adam_mp.data.reading.idx import find_idx, read_idx
from adam_mp.data.reading.image_folder import ENDINGS, is_image_folder, part_folders, read_image_folder
from adam_mp.data.reading.items import is_item_source, item_size, make_items
from adam_mp.data.reading.records import Records
from adam_mp.data.reading.samples import make_samples
from adam_mp.data.reading.shards import expand_braces, is_shard_name, read_shards, shards_by_part
from adam_mp.errors import DataError, SettingsError

EMBEDDED = "mnist"
_EMBEDDED_FOLDER = Path(__file__).parents[1] / "mnist"
_FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
          "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}  # fmt: skip
_USUAL_SIDE = 224
_LOOKED_AT = 64  # images whose headers tell size and colour of all
_LARGEST_SIDE = 4096


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """How images in files are taken up.

    `image_size` "N" or "HxW", `channels` 1 or 3; None: as the images are. `follow_links`: whether links may leave the
    folder.
    """

    image_size: str | None = None
    follow_links: bool = False
    channels: int | None = None


def load_data(source: Any = EMBEDDED, options: LoadOptions | None = None) -> DataSet:
    """Make a data set of `source`; raises DataError if it is missing, damaged or inconsistent.

    `source` is "mnist" (embedded); a folder with the four IDX files, or of class folders with images, or with
    tar shards, or with .npy files; a shard or shards, `name-{00..31}.tar`; an .npz file; `(images, labels)`, `(images,
    labels, test_images, test_labels)`, `((images, labels), (test_images, test_labels))`; an object whose items are
    (image, label), or a pair of them to train and test on; or a DataSet.
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
            train = make_samples(parts[0], parts[1], "training")
            test = make_samples(parts[2], parts[3], "test") if len(parts) == 4 else None
            return make_dataset("arrays", train, None, test)
    elif _has_items(source):
        return _load_items([source], options)
    raise DataError(
        f"data is {type(source).__name__}; expected a folder, (images, labels), "
        "(images, labels, test_images, test_labels), or an object whose items are (image, label)"
    )


def _has_items(source: Any) -> bool:
    """Tell whether `source` is a data-set object; arrays and plain lists of arrays are not."""
    if not is_item_source(source) or isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        return False
    if isinstance(source, (list, tuple)):
        return len(source) > 4 and all(isinstance(item, tuple) and len(item) == 2 for item in source[:3])
    return True


def _load_path(source: str, options: LoadOptions) -> DataSet:
    if source == EMBEDDED:
        return _load_idx(_EMBEDDED_FOLDER, source)
    path = Path(source)
    if is_shard_name(source):
        return _with_form(source, {"train": read_shards([Path(name) for name in expand_braces(source)])}, (), options)
    if path.is_file():
        return _load_arrays(path)
    if not path.is_dir():
        raise DataError(
            f"data folder {path} does not exist; give a folder with class folders, IDX files, tar shards or .npy "
            f"files, or {EMBEDDED!r}"
        )
    if any((path / (name + ending)).exists() for name in _FILES["train"] for ending in ("", ".gz")):
        return _load_idx(path, source)
    if shards := shards_by_part(path):
        return _with_form(source, {part: read_shards(files) for part, files in shards.items()}, (), options)
    if has_array_files(path):
        return _load_arrays(path)
    if part_folders(path) or is_image_folder(path):
        records, classes = read_image_folder(path, options.follow_links)
        return _with_form(source, records, classes, options)
    if any("-ubyte" in entry.name for entry in path.iterdir()):
        return _load_idx(path, source)  # says what it lacks
    beside = any(entry.name.lower().endswith(ENDINGS) for entry in path.iterdir())
    advice = "; put its images into a folder for each class" if beside else ""
    raise DataError(
        f"data folder {path} has no class folders with images, no IDX files of MNIST's names, no tar shards, no "
        f"images.npy and labels.npy{advice}"
    )


def _load_idx(folder: Path, name: str) -> DataSet:
    parts = {}
    for part, (images_name, labels_name) in _FILES.items():
        images = read_idx(find_idx(folder, images_name), 3)
        labels = read_idx(find_idx(folder, labels_name), 1)
        if len(images) != len(labels):
            raise DataError(f"{folder}: {images_name} has {len(images)} images, but {labels_name} {len(labels)} labels")
        parts[part] = make_samples(images, labels, f"{part} set of {folder}")
    return make_dataset(name, parts["train"], None, parts["test"])


def _load_arrays(path: Path) -> DataSet:
    parts = {part: make_samples(*pair, f"{part} set of {path}") for part, pair in read_array_files(path).items()}
    return make_dataset(str(path), parts["train"], None, parts.get("test"))


def _load_items(datasets: Sequence[Any], options: LoadOptions) -> DataSet:
    parts = [make_items(dataset, what) for dataset, what in zip(datasets, ("training", "test"), strict=False)]
    sizes, failure = [], None
    for index in parts[0].numbers[:_LOOKED_AT].tolist():
        try:
            sizes.append(item_size(datasets[0], index))
        except DataError as error:
            failure = failure or error  # of one item: it will be named when its turn comes
    if failure is not None and not sizes:
        raise failure
    shape = _shape(type(datasets[0]).__name__, sizes, options)
    test: Part | None = parts[1] if len(parts) > 1 else None
    names = getattr(datasets[0], "classes", ())
    names = tuple(map(str, names)) if len(names) > int(parts[0].labels.max()) else ()
    return make_dataset(type(datasets[0]).__name__, parts[0], None, test, shape, names)


def _with_form(name: str, parts: Mapping[str, Records], classes: Sequence[str], options: LoadOptions) -> DataSet:
    """Choose the size and colours of the pictures, and put the parts together."""
    if "train" not in parts or not len(parts["train"]):
        raise DataError(f"{name} has no training images")
    train = parts["train"]
    step = max(1, len(train) // _LOOKED_AT)
    sizes = []
    for sample in range(0, len(train), step):
        try:
            sizes.append(image_size(train.table.read(sample, byte_limit(PIXEL_LIMIT))))
        except SampleError:
            continue  # it will be named when its turn comes
    shape = _shape(name, sizes, options)
    validation, test = (parts[part] if part in parts and len(parts[part]) else None for part in ("validation", "test"))
    return make_dataset(name, train, validation, test, shape, classes)


def _shape(name: str, sizes: Sequence[tuple[int, int, int]], options: LoadOptions) -> tuple[int, int, int]:
    """Return height, width and channels of the pictures: as asked, or as all images are, or 224x224."""
    if not sizes:
        raise DataError(f"none of the first images of {name} can be read; expected JPEG, PNG, BMP or WebP")
    channels = options.channels or max(size[2] for size in sizes)
    if options.image_size is not None:
        return (*parse_image_size(options.image_size), channels)
    same = {size[:2] for size in sizes}
    if len(same) == 1 and max(sizes[0][:2]) <= _USUAL_SIDE:
        return (*sizes[0][:2], channels)
    return _USUAL_SIDE, _USUAL_SIDE, channels


def parse_image_size(text: str) -> tuple[int, int]:
    """Return (height, width) of "224" or "192x256"; raises SettingsError."""
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", str(text).strip())
    if match is None or not all(1 <= int(side) <= _LARGEST_SIDE for side in match.groups() if side is not None):
        raise SettingsError(f"image_size is {text!r}; expected pixels such as 224, or HEIGHTxWIDTH such as 192x256")
    return int(match[1]), int(match[2] or match[1])
