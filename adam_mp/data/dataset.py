"""Data sets: images with labels, checked when they are made, and how a training set is split and normalised."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adam_mp.data.idx import find_idx, read_idx
from adam_mp.errors import DataError, SettingsError
from adam_mp.kernels.statistics import channel_moments

EMBEDDED = "mnist"
_EMBEDDED_FOLDER = Path(__file__).parent / "mnist"
_FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
          "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Samples:
    """`images` uint8 or float32 [n, height, width, channels], and `labels` int32 [n], counted from 0."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Samples to train on and, perhaps, to test on. `classes` is one more than the highest training label."""

    name: str
    train: Samples
    test: Samples | None
    classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.train.images.shape[1:]  # type: ignore[return-value]

    @property
    def digest(self) -> int:
        """A fingerprint of the training samples, by which a resumed run knows its data again."""
        return zlib.crc32(self.train.images.data, zlib.crc32(self.train.labels.data))


@dataclasses.dataclass(frozen=True)
class Normalization:
    """What is done to stored values before the network sees them: `(value - mean) / deviation`, per channel.

    `fill` is the stored value that stands for the world outside an image when it is warped.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    fill: float


def load_data(source: Any = EMBEDDED) -> DataSet:
    """Make a data set of `source`; raises DataError if it is missing, damaged or inconsistent.

    `source` is "mnist" (embedded), a folder with the four IDX files, `(images, labels)`, `(images, labels,
    test_images, test_labels)`, `((images, labels), (test_images, test_labels))`, or a DataSet.
    """
    if isinstance(source, DataSet):
        return source
    if isinstance(source, (str, Path)):
        return _load_folder(_EMBEDDED_FOLDER if str(source) == EMBEDDED else Path(source), str(source))
    if isinstance(source, Sequence):
        parts = list(source)
        if len(parts) == 2 and all(isinstance(part, Sequence) and len(part) == 2 for part in parts):
            parts = [*parts[0], *parts[1]]
        if len(parts) in (2, 4):
            train = make_samples(parts[0], parts[1], "training")
            test = make_samples(parts[2], parts[3], "test") if len(parts) == 4 else None
            return make_dataset("arrays", train, test)
    raise DataError(
        f"data is {type(source).__name__}; expected a folder, (images, labels) "
        "or (images, labels, test_images, test_labels)"
    )


def _load_folder(folder: Path, name: str) -> DataSet:
    if not folder.is_dir():
        raise DataError(f"data folder {folder} does not exist; give a folder with IDX files, or {EMBEDDED!r}")
    parts = {}
    for part, (images_name, labels_name) in _FILES.items():
        images = read_idx(find_idx(folder, images_name), 3)
        labels = read_idx(find_idx(folder, labels_name), 1)
        if len(images) != len(labels):
            raise DataError(f"{folder}: {images_name} has {len(images)} images, but {labels_name} {len(labels)} labels")
        parts[part] = make_samples(images, labels, f"{part} set of {folder}")
    return make_dataset(name, parts["train"], parts["test"])


def make_samples(images: Any, labels: Any, what: str) -> Samples:
    """Check and convert images and labels; `what` names them in messages.

    Images [n, h, w], [n, h, w, c] or plain features [n, f]; uint8 stays, other numbers become float32.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 2:
        images = images[:, None, None, :]
    elif images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise DataError(
            f"{what}: images have shape {images.shape}; expected [n, h, w], [n, h, w, c] or features [n, f]"
        )
    if labels.ndim != 1 or len(labels) != len(images):
        raise DataError(
            f"{what}: {len(images)} images, but labels of shape {labels.shape}; expected one label an image"
        )
    if len(images) == 0:
        raise DataError(f"{what} is empty; expected at least one image")
    if 0 in images.shape:
        raise DataError(f"{what}: images have shape {images.shape[1:]}; expected at least one pixel and one channel")
    if not (np.issubdtype(images.dtype, np.number) or images.dtype == bool) or np.iscomplexobj(images):
        raise DataError(f"{what}: images are of type {images.dtype}; expected numbers")
    floating = np.issubdtype(labels.dtype, np.floating)
    if not (np.issubdtype(labels.dtype, np.integer) or (floating and np.all(labels == np.floor(labels)))):
        raise DataError(f"{what}: labels are of type {labels.dtype}; expected whole numbers from 0")
    if images.dtype != np.uint8:
        images = images.astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(images.reshape(len(images), -1)).all(axis=1))
        if bad.size:
            raise DataError(
                f"{what}: image {bad[0]} holds NaN or infinity ({bad.size} such images); remove or mend them"
            )
    return Samples(np.ascontiguousarray(images), np.ascontiguousarray(labels, np.int32))


def make_dataset(name: str, train: Samples, test: Samples | None) -> DataSet:
    """Put samples together, checking that labels and shapes agree."""
    classes = int(train.labels.max()) + 1
    if classes < 2:
        raise DataError(
            f"training labels of {name} are all {classes - 1}; expected at least two classes, counted from 0"
        )
    for what, samples in (("training", train), ("test", test)):
        if samples is None:
            continue
        wrong = np.flatnonzero((samples.labels < 0) | (samples.labels >= classes))
        if wrong.size:
            label = samples.labels[wrong[0]]
            raise DataError(
                f"{what} image {wrong[0]} of {name} has label {label}, outside the classes 0 to {classes - 1}"
            )
        if samples.images.shape[1:] != train.images.shape[1:] or samples.images.dtype != train.images.dtype:
            raise DataError(
                f"{what} images of {name} are {samples.images.dtype} {samples.images.shape[1:]}, "
                f"training images {train.images.dtype} {train.images.shape[1:]}; expected the same"
            )
    return DataSet(name, train, test, classes)


def split(count: int, validation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the training and validation indices, int64 and sorted, of `count` samples; drawn from the seed alone."""
    held_out = round(count * validation)
    if validation > 0 and held_out == 0:
        raise SettingsError(f"validation is {validation:g}, which is less than one of {count} images; give more, or 0")
    if held_out >= count:
        raise SettingsError(f"validation is {validation:g}, which leaves none of {count} images to train on")
    order = np.random.Generator(np.random.PCG64([seed, 0x5917])).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def measure_normalization(samples: Samples, indices: np.ndarray) -> Normalization:
    """Measure `samples.images[indices]`: mean and deviation per channel, and the usual value in the corners."""
    moments = np.zeros((2, samples.images.shape[3]))
    channel_moments(samples.images, indices, moments)
    corners = samples.images[indices[:1000]][:, [0, 0, -1, -1], [0, -1, 0, -1]]
    deviation = np.where(moments[1] > 0, moments[1], 1.0)
    return Normalization(tuple(moments[0].tolist()), tuple(deviation.tolist()), float(np.median(corners)))


def epoch_order(indices: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return the order in which `indices` are trained in `epoch`, drawn from (seed, epoch) alone."""
    generator = np.random.Generator(np.random.PCG64([seed, 0x0EDE, epoch]))
    return generator.permutation(indices)
