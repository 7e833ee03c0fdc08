"""Images of which numpy makes another array than is meant: masked ones, and Pillow's in most modes or to be turned."""

from __future__ import annotations

from typing import Any

import numpy as np

_PLAIN_MODES = ("1", "L", "RGB", "I", "I;16", "I;16B", "I;16L", "F")  # whose array has grey values, or red, green, blue

_ORIENTATION = 0x112  # the tag of EXIF's that says how a photograph is to be turned, from 2 to 8 if at all


def unclear_images(given: Any) -> str | None:
    """Say in words why images, an array or a list, are not what their array has, and what to write; else None."""
    if is_masked(given):
        return "images are masked, which adam_mp does not know; write images.filled(0)"
    several = isinstance(given, (list, tuple)) or (isinstance(given, np.ndarray) and given.dtype == object)
    for image in given if several else (given,):
        if is_masked(image):
            return "images are masked, which adam_mp does not know; write image.filled(0)"
        mode = image.mode if hasattr(image, "getpalette") else _PLAIN_MODES[0]
        if mode not in _PLAIN_MODES:
            what = (
                "the numbers of a palette's colours" if mode.startswith("P") else "values that are not red, green, blue"
            )
            return f"images are of Pillow in mode {mode}, whose arrays have {what}; write image.convert('RGB'), or 'L'"
        if asks_to_turn(image):
            return (
                "images of Pillow have an EXIF orientation, which their arrays do not follow; write "
                "PIL.ImageOps.exif_transpose(image), or numpy.asarray(image) to have them as they are stored"
            )
    return None


def asks_to_turn(image: Any) -> bool:
    """Tell whether an image of Pillow has an EXIF orientation that asks to turn it; a damaged one asks nothing."""
    try:
        return hasattr(image, "getexif") and image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:
        return False


def is_masked(given: Any) -> bool:
    """Tell whether values of an array are masked: numpy takes what lies below the mask."""
    return isinstance(given, np.ma.MaskedArray) and bool(np.ma.getmaskarray(given).any())
