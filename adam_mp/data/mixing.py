"""Mixup and CutMix: a batch is mixed with itself in reverse, images and labels by the same share.

A data server mixes a batch in its ring slot, after its pictures are made and before the slot is published. So a slot
that a worker sees never changes, and a batch that is made again after a death is mixed once, not twice. The labels stay
apart: the slot notes the share, and the loss (`kernels.loss`) reads each image's label and that of its partner.

All draws depend on seed, epoch and batch alone, as the order of the epoch's samples does on seed and epoch.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from adam_mp.errors import SettingsError
from adam_mp.kernels.mixing import blend_images, exchange_rectangle

_DRAWS = 0x3178  # tells these draws from others of the same seed and epoch
_CUTS = 0.5  # probability of CutMix where a batch may have either


class Rectangle(NamedTuple):
    """Rows `top:bottom` and columns `left:right` of an image."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def pixels(self) -> int:
        """How many pixels it has."""
        return (self.bottom - self.top) * (self.right - self.left)


class Mix(NamedTuple):
    """How a batch is mixed: `mixed` is the share, 0 to 1, that each image and its label have of the partner's.

    The partner of image i of n is image n - 1 - i. In CutMix the images exchange `rectangle`, whose share of the pixels
    `mixed` is; it is None in mixup, where all pixels are blended.
    """

    mixed: float
    rectangle: Rectangle | None


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Which mixing a run draws from: `mixup` and `cutmix` are alpha of the distribution Beta(alpha, alpha), 0 for none.

    With both, each batch has one of them, either with probability 0.5.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __bool__(self) -> bool:
        """Whether anything is mixed."""
        return self.mixup > 0 or self.cutmix > 0

    def check(self, batch_size: int, image_shape: tuple[int, ...]) -> None:
        """Raise SettingsError if batches of so many images, of shape (h, w, c), cannot be mixed."""
        if self and batch_size < 2:
            raise SettingsError(
                f"{'--mixup' if self.mixup else '--cutmix'} mixes the images of a batch with each other, but a batch "
                "has one image; give a --batch-size of at least 2, better 16"
            )
        if self.cutmix and math.prod(image_shape[:2]) == 1:
            raise SettingsError(
                f"--cutmix exchanges parts of images, but the data are rows of {image_shape[-1]} features; leave it "
                "out, or give --mixup"
            )

    def draw(self, seed: int, epoch: int, batch: int, height: int, width: int) -> Mix:
        """Draw how batch number `batch` of `epoch` is mixed, images of [height, width] pixels.

        Mixup (Zhang et al. 2018, section 2): the share is Beta(alpha, alpha), one draw for the batch. CutMix (Yun et
        al. 2019, section 3.1): the rectangle has the root of such a share of the image's height and of its width; its
        middle is uniform in the image. It is rounded to whole pixels and ends where the image does.
        """
        generator = np.random.Generator(np.random.PCG64([seed, _DRAWS, epoch, batch]))
        cuts = generator.random() < _CUTS if self.mixup and self.cutmix else bool(self.cutmix)
        alpha = self.cutmix if cuts else self.mixup
        share = float(generator.beta(alpha, alpha)) if alpha else 0.0
        if not cuts:
            return Mix(share, None)
        side = math.sqrt(share)
        rectangle = Rectangle(
            *_cut(generator.random() * height, side * height, height),
            *_cut(generator.random() * width, side * width, width),
        )
        return Mix(rectangle.pixels / (height * width), rectangle)

    def mix(self, images: np.ndarray, seed: int, epoch: int, batch: int) -> float:
        """Mix the images of a batch in place, float32 [n, h, w, c]; return the share of the partner, 0 if none is."""
        count, height, width, _ = images.shape
        if not self or count < 2:
            return 0.0
        mixed, rectangle = self.draw(seed, epoch, batch, height, width)
        if rectangle is None:
            blend_images(images, mixed)
        else:
            exchange_rectangle(images, *rectangle)
        return mixed


def _cut(middle: float, length: float, size: int) -> tuple[int, int]:
    """Return begin and end, in whole pixels of 0 to `size`, of what is `length` long around `middle`."""
    return max(0, round(middle - length / 2)), min(size, round(middle + length / 2))
