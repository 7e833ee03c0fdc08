"""Samples that are arrays: images and labels in memory, checked once when they are taken up."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from adam_mp.compute.columns import column_names
from adam_mp.compute.unclear import unclear_images
from adam_mp.data.reading.axes import UNKNOWN, odd_channels, order_of_images
from adam_mp.data.reading.features import check_columns, odd_features, rows_apart
from adam_mp.data.reading.labels import Classes, find_classes, plain_labels
from adam_mp.errors import DataError


@dataclasses.dataclass(frozen=True)
class Samples:
    """A part of a data set: `images` uint8 or float32 [n, height, width, channels], `labels` int32 [n] from 0."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def digest(self) -> int:
        """A fingerprint of images and labels."""
        return zlib.crc32(self.images.data, zlib.crc32(self.labels.data))


def make_samples(parts: Sequence[tuple[str, Any, Any]], to_train: bool = True) -> tuple[list[Samples], Classes]:
    """Return the samples of each part, and the classes of the first, which is the training part.

    Each part is (what errors call it, images, labels). Images may be [n, h, w], [n, h, w, c] or plain features [n, f];
    uint8 stays, other numbers become float32. `labels.plain_labels` says what labels may be, `labels.find_classes` what
    `to_train` is. Raises DataError if images or labels are not usable.
    """
    check_columns(parts)
    plain = []
    for what, images, labels in parts:
        pixels = _checked(images, labels, what)
        plain.append((what, pixels, plain_labels(labels, len(pixels), what)))
    what, pixels, labels = plain[0]
    classes = find_classes(labels, what, to_train=to_train)
    if line := odd_channels(pixels.shape[1:]):
        classes = dataclasses.replace(classes, notices=(*classes.notices, line))
    lines = [*odd_features(pixels, labels, column_names(parts[0][1]), what), *rows_apart(parts)]
    classes = dataclasses.replace(classes, notices=(*classes.notices, *lines))
    return [Samples(_stored(pixels, what), classes.number(labels, what)) for what, pixels, labels in plain], classes


def _checked(given: Any, labels: Any, what: str) -> np.ndarray:
    """Return images as [n, h, w, c], of whatever type of number they are; raises DataError."""
    if (why := unclear_images(given)) is not None:
        raise DataError(f"{what}: {why}")
    try:
        images: np.ndarray = np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:  # the last of a tensor that has gradients
        raise DataError(f"{what}: images are no array: {error}; expected images of one shape") from None
    if images.dtype.kind in "US":
        raise DataError(
            f"{what}: images are text, such as {str(images.flat[0] if images.size else '')[:60]!r}; expected arrays of "
            "pixels or features: to read image files, give the folder that has a folder for each class"
        )
    if images.dtype == object:
        raise DataError(
            f"{what}: images are an array of objects of shape {images.shape}; expected numbers of one shape, such as "
            "numpy.stack(images)"
        )
    if advice := order_of_images(images.shape, _length(labels)):
        raise DataError(
            f"{what}: images have shape {images.shape}, whose axes seem to be in another order; expected [n, height, "
            f"width, channels]; write images{advice}"
        )
    if images.ndim == 2:
        images = images[:, None, None, :]
    elif images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        swapped = "; are images and labels exchanged?" if images.ndim == 1 and np.ndim(labels) > 1 else ""
        raise DataError(
            f"{what}: images have shape {images.shape}; expected [n, h, w], [n, h, w, c] or features [n, f]{swapped}"
        )
    if len(images) == 0:
        raise DataError(f"{what} is empty; expected at least one image")
    if 0 in images.shape:
        raise DataError(f"{what}: images have shape {images.shape[1:]}; expected at least one pixel and one channel")
    if images.dtype.kind not in "biuf":
        raise DataError(f"{what}: images are of type {images.dtype}; expected numbers")
    return images


def _length(labels: Any) -> int:
    """Return how many labels there are, as far as it can be told before they are looked at; else UNKNOWN."""
    try:
        return len(labels) if len(labels) != 1 else int(np.size(labels))
    except (TypeError, ValueError):
        return UNKNOWN


def _stored(images: np.ndarray, what: str) -> np.ndarray:
    if images.dtype != np.uint8:
        with np.errstate(over="ignore"):  # too large for float32: found below, as infinity
            images = images.astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(images.reshape(len(images), -1)).all(axis=1))
        if bad.size:
            raise DataError(
                f"{what}: image {bad[0]} holds NaN or infinity ({bad.size} such images); remove or mend them"
            )
    return np.ascontiguousarray(images)
