"""Norms: `(x - mean) / sqrt(variance + epsilon) * scale + shift`. They differ in what mean and variance are taken over.

All have the parameters scale and shift, `(channels,)`, which are 1 and 0 at first.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from adam_mp.errors import NetworkError, shown
from adam_mp.network.layer import Layer, Shape, check_positive


@dataclasses.dataclass(frozen=True)
class _Norm(Layer):
    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return {"scale": shape[-1:], "shift": shape[-1:]}

    def first(self, parameter: str) -> float:
        return 1.0 if parameter == "scale" else 0.0


def _check_epsilon(layer: Layer, epsilon: float) -> None:
    if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not epsilon > 0:
        raise NetworkError(f"{layer.kind}: epsilon is {shown(epsilon)}; expected a positive number")


@dataclasses.dataclass(frozen=True)
class BatchNorm(_Norm):
    """Each channel, over all pixels of a batch (Ioffe and Szegedy 2015).

    Outside of training, mean and variance are those of training images: the layer's statistics, `(channels,)`.
    """

    kind: ClassVar[str] = "batch_norm"
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        _check_epsilon(self, self.epsilon)

    def statistics(self, shape: Shape) -> dict[str, Shape]:
        return {"mean": shape[-1:], "variance": shape[-1:]}


@dataclasses.dataclass(frozen=True)
class GroupNorm(_Norm):
    """Each of `groups` groups of neighbouring channels, over all pixels of an image (Wu and He 2018)."""

    kind: ClassVar[str] = "group_norm"
    groups: int = 32
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        check_positive(self, groups=self.groups)
        _check_epsilon(self, self.epsilon)

    def output_shape(self, shape: Shape) -> Shape:
        if shape[-1] % self.groups:
            raise NetworkError(f"cannot divide {shape[-1]} channels into {self.groups} groups of one size")
        if math.prod(shape) == self.groups:
            raise NetworkError(f"has {self.groups} groups of one value, whose variance is 0; expected fewer groups")
        return shape


@dataclasses.dataclass(frozen=True)
class LayerNorm(_Norm):
    """All channels of a pixel, or all features of an image (Ba et al. 2016)."""

    kind: ClassVar[str] = "layer_norm"
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        _check_epsilon(self, self.epsilon)

    def output_shape(self, shape: Shape) -> Shape:
        if shape[-1] == 1:
            raise NetworkError("takes the variance of the channels of a pixel, but there is one channel")
        return shape
