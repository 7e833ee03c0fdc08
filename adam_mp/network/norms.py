"""Norms: `(x - mean) / sqrt(variance + epsilon) * scale + shift`. They differ in what mean and variance are taken over.

All have the parameters scale and shift, `(channels,)`. Shift is 0 at first, scale is `init_scale`: by default 1, or 0
where the norm is the last of a residual's layers. Then the residual is at first what its shortcut is, which lets deep
networks learn sooner (Goyal et al. 2017).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

from adam_mp.errors import NetworkError, shown
from adam_mp.network.layer import UNWRITTEN, Layer, Shape, check_positive


@dataclasses.dataclass(frozen=True)
class _Norm(Layer):
    init_scale: float | None = dataclasses.field(default=None, kw_only=True, metadata=UNWRITTEN)

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return {"scale": shape[-1:], "shift": shape[-1:]}

    def first(self, parameter: str, ends_branch: bool) -> float:
        if parameter == "shift":
            return 0.0
        return float(not ends_branch) if self.init_scale is None else self.init_scale

    def _check(self, epsilon: float) -> None:
        if not _is_number(epsilon) or epsilon <= 0:
            raise NetworkError(f"{self.kind}: epsilon is {shown(epsilon)}; expected a positive number")
        if self.init_scale is not None and not _is_number(self.init_scale):
            raise NetworkError(f"{self.kind}: init_scale is {shown(self.init_scale)}; expected a number")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclasses.dataclass(frozen=True)
class BatchNorm(_Norm):
    """Each channel, over all pixels of a batch (Ioffe and Szegedy 2015).

    Outside of training, mean and variance are those of training images: the layer's statistics, `(channels,)`.
    """

    kind: ClassVar[str] = "batch_norm"
    batchwise: ClassVar[bool] = True
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        self._check(self.epsilon)

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
        self._check(self.epsilon)

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
        self._check(self.epsilon)

    def output_shape(self, shape: Shape) -> Shape:
        if shape[-1] == 1:
            raise NetworkError("takes the variance of the channels of a pixel, but there is one channel")
        return shape
