"""The transformations that multiply a data set, each with a range, written as `translate=2,rotate=10`."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from adam_mp.errors import SettingsError, nearest
from adam_mp.kernels.warp import RANGES

_LIMITS = {"translate": 1e4, "rotate": 180.0, "scale": 0.9, "shear": 80.0, "reflect": 1.0, "elastic": 1e4}
_SMALLEST_IMAGE = 8


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far images may be changed; every draw is uniform between minus and plus its range.

    `translate` and `elastic` in pixels, `rotate` and `shear` in degrees, `scale` as a fraction (0.1: 90% to 110%),
    `reflect` the probability of a left-right mirror image.
    """

    translate: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    reflect: float = 0.0
    elastic: float = 0.0

    def __post_init__(self) -> None:
        for name in RANGES:
            value = getattr(self, name)
            if not 0 <= value <= _LIMITS[name]:
                raise SettingsError(f"augment: {name} is {value:g}; expected 0 to {_LIMITS[name]:g}")

    @property
    def ranges(self) -> np.ndarray:
        """The ranges as the warp kernel takes them, float64 [6]."""
        return np.array([getattr(self, name) for name in RANGES])

    def __str__(self) -> str:
        return ",".join(f"{name}={getattr(self, name):g}" for name in RANGES if getattr(self, name)) or "none"


PRESETS = {"none": Augmentation(), "mnist": Augmentation(translate=2, rotate=10, scale=0.1, shear=5, elastic=0.8)}


def parse_augmentation(text: str, image_shape: tuple[int, ...]) -> Augmentation:
    """Make an augmentation of a preset's name or of `name=range` pairs.

    "auto" is "mnist" for images of at least 8x8 pixels and "none" for plain features.
    """
    is_image = min(image_shape[:2]) >= _SMALLEST_IMAGE
    if text == "auto":
        return PRESETS["mnist" if is_image else "none"]
    if text in PRESETS:
        return PRESETS[text]
    if "=" not in text:
        raise SettingsError(
            f"unknown augmentation {text!r}; {nearest(text, [*PRESETS, 'auto'])} (or give translate=2,rotate=10)"
        )
    values: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in RANGES:
            raise SettingsError(f"augment: unknown transformation {name!r}; {nearest(name, RANGES)}")
        try:
            values[name] = float(number)
        except ValueError:
            raise SettingsError(f"augment: {name} is {number!r}; expected a number") from None
    return Augmentation(**values)


def draw_key(*parts: int) -> int:
    """Return a 64-bit key for the random numbers of these parts, such as (seed, epoch)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
