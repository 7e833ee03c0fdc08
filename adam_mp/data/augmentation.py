"""The transformations that multiply a data set, each with a range, written as `translate=2,rotate=10`."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from adam_mp.errors import SettingsError, nearest
from adam_mp.kernels.draw import RANGES

_LIMITS = {
    "translate": 1e4, "rotate": 180.0, "scale": 0.9, "shear": 80.0, "reflect": 1.0, "elastic": 1e4, "crop": 1.0,
    "brightness": 0.99, "contrast": 0.99, "colour": 10.0, "noise": 1e4, "cutout": 1.0,
}  # fmt: skip
_SMALLEST_IMAGE, _SMALLEST_PHOTOGRAPH, _PHOTOGRAPH_CHANNELS = 8, 64, 3


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far images may be changed; draws are uniform between minus and plus the range where nothing else is said.

    `translate` and `elastic` in pixels, `rotate` and `shear` in degrees, `scale` as a fraction (0.1: 90% to 110%),
    `reflect` the probability of a left-right mirror image, `crop` the smallest share of the image's area that is shown
    (0: no cropping), up to a third longer or shorter in shape; `brightness` and `contrast` as fractions, `colour` the
    deviation along the principal directions of the data set's colours (0.1 in AlexNet), `noise` its deviation in stored
    values, `cutout` the side of a square that is blanked, as a fraction of the shorter side.
    """

    translate: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    reflect: float = 0.0
    elastic: float = 0.0
    crop: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    colour: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0

    def __post_init__(self) -> None:
        for name in RANGES:
            value = getattr(self, name)
            if not 0 <= value <= _LIMITS[name]:
                raise SettingsError(f"augment: {name} is {value:g}; expected 0 to {_LIMITS[name]:g}")

    @property
    def ranges(self) -> np.ndarray:
        """The ranges as the warp kernel takes them, float64, in the order of `RANGES`."""
        return np.array([getattr(self, name) for name in RANGES])

    def __str__(self) -> str:
        return ",".join(f"{name}={getattr(self, name):g}" for name in RANGES if getattr(self, name)) or "none"


PRESETS = {
    "none": Augmentation(),
    "mnist": Augmentation(translate=2, rotate=10, scale=0.1, shear=5, elastic=0.8),
    "imagenet": Augmentation(reflect=0.5, crop=0.08, colour=0.1),
}


def parse_augmentation(text: str | Mapping[str, float], image_shape: tuple[int, ...]) -> Augmentation:
    """Make an augmentation of a preset's name, of `name=range` pairs, or of a table of them.

    "auto" is "imagenet" for colour images of at least 64x64 pixels, "mnist" for others of at least 8x8, and "none" for
    plain features.
    """
    if not isinstance(text, str):
        return _from_table(text)
    if text == "auto":
        smallest = min(image_shape[:2])
        photographs = smallest >= _SMALLEST_PHOTOGRAPH and image_shape[2] == _PHOTOGRAPH_CHANNELS
        return PRESETS["imagenet" if photographs else "mnist" if smallest >= _SMALLEST_IMAGE else "none"]
    if text in PRESETS:
        return PRESETS[text]
    if "=" not in text:
        raise SettingsError(
            f"unknown augmentation {text!r}; {nearest(text, [*PRESETS, 'auto'])} (or give translate=2,rotate=10)"
        )
    parts = (part.partition("=") for part in text.split(","))
    return _from_table({name.strip(): number.strip() for name, _, number in parts})


def _from_table(table: Mapping[str, Any]) -> Augmentation:
    values: dict[str, float] = {}
    for name, number in table.items():
        if name not in RANGES:
            raise SettingsError(f"augment: unknown transformation {name!r}; {nearest(name, RANGES)}")
        try:
            values[name] = float(number)
        except (TypeError, ValueError):
            raise SettingsError(f"augment: {name} is {number!r}; expected a number") from None
    return Augmentation(**values)


def draw_key(*parts: int) -> int:
    """Return a 64-bit key for the random numbers of these parts, such as (seed, epoch)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
