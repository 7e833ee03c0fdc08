"""The transformations that multiply a data set, each with a range, written as `translate=2,rotate=10`."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adam_mp.errors import SettingsError, shown
from adam_mp.kernels.draw import TRANSFORMATIONS
from adam_mp.proposals import nearest

_SMALLEST_IMAGE, _SMALLEST_PHOTOGRAPH, _PHOTOGRAPH_CHANNELS = 8, 64, 3


def _range(name: str, given: Any) -> float:
    """Return the range of a transformation as a float; raises SettingsError if it is not a number, or too large."""
    most = TRANSFORMATIONS[name].most
    try:
        value = float(given)
    except (TypeError, ValueError):
        raise SettingsError(f"augment: {name} is {shown(given)}; expected a number") from None
    if not 0 <= value <= most:
        raise SettingsError(f"augment: {name} is {value:g}; expected 0 to {most:g}")
    return value


@dataclasses.dataclass(frozen=True, init=False)
class Augmentation:
    """How far images may be changed: a range for each transformation, 0 for those that are not named.

    For example `Augmentation(rotate=10, reflect=0.5)`. `kernels.draw.TRANSFORMATIONS` has the transformations and says
    what their ranges mean; `values` are the ranges in its order. Raises SettingsError for an unknown transformation, or
    a range outside its limits.
    """

    values: tuple[float, ...]

    def __init__(self, /, **ranges: Any) -> None:
        values = dict.fromkeys(TRANSFORMATIONS, 0.0)
        for name, given in ranges.items():
            if name not in values:
                raise SettingsError(f"augment: unknown transformation {shown(name)}; {nearest(name, values)}")
            values[name] = _range(name, given)
        object.__setattr__(self, "values", tuple(values.values()))

    def __getitem__(self, name: str) -> float:
        """Return the range of a transformation."""
        return self.values[tuple(TRANSFORMATIONS).index(name)]

    def without(self, name: str) -> Augmentation:
        """Return the augmentation without a transformation."""
        return Augmentation(**{each: self[each] for each in TRANSFORMATIONS if each != name})

    @property
    def ranges(self) -> np.ndarray:
        """The ranges as the warp kernel takes them, float64."""
        return np.array(self.values)

    def __str__(self) -> str:
        pairs = zip(TRANSFORMATIONS, self.values, strict=True)
        return ",".join(f"{name}={value:g}" for name, value in pairs if value) or "none"


PRESETS = {
    "none": Augmentation(),
    "mnist": Augmentation(translate=2, rotate=10, scale=0.1, shear=5, elastic=0.8),
    "imagenet": Augmentation(reflect=0.5, crop=0.08, colour=0.1),
}


_SIDES = {
    "left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise",
    "anticlockwise": "clockwise", "cw": "ccw", "ccw": "cw",
}  # fmt: skip
_SIDE = re.compile(rf"(?<![a-z])(?:{'|'.join(_SIDES)})(?![a-z])")


def parse_augmentation(text: str | Mapping[str, float], image_shape: tuple[int, ...]) -> Augmentation:
    """Return the augmentation that a preset's name, a text `name=range,...` or a mapping name -> range stands for.

    "auto" is "imagenet" for colour images of at least 64x64 pixels, "mnist" for other images of at least 8x8, and
    "none" for smaller ones and plain features. Raises SettingsError as `Augmentation` does.
    """
    if not isinstance(text, str):
        return Augmentation(**{str(name): number for name, number in text.items()})
    if text == "auto":
        smallest = min(image_shape[:2])
        photographs = smallest >= _SMALLEST_PHOTOGRAPH and image_shape[2] == _PHOTOGRAPH_CHANNELS
        return PRESETS["imagenet" if photographs else "mnist" if smallest >= _SMALLEST_IMAGE else "none"]
    if text in PRESETS:
        return PRESETS[text]
    if "=" not in text:
        raise SettingsError(
            f"unknown augmentation {shown(text)}; {nearest(text, [*PRESETS, 'auto'])} (or give translate=2,rotate=10)"
        )
    parts = (part.partition("=") for part in text.split(","))
    return Augmentation(**{name.strip(): number.strip() for name, _, number in parts})


def mirrored_names(names: Sequence[str]) -> tuple[str, str] | None:
    """Return the first two names of classes that are mirror images of each other by a word, such as left and right."""
    known = {name.lower(): name for name in names}
    for name in names:
        swapped = _SIDE.sub(lambda found: _SIDES[found[0]], name.lower())
        if swapped != name.lower() and swapped in known:
            return name, known[swapped]
    return None


def draw_key(*parts: int) -> int:
    """Return a 64-bit key for the random numbers of these parts, such as (seed, epoch)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
