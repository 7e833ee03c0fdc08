"""Items of a Python object: it has `len(dataset)`, and `dataset[i]` is an image and its label.

Other processes get the object by value (cloudpickle). If a script or notebook defined its class, they get the class
too, since they never import the user's script.
"""

from __future__ import annotations

import dataclasses
import operator
import zlib
from typing import Any

import numpy as np

from adam_mp.data.reading.faults import BadSample, Fault, SampleError
from adam_mp.errors import DataError

_LABELS = ("targets", "labels")


@dataclasses.dataclass(frozen=True)
class Items:
    """A part of a data set: the items of one Python object.

    `numbers` int64 [n] are the indices of the items that have a label, `labels` int32 [n] their labels. `rejected` are
    items that failed and were left out.
    """

    dataset: Any
    numbers: np.ndarray
    labels: np.ndarray
    rejected: tuple[BadSample, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def digest(self) -> int:
        """A fingerprint of numbers and labels; the images are not read."""
        return zlib.crc32(self.labels.data, zlib.crc32(self.numbers.data))


def is_item_source(source: Any) -> bool:
    """Tell whether `source` is an object with a length and items by index."""
    return hasattr(source, "__len__") and hasattr(source, "__getitem__") and not isinstance(source, (str, bytes, dict))


def make_items(dataset: Any, what: str) -> Items:
    """Return the items of a Python object; `what` names it in errors.

    Labels come from its `.targets` or `.labels`, or else from every item in turn; items that fail are left out. Raises
    DataError if labels are not whole numbers from 0, or if no item has one.
    """
    count = len(dataset)
    if count == 0:
        raise DataError(f"{what} is empty; expected at least one image")
    for name in _LABELS:
        given = getattr(dataset, name, None)
        if given is not None and len(given) == count:
            return Items(dataset, np.arange(count), _classes(np.asarray(given), what))
    numbers, labels, rejected = [], [], []
    failure: Exception | None = None
    for number in range(count):
        try:
            _, label = dataset[number]
            labels.append(operator.index(np.asarray(label).item()))
            numbers.append(number)
        except Exception as error:
            failure = failure or error
            rejected.append(BadSample(f"item {number} of the {what} data", Fault.BAD_ITEM))
    if failure is not None and not numbers:
        raise DataError(f"{what}: no item is (image, label); the first: {type(failure).__name__}: {failure}")
    return Items(dataset, np.array(numbers, np.int64), _classes(np.array(labels), what), tuple(rejected))


def _classes(labels: np.ndarray, what: str) -> np.ndarray:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise DataError(f"{what}: labels are {labels.dtype} of shape {labels.shape}; expected whole numbers from 0")
    return labels.astype(np.int32)


def item_pixels(dataset: Any, index: int, channels: int) -> np.ndarray:
    """Return the image of an item as uint8 [h, w, channels]; raises SampleError if the item has no such image."""
    try:
        pixels = np.asarray(dataset[index][0])
    except Exception:
        raise SampleError(Fault.BAD_ITEM) from None
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise SampleError(Fault.BAD_ITEM)
    if pixels.shape[2] == 1 and channels == 3:
        pixels = np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] != channels:
        raise SampleError(Fault.BAD_ITEM)
    return np.ascontiguousarray(pixels)


def item_size(dataset: Any, index: int) -> tuple[int, int, int]:
    """Return (height, width, channels) of an item's image; raises DataError if the item has no usable image."""
    try:
        pixels = np.asarray(dataset[index][0])
    except Exception as error:
        raise DataError(f"item {index} of the data set cannot be read: {type(error).__name__}: {error}") from None
    shape = (*pixels.shape, 1) if pixels.ndim == 2 else pixels.shape
    if pixels.dtype != np.uint8 or len(shape) != 3 or shape[2] not in (1, 3):
        raise DataError(
            f"item {index} of the data set has an image of {pixels.dtype} {pixels.shape}; expected uint8 "
            "[height, width] or [height, width, 1 or 3]"
        )
    return shape[0], shape[1], shape[2]
