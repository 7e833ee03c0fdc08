"""Whether images have the scale of those that a network was trained on: from 0 to 1, or from 0 to 255.

Values of another scale give an answer that means nothing. They are told only where they are so far off that no image
of the right scale could have them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_LOOKED_AT = 256  # images
_FAR = 20.0  # deviations of the training images
_COARSE = 16.0  # a deviation of the training images from which values from 0 to 1 are nearly black


def other_scale(images: np.ndarray, mean: Any, deviation: Any) -> str:
    """Return in words how the values of images [n, h, w, c] differ in scale from those trained on; "" if they do not.

    `mean` and `deviation` are those of the images trained on, of each channel or of all.
    """
    few = images[:: max(1, len(images) // _LOOKED_AT)]
    if not few.size:
        return ""
    values = few.astype(np.float64)
    least, most = values.min(), values.max()
    spread = np.sqrt((((values - mean) / deviation) ** 2).mean(axis=(0, 1, 2)))
    tiny = few.dtype.kind == "f" and least != most and max(-least, most) <= 1 and np.min(deviation) >= _COARSE
    if np.median(spread) <= _FAR and not (tiny and few.shape[1] * few.shape[2] > 1):
        return ""
    return (
        f"values go from {least:,.6g} to {most:,.6g}, but those trained on are about {np.mean(mean):,.4g} with a "
        f"deviation of {np.mean(deviation):,.4g}: give them in the same scale"
    )
