"""Images in memory as arrays, with labels, checked when they are made."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np

from adam_mp.errors import DataError


@dataclasses.dataclass(frozen=True)
class Samples:
    """`images` uint8 or float32 [n, height, width, channels], and `labels` int32 [n], counted from 0."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def digest(self) -> int:
        """A fingerprint of images and labels."""
        return zlib.crc32(self.images.data, zlib.crc32(self.labels.data))


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
