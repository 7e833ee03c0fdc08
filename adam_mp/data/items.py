"""Data sets that are Python objects: `len(dataset)`, and `dataset[i]` gives an image and its label.

The object goes to the processes by value (cloudpickle), its class too where a script or notebook defined it, since they
never import the user's script.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np

from adam_mp.data.faults import Fault, SampleError
from adam_mp.errors import DataError

_LABELS = ("targets", "labels")


@dataclasses.dataclass(frozen=True)
class Items:
    """One data-set object with the labels int32 [n] of its samples."""

    dataset: Any
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def digest(self) -> int:
        """A fingerprint of the labels; the images are not read for it."""
        return zlib.crc32(self.labels.data)


def is_item_source(source: Any) -> bool:
    """Tell whether `source` is an object with a length whose items can be had by number."""
    return hasattr(source, "__len__") and hasattr(source, "__getitem__") and not isinstance(source, (str, bytes, dict))


def make_items(dataset: Any, what: str) -> Items:
    """Take up a data-set object: its labels from `.targets` or `.labels`, or else from every item in turn."""
    count = len(dataset)
    if count == 0:
        raise DataError(f"{what} is empty; expected at least one image")
    for name in _LABELS:
        given = getattr(dataset, name, None)
        if given is not None and len(given) == count:
            labels = np.asarray(given)
            break
    else:
        labels = np.array([_label(dataset, index, what) for index in range(count)])
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise DataError(f"{what}: labels are {labels.dtype} of shape {labels.shape}; expected whole numbers from 0")
    return Items(dataset, labels.astype(np.int32))


def _label(dataset: Any, index: int, what: str) -> int:
    try:
        _, label = dataset[index]
        return int(label)
    except Exception as error:
        raise DataError(f"{what}: item {index} is no (image, label): {type(error).__name__}: {error}") from None


def item_pixels(dataset: Any, index: int, channels: int) -> np.ndarray:
    """Return the image of an item as uint8 [h, w, channels]; raises SampleError for anything else."""
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
    """Return (height, width, channels) of an item's image; raises DataError if it is none."""
    try:
        pixels = np.asarray(dataset[index][0])
    except Exception as error:
        raise DataError(f"item {index} of the data set cannot be had: {type(error).__name__}: {error}") from None
    shape = (*pixels.shape, 1) if pixels.ndim == 2 else pixels.shape
    if pixels.dtype != np.uint8 or len(shape) != 3 or shape[2] not in (1, 3):
        raise DataError(
            f"item {index} of the data set has an image of {pixels.dtype} {pixels.shape}; expected uint8 "
            "[height, width] or [height, width, 1 or 3]"
        )
    return shape[0], shape[1], shape[2]
