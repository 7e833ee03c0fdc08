"""What is done to stored values before the network sees them, measured on the training images."""

from __future__ import annotations

import dataclasses

import numpy as np

from adam_mp.data.samples import Samples
from adam_mp.kernels.statistics import channel_moments

_COLOUR_SAMPLES = 1000  # images enough to know the directions of their colours


@dataclasses.dataclass(frozen=True)
class Normalization:
    """`(value - mean) / deviation`, per channel.

    `fill` is the stored value that stands for the world outside an image when it is warped. `directions` are the
    principal directions of the colours, each times its deviation, as the columns of a [c, c] matrix given by rows.
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


@dataclasses.dataclass(frozen=True)
class ColourSums:
    """Sums over pixels: how many, of the values [c], of their products [c, c]; `corners` are values of image corners."""

    pixels: int
    values: np.ndarray
    products: np.ndarray
    corners: np.ndarray

    @classmethod
    def of(cls, images: list[np.ndarray]) -> ColourSums:
        """Sum over images [h, w, c]."""
        channels = images[0].shape[2] if images else 1
        values, products, pixels, corners = np.zeros(channels), np.zeros((channels, channels)), 0, []
        for image in images:
            flat = image.reshape(-1, channels).astype(np.float64)
            values += flat.sum(axis=0)
            products += flat.T @ flat
            pixels += len(flat)
            corners.append(image[[0, 0, -1, -1], [0, -1, 0, -1]].reshape(-1).astype(np.float64))
        return cls(pixels, values, products, np.concatenate(corners) if corners else np.zeros(0))

    def normalization(self) -> Normalization:
        """Return mean, deviation, and the directions of the colours."""
        mean = self.values / self.pixels
        covariance = self.products / self.pixels - np.outer(mean, mean)
        variances, vectors = np.linalg.eigh(covariance)
        deviation = np.sqrt(np.maximum(np.diag(covariance), 0))
        directions = vectors * np.sqrt(np.maximum(variances, 0))
        return Normalization(
            tuple(mean.tolist()),
            tuple(np.where(deviation > 0, deviation, 1.0).tolist()),
            float(np.median(self.corners)),
            tuple(map(tuple, directions.tolist())),
        )


def measure_normalization(samples: Samples, indices: np.ndarray) -> Normalization:
    """Measure `samples.images[indices]`: mean and deviation per channel, and the usual value in the corners."""
    moments = np.zeros((2, samples.images.shape[3]))
    channel_moments(samples.images, indices, moments)
    corners = samples.images[indices[:1000]][:, [0, 0, -1, -1], [0, -1, 0, -1]]
    deviation = np.where(moments[1] > 0, moments[1], 1.0)
    directions: tuple[tuple[float, ...], ...] = ()
    if samples.images.shape[3] > 1:
        few = [samples.images[index] for index in indices[:_COLOUR_SAMPLES]]
        directions = ColourSums.of(few).normalization().directions
    return Normalization(
        tuple(moments[0].tolist()), tuple(deviation.tolist()), float(np.median(corners)), directions
    )
