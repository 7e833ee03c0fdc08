"""The order of an array's axes: images come as [n, height, width, channels]; other orders are refused, with the line.

A shape alone cannot prove an order. It is refused only where the order that is expected would make an image that nobody
has, while another order makes a usual one.
"""

from __future__ import annotations

from collections.abc import Sequence

_CHANNELS = (1, 3, 4)  # of usual images
_COLOURS = (3, 4)  # channels that may stand in the middle; images one pixel wide are measurements in time
UNKNOWN = -1
_FEW = 4  # channels that the last axis may have without a second look
_MANY = 32  # channels from which an image is unusual


def order_of_image(shape: Sequence[int]) -> str:
    """Return what to write after an image [a, b, c] whose channels seem to stand elsewhere than last; else ""."""
    if len(shape) != 3 or tuple(shape[:2]) == (1, 1) or shape[2] <= _FEW:
        return ""
    first, second, last = shape
    if first in _CHANNELS or first < second == last:
        return ".transpose(1, 2, 0)"
    return ".transpose(0, 2, 1)" if second in _COLOURS or first == last > second else ""


# What to write for an image -> for an array of images in which they are last, or first.
_LAST = {
    "": ".transpose(3, 0, 1, 2)", ".transpose(1, 2, 0)": ".transpose(3, 1, 2, 0)",
    ".transpose(0, 2, 1)": ".transpose(3, 0, 2, 1)",
}  # fmt: skip
_FIRST = {"": "", ".transpose(1, 2, 0)": ".transpose(0, 2, 3, 1)", ".transpose(0, 2, 1)": ".transpose(0, 1, 3, 2)"}


def order_of_images(shape: Sequence[int], labels: int) -> str:
    """Return what to write after an array of images whose axes are in another order than expected; "" if they are not.

    `labels` is the number of labels, one an image, or UNKNOWN.
    """
    if len(shape) in (2, 3, 4) and shape[0] != labels and shape[-1] == labels:
        grey = ".transpose(0, 2, 1)" if len(shape) == 4 and shape[1] == 1 and shape[2] > _FEW else ""
        image = order_of_image(shape[:3]) or grey
        return {2: ".T", 3: ".transpose(2, 0, 1)"}.get(len(shape)) or _LAST[image]
    return _FIRST[order_of_image(shape[1:])] if len(shape) == 4 and labels in (shape[0], UNKNOWN) else ""


def odd_channels(shape: Sequence[int]) -> str:
    """Return a line for the user if images [height, width, channels] have very many channels; else ""."""
    height, width, channels = shape
    if channels < _MANY or height * width == 1:
        return ""
    return (
        f"images have {channels} channels of {height}x{width} pixels: arrays are read as [n, height, width, channels]; "
        "if that is not meant, write images.transpose(...)"
    )
