"""Normalisation: how stored pixel values become what the network sees; measured on the training images."""

from __future__ import annotations

import dataclasses

import numpy as np

from adam_mp.data.reading.read_only import for_kernels
from adam_mp.data.reading.samples import Samples

_CLEARLY = 64  # of 255, by which a background is nearer to the opposite of the usual one
_FEW_OTHERS = 0.01  # share of images that may have the opposite background
_COLOUR_SAMPLES = 1000  # images; as many are enough to measure the directions of the colours


@dataclasses.dataclass(frozen=True)
class Normalization:
    """The network sees `(value - mean) / deviation`, per channel; deviation is the standard deviation.

    `fill` is the stored value that a warped picture shows outside of the image. `directions` is a matrix [c, c], by
    rows: its columns are the principal directions of the colours, each times the deviation along it.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    fill: float
    directions: tuple[tuple[float, ...], ...] = ()

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return mean, deviation and directions as the warp kernels take them, float32."""
        channels = len(self.mean)
        directions: np.ndarray = np.zeros((channels, channels), np.float32)
        if self.directions:
            directions[...] = self.directions
        return np.array(self.mean, np.float32), np.array(self.deviation, np.float32), directions


def is_blank(images: np.ndarray) -> bool:
    """Tell whether an image [h, w, c], or each of several [n, h, w, c], has one colour alone."""
    colours = images[..., :1, :1, :]
    return bool((images == colours).all())


def looks_inverted(background: float, fill: float) -> bool:
    """Tell whether a grey image with this background, from 0 to 255, has light and dark the other way round.

    `fill` is the usual background of the training images.
    """
    return abs(background - fill) > abs(255 - background - fill) + _CLEARLY


def even_background(images: np.ndarray, fill: float) -> bool:
    """Tell whether grey images [n, h, w, 1] all have the same kind of background, `fill`, light or dark."""
    return _inverted(images, fill) <= _FEW_OTHERS * len(images)


def mostly_inverted(images: np.ndarray, fill: float) -> bool:
    """Tell whether most of the grey images [n, h, w, 1] have light and dark the other way round, see above."""
    return _inverted(images, fill) > len(images) / 2


def _inverted(images: np.ndarray, fill: float) -> int:
    corners = np.median(images[:, [0, 0, -1, -1], [0, -1, 0, -1]].reshape(len(images), -1), axis=1)
    return sum(looks_inverted(float(corner), fill) for corner in corners)


def colour_row(image: np.ndarray) -> np.ndarray:
    """Return a flat float64 row of sums over an image [h, w, c], for `combine_rows`.

    The row holds: the number of pixels, the sums of values [c], the sums of products of values [c, c], and the values
    of the four corners [4, c].
    """
    channels = image.shape[2]
    flat = image.reshape(-1, channels).astype(np.float32)
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1]].reshape(-1)
    products = flat.T @ flat
    return np.concatenate([[len(flat)], flat.sum(axis=0, dtype=np.float64), products.reshape(-1), corners])


def row_length(channels: int) -> int:
    """Return the length of a `colour_row` of an image with `channels` channels."""
    return 1 + channels + channels * channels + 4 * channels


def combine_rows(rows: np.ndarray, channels: int) -> Normalization:
    """Return the normalisation of the images whose `colour_row`s are `rows` [n, row_length]."""
    sums = rows[:, : 1 + channels + channels * channels].sum(axis=0)
    pixels, mean = sums[0], sums[1 : 1 + channels] / sums[0]
    covariance = sums[1 + channels :].reshape(channels, channels) / pixels - np.outer(mean, mean)
    deviation = np.sqrt(np.maximum(np.diag(covariance), 0))
    variances, vectors = np.linalg.eigh(covariance)
    directions = vectors * np.sqrt(np.maximum(variances, 0))
    return Normalization(
        tuple(mean.tolist()),
        tuple(np.where(deviation > 0, deviation, 1.0).tolist()),
        float(np.median(rows[:, 1 + channels + channels * channels :])),
        tuple(map(tuple, directions.tolist())) if channels > 1 else (),
    )


def measure_normalization(samples: Samples, indices: np.ndarray) -> Normalization:
    """Measure the normalisation of `samples.images[indices]`; `fill` is the median of the corners.

    The directions of the colours are measured for images of 3 or 4 channels, on the first 1000 of them.
    """
    from adam_mp.kernels.statistics import channel_moments  # here, since a process that only normalises needs no kernel

    channels = samples.images.shape[3]
    moments = np.zeros((2, channels))
    channel_moments(for_kernels(samples.images), indices, moments)
    corners = samples.images[indices[:1000]][:, [0, 0, -1, -1], [0, -1, 0, -1]]
    deviation = np.where(moments[1] > 0, moments[1], 1.0)
    directions: tuple[tuple[float, ...], ...] = ()
    if channels in (3, 4):
        few = np.stack([colour_row(samples.images[index]) for index in indices[:_COLOUR_SAMPLES]])
        directions = combine_rows(few, channels).directions
    return Normalization(tuple(moments[0].tolist()), tuple(deviation.tolist()), float(np.median(corners)), directions)
