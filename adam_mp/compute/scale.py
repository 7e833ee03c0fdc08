"""The scale of images' values: whether images have the values that a model was trained on, or a share of them.

Bytes from 0 to 255 are often divided by 255, or normalised, before they are given to other tools. A network that was
trained on bytes answers such images with wrong classes, and looks sure of them. So they are refused.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

_BYTES = "uint8"
_MARGIN = 0.25  # of the range of the training images, by which values may lie beyond it
_MOST_BEYOND = 0.5  # share of the values that may lie further out
_TIMES, _SOME_BEYOND = 50, 0.05  # or this share, where the largest value is so many times the largest to train on
_LARGE = 100.0  # a range up to so much cannot be one from 0 to 1
_SOME = 8  # images of which at least one has the dark pixels, or the light ones, that images of their kind have
_BELOW = 0.1  # the lowest normalised value is at least this share of the highest below 0
_DEEP = 1000.0  # images whose largest value is above this have more than 8 bits
_NORMALISED = 10.0  # normalised values lie between this and the same below 0
_LITTLE_MORE = 2.0  # the largest value that images from 0 to 1 may have, brightened or interpolated
_DEEPER = 16.0  # times the largest value of bytes, which values of 12 bits or more have


@dataclasses.dataclass(frozen=True)
class ValueScale:
    """The values of training images: `kind` is their dtype, "uint8" or "float32"; they go from `low` to `high`."""

    kind: str
    low: float
    high: float

    @classmethod
    def of(cls, images: np.ndarray) -> ValueScale:
        """Return the scale of images [n, ...]."""
        return cls(str(images.dtype), float(images.min()), float(images.max()))

    def as_dict(self) -> dict[str, Any]:
        """Return the scale as plain values."""
        return dataclasses.asdict(self)


BYTES = ValueScale(_BYTES, 0.0, 255.0)


def other_scale(images: np.ndarray, trained: ValueScale) -> str | None:
    """Say in words that `images` [n, ...] have another scale than the training images, and what to write; else None."""
    if not images.size:
        return None
    low, high = float(images.min()), float(images.max())
    if not np.isfinite(low + high):
        return "the images have values that are NaN or infinite; mend or remove these images"
    given = f"the images are {images.dtype} with values from {low:,.5g} to {high:,.5g}"
    if trained.kind == _BYTES and trained.high > _LARGE:  # and no masks or classes of 0 and 1
        return _not_bytes(images, low, high, given)
    range_of = f"those to train on had {trained.low:,.5g} to {trained.high:,.5g}"
    room = _MARGIN * (trained.high - trained.low)
    beyond = float(np.mean((images < trained.low - room) | (images > trained.high + room)))
    times_larger = max(abs(low), abs(high)) / (max(abs(trained.low), abs(trained.high)) or 1.0)
    if beyond > _MOST_BEYOND or (times_larger > _TIMES and beyond > _SOME_BEYOND):
        return f"{given}, {range_of}; scale the images as those to train on were scaled"
    pictures = images.shape[1:3] != (1, 1)
    if pictures and trained.low >= 0 and trained.high > _LARGE and low < 0 and max(-low, high) <= _NORMALISED:
        return f"{given}, {range_of}; give the values as they were before they were normalised"
    if pictures and images.dtype.kind in "biu" and images.dtype.itemsize == 1 and trained.high >= _DEEPER * BYTES.high:
        return f"{given}, {range_of}; scale the images as those to train on were scaled"
    if _is_share(images, low, high) and trained.high > _LARGE:
        return f"{given}, {range_of}; write 255 * images if they were divided by 255"
    if len(images) >= _SOME and pictures and _other_pictures(images, low, high, trained):
        return f"{given}, {range_of}; scale the images as those to train on were scaled"
    return None


def perhaps_other_scale(images: np.ndarray, trained: ValueScale, fewest: int = _SOME) -> str | None:
    """Say in words that `images` [n, ...] may have another scale than the training images; else None.

    They are far darker than those, or have no values below 0 where those have many: so are a few real pictures too. Of
    less than `fewest` images nothing is said.
    """
    if len(images) < fewest:
        return None
    low, high = float(images.min()), float(images.max())
    if low == high or not np.isfinite(low + high):
        return None
    far = 0 < _DEEPER * max(-low, high) <= max(-trained.low, trained.high)
    if not far and not (low >= 0 and -trained.low > _BELOW * trained.high > 0):
        return None
    return (
        f"values go from {low:,.5g} to {high:,.5g}, those to train on from {trained.low:,.5g} to {trained.high:,.5g}; "
        "if they are not meant so, scale the images as those were scaled"
    )


def almost_black(picture: np.ndarray, trained: ValueScale) -> str | None:
    """Say in words that a picture of a file, from 0 to 255, has values of 0 and 1 alone, as masks have; else None.

    None too if those to train on had such values.
    """
    if trained.high <= _LARGE or not 0 < picture.max(initial=0) <= 1:
        return None
    return (
        f"the largest value is 1 of 255, and those to train on went up to {trained.high:,.5g}; if values were divided "
        "by 255 and saved, multiply them by 255"
    )


def not_of_files(trained: ValueScale) -> str | None:
    """Say in words that images of 8 bits, with values from 0 to 255, have another scale than the training images.

    None if they have the same, or if it depends on the image: bytes in an array may be from 0 to 1, as in a file.
    """
    room = _MARGIN * BYTES.high
    if trained.kind == _BYTES or (trained.low >= -room and _LARGE < trained.high <= BYTES.high + room):
        return None
    return (
        f"images of 8 bits have values from 0 to 255, those to train on had {trained.low:,.5g} to {trained.high:,.5g}; "
        "give arrays that are scaled as those were: adam_mp.load(RUN).predict(images)"
    )


def _other_pictures(images: np.ndarray, low: float, high: float, trained: ValueScale) -> bool:
    """Tell whether several pictures lie in a part of the training images' range where pictures alone never lie.

    That is bytes where those had 16 bits; 0 to 1 where those were normalised; or normalised values where those had none
    below 0.
    """
    if low == high:  # blank images
        return False
    if trained.high > _DEEP and low >= 0:
        return high <= BYTES.high and trained.high >= _DEEPER * high
    if low >= 0:
        return low <= _BELOW * high <= _BELOW and -trained.low > _BELOW * trained.high > 0
    return trained.low >= 0 and float(np.mean(images < 0)) > _SOME_BEYOND


def _not_bytes(images: np.ndarray, low: float, high: float, given: str) -> str | None:
    trained = "those to train on were bytes from 0 to 255"
    if images.dtype == np.uint8:
        few = len(images) > 1 and low == 0 and high == 1  # no single dark image, but masks
        return f"{given}, {trained}; write 255 * images" if few else None
    if low < 0:
        return f"{given}, {trained}; give the values as they are stored: the model normalises them itself"
    if high > BYTES.high:
        return f"{given}, {trained}; scale them to 0 to 255"
    if _is_share(images, low, high):
        return f"{given}, {trained}; write 255 * images"
    return None


def _is_share(images: np.ndarray, low: float, high: float) -> bool:
    """Tell whether values are from 0 to 1, not all 0; or fractions from 0 to little more, as filters make of those."""
    if low < 0 or not 0 < high <= _LITTLE_MORE:
        return False
    return high <= 1 or (images.dtype.kind == "f" and bool((images != np.floor(images)).any()))
