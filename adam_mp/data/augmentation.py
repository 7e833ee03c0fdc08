"""The transformations that multiply a data set, each with a range, written as `translate=2,rotate=10`."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from adam_mp.errors import SettingsError, shown
from adam_mp.kernels.draw import TRANSFORMATIONS
from adam_mp.proposals import nearest

_SMALLEST_IMAGE, _SMALLEST_PHOTOGRAPH, _PHOTOGRAPH_CHANNELS = 8, 64, 3


def _range(name: str, given: Any) -> float:
    """Return the range of a transformation as a float; raises SettingsError if it is none of it."""
    most, _, words, whole = TRANSFORMATIONS[name]
    if isinstance(given, str) and given in words:
        return words[given]
    expected = " or ".join([*([f"{'a whole number from ' if whole else ''}0 to {most:g}"] if most else []), *words])
    try:
        value = float(given)
    except (TypeError, ValueError):
        more = f" or {' or '.join(words)}" if words else ""
        what = f"a number{more}" if most else expected
        raise SettingsError(f"augment: {name} is {shown(given)}; expected {what}") from None
    if 0 <= value <= most and not (whole and value % 1):
        return value
    raise SettingsError(f"augment: {name} is {value:g}; expected {expected}")


def _as_given(name: str, value: float) -> float | str:
    """Return what `_range` turns into the value: the word that stands for it, or the value."""
    return next((word for word, number in TRANSFORMATIONS[name].words.items() if number == value), value)


@dataclasses.dataclass(frozen=True, init=False)
class Augmentation:
    """How far images may be changed: a range for each transformation, 0 for those that are not named.

    For example `Augmentation(rotate=10, reflect="alternate")`. `kernels.draw.TRANSFORMATIONS` has them all, and
    says what their ranges mean; `values` are the ranges in its order. Raises SettingsError for an unknown
    transformation, or a range outside its limits.
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
        return Augmentation.of(0.0 if each == name else self[each] for each in TRANSFORMATIONS)

    @classmethod
    def of(cls, values: Iterable[float]) -> Augmentation:
        """Return the augmentation with these `values`; raises SettingsError for a range outside its limits."""
        pairs = zip(TRANSFORMATIONS, values, strict=True)
        return cls(**{name: _as_given(name, value) for name, value in pairs})

    @property
    def ranges(self) -> np.ndarray:
        """The ranges as the warp kernel takes them, float64."""
        return np.array(self.values)

    def __str__(self) -> str:
        pairs = zip(TRANSFORMATIONS, self.values, strict=True)
        given = ((name, _as_given(name, value)) for name, value in pairs if value)
        return ",".join(f"{name}={each if isinstance(each, str) else f'{each:g}'}" for name, each in given) or "none"


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


def parse_augmentation(text: str | Mapping[str, float | str], image_shape: tuple[int, ...]) -> Augmentation:
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


def picture_key(seed: int, epoch: int) -> int:
    """Return the 64-bit key for the draws of an epoch's pictures.

    The upper half is a digest of the seed, the lower the epoch: `kernels.draw` reads it where mirror images alternate.
    """
    return draw_key(seed) >> 32 << 32 | epoch & 0xFFFFFFFF
