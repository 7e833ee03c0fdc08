"""The order of an array's axes: images come as [n, height, width, channels]; other orders are refused, with the line.

A shape alone cannot prove an order. It is refused only where the order that is expected would make an image that nobody
has, while another order makes a usual one.
"""

from __future__ import annotations

from collections.abc import Sequence

_CHANNELS = (1, 3, 4)  # of usual images
_FEW = 4  # channels that the last axis may have without a second look
_MANY = 32  # channels from which an image is unusual


def order_of_image(shape: Sequence[int]) -> str:
    """Return what to write after an image [a, b, c] that looks channels-first: `.transpose(1, 2, 0)`; else ""."""
    if len(shape) != 3 or tuple(shape[:2]) == (1, 1) or shape[2] <= _FEW:
        return ""
    first, second, last = shape
    square = first < second == last
    return ".transpose(1, 2, 0)" if first in _CHANNELS or square else ""


def order_of_images(shape: Sequence[int], labels: int) -> str:
    """Return what to write after an array of images whose axes are in another order than expected; "" if they are not.

    `labels` is the number of labels, one an image.
    """
    if len(shape) in (2, 3, 4) and shape[0] != labels and shape[-1] == labels:
        last = ".transpose(3, 1, 2, 0)" if order_of_image(shape[:3]) else ".transpose(3, 0, 1, 2)"
        return {2: ".T", 3: ".transpose(2, 0, 1)", 4: last}[len(shape)]
    if len(shape) == 4 and order_of_image(shape[1:]):
        return ".transpose(0, 2, 3, 1)"
    return ""


def odd_channels(shape: Sequence[int]) -> str:
    """Return a line for the user if images [height, width, channels] have very many channels; else ""."""
    height, width, channels = shape
    if channels < _MANY or height * width == 1:
        return ""
    return (
        f"images have {channels} channels of {height}x{width} pixels: arrays are read as [n, height, width, channels]; "
        "if that is not meant, write images.transpose(...)"
    )
