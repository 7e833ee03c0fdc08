"""How images in files are read: the one object of options that every command and the library use.

`train` makes it of its settings, and keeps it in the model. `evaluate` and `predict` take it from there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from adam_mp.errors import SettingsError

PIXEL_LIMIT = 100_000_000  # of one image; a photograph has 10 to 50 million
WHITE = 65535.0  # the largest value of 16 bits


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """How images in files are read; raises SettingsError for impossible values.

    `image_size` is "N" or "HxW" in pixels, `channels` 1 or 3; with None they follow from the images. `follow_links`
    says whether links to folders, and links that lead out of the data folder, are followed. `pixel_limit` is the most
    pixels that an image may have, in every format. `turned` says whether an image is turned as its EXIF orientation
    asks, which is how viewers show it. `white` is the value of grey images of 16 bits that becomes 255; with None it is
    measured on some images of a data set, and 65535 for a single image. Larger values become 255 too if they are
    `clipped`; otherwise, where white was measured, such an image is refused. With `only_test`, what is to be tested
    becomes the only part, "train": the test part, or all of data whose parts have no names.
    """

    image_size: str | None = None
    follow_links: bool = False
    channels: int | None = None
    pixel_limit: int = PIXEL_LIMIT
    turned: bool = True
    white: float | None = None
    clipped: bool = True
    only_test: bool = False

    def __post_init__(self) -> None:
        if self.pixel_limit < 1:
            raise SettingsError(f"--pixel-limit is {self.pixel_limit}; expected at least 1")
        if self.white is not None and not 0 < self.white < math.inf:
            raise SettingsError(f"--white is {self.white}; expected a number above 0, such as 4095")

    def as_dict(self) -> dict[str, Any]:
        """Return the options that a model keeps, as plain values; its network has size and channels."""
        return {name: getattr(self, name) for name in _KEPT}

    @classmethod
    def kept(cls, values: Mapping[str, Any]) -> LoadOptions:
        """Return the options that a model kept; models without any were trained on images as they are stored.

        Raises ValueError, KeyError or TypeError if `values` are damaged.
        """
        if not values:
            return cls(turned=False, white=WHITE)
        white = values["white"]
        return cls(
            follow_links=bool(values["follow_links"]), pixel_limit=int(values["pixel_limit"]),
            turned=bool(values["turned"]), white=None if white is None else float(white),
            clipped=bool(values.get("clipped", True)),
        )  # fmt: skip

    @property
    def byte_limit(self) -> int:
        """The most bytes that a file may have: 8 a pixel, not compressed, and 64 MB of notes and profiles."""
        return 8 * self.pixel_limit + (64 << 20)


_KEPT = ("follow_links", "pixel_limit", "turned", "white", "clipped")
