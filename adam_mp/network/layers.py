"""The kinds of layers. A layer is a frozen dataclass: its fields describe it completely, and it owns no arrays.

A shape is that of one image: `(height, width, channels)`, or `(features,)` for flat values. From its input shape each
layer tells its output shape, its parameters, and its connections: the multiply-adds of one forward pass of one image.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar

from adam_mp.errors import NetworkError, shown
from adam_mp.proposals import LAYER_SETTINGS, bare, nearest

if TYPE_CHECKING:
    from typing_extensions import Self

Shape = tuple[int, ...]
_LARGEST = 10**9
_FROM_BEFORE = ("inchannels", "infeatures", "inputshape", "inputdim", "inputsize", "numfeatures")


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of a network. A child class overrides the methods unless it keeps the shape and has no parameters."""

    kind: ClassVar[str]

    def __new__(cls, *_: Any, **settings: Any) -> Self:
        """Raise NetworkError for a keyword that the layer does not have."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in settings:
            if name not in known:
                raise NetworkError(unknown_setting(cls, name))
        return super().__new__(cls)

    def output_shape(self, shape: Shape) -> Shape:
        """Return the output shape for input `shape`; raises NetworkError, without the layer's name, if none fits."""
        return shape

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        """Return name -> shape of the layer's parameters for input `shape`."""
        return {}

    def connections(self, shape: Shape) -> int:
        """Return the multiply-adds of one forward pass of one image of `shape`."""
        return 0


def unknown_setting(kind: type[Layer], name: str) -> str:
    """Return the message about a setting that a kind of layer does not have."""
    known = [field.name for field in dataclasses.fields(kind)]
    bare_name = bare(name)
    if bare_name in _FROM_BEFORE:
        return f"{kind.kind} has no setting {shown(name)}; it takes what the layer before gives"
    if bare_name == "activation":
        return f"{kind.kind} has no setting {shown(name)}; an activation is a layer of its own, such as ReLU"
    listed = nearest(name, known, of_others=LAYER_SETTINGS) if known else "it has none"
    return f"{kind.kind} has no setting {shown(name)}; {listed}"


def _positive(layer: Layer, **values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise NetworkError(f"{layer.kind}: {name} is {shown(value)}; expected a whole number of at least 1")
        if value > _LARGEST:
            raise NetworkError(f"{layer.kind}: {name} is {shown(value)}; expected at most {_LARGEST:,}")


def _windows(layer: Layer, shape: Shape, size: int, stride: int, padding: int) -> tuple[int, int]:
    """Return how many windows fit down and across an image of `shape`."""
    if len(shape) != 3:
        raise NetworkError(f"takes images (height, width, channels), but gets {shape}")
    height, width = ((side + 2 * padding - size) // stride + 1 for side in shape[:2])
    if min(shape[0], shape[1]) + 2 * padding < size:
        around = f" with padding {padding}" if padding else ""
        raise NetworkError(f"its {size}x{size} window does not fit into {shape[0]}x{shape[1]} pixels{around}")
    return height, width


@dataclasses.dataclass(frozen=True)
class Conv(Layer):
    """Convolution: `channels` square kernels of `size` pixels, moved by `stride`, over `padding` zeros all around.

    Parameters: weight `(size * size * in_channels, channels)`, rows in the order (y, x, in_channel); bias
    `(channels,)`.
    """

    kind: ClassVar[str] = "conv"
    channels: int
    size: int
    stride: int = 1
    padding: int = 0

    def __post_init__(self) -> None:
        _positive(self, channels=self.channels, size=self.size, stride=self.stride)
        if not isinstance(self.padding, int) or self.padding < 0:
            raise NetworkError(f"conv: padding is {shown(self.padding)}; expected a whole number of at least 0")

    def output_shape(self, shape: Shape) -> Shape:
        return (*_windows(self, shape, self.size, self.stride, self.padding), self.channels)

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (self.size * self.size * shape[2], self.channels), "bias": (self.channels,)}

    def connections(self, shape: Shape) -> int:
        return math.prod(self.output_shape(shape)) * self.size * self.size * shape[2]


@dataclasses.dataclass(frozen=True)
class _Pool(Layer):
    size: int
    stride: int | None = None

    def __post_init__(self) -> None:
        _positive(self, size=self.size)
        if self.stride is not None:
            _positive(self, stride=self.stride)
        if self.size > 16:  # the kernel notes the largest value's position in the window as one byte
            raise NetworkError(f"{self.kind}: size is {self.size}; expected at most 16")

    @property
    def step(self) -> int:
        """The stride; without one it is `size`, so that windows lie side by side."""
        return self.size if self.stride is None else self.stride

    def output_shape(self, shape: Shape) -> Shape:
        return (*_windows(self, shape, self.size, self.step, 0), shape[2])


@dataclasses.dataclass(frozen=True)
class MaxPool(_Pool):
    """The largest of each `size` x `size` window, per channel; `stride` defaults to `size`."""

    kind: ClassVar[str] = "max_pool"


@dataclasses.dataclass(frozen=True)
class AveragePool(_Pool):
    """The mean of each `size` x `size` window, per channel; `stride` defaults to `size`."""

    kind: ClassVar[str] = "average_pool"


@dataclasses.dataclass(frozen=True)
class Dense(Layer):
    """Each of `units` outputs has a weight for every input. `Dense()` has as many units as the data has classes.

    Parameters: weight `(inputs, units)`, bias `(units,)`.
    """

    kind: ClassVar[str] = "dense"
    units: int | None = None

    def __post_init__(self) -> None:
        if self.units is not None:
            _positive(self, units=self.units)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise NetworkError(f"takes flat values, but gets {shape}; put a flatten layer before it")
        if self.units is None:
            raise NetworkError("has no units; give units, or the number of classes to the network")
        return (self.units,)

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        (units,) = self.output_shape(shape)
        return {"weight": (shape[0], units), "bias": (units,)}

    def connections(self, shape: Shape) -> int:
        return math.prod(self.parameters(shape)["weight"])


@dataclasses.dataclass(frozen=True)
class ReLU(Layer):
    """`max(x, 0)`."""

    kind: ClassVar[str] = "relu"


@dataclasses.dataclass(frozen=True)
class Sigmoid(Layer):
    """`1 / (1 + exp(-x))`."""

    kind: ClassVar[str] = "sigmoid"


@dataclasses.dataclass(frozen=True)
class Tanh(Layer):
    """`tanh(x)`."""

    kind: ClassVar[str] = "tanh"


@dataclasses.dataclass(frozen=True)
class Softmax(Layer):
    """Scores to class probabilities; the last layer of every network, trained with cross-entropy."""

    kind: ClassVar[str] = "softmax"

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise NetworkError(f"takes one score per class, but gets {shape}")
        return shape


@dataclasses.dataclass(frozen=True)
class Dropout(Layer):
    """While training: zero each value with probability `rate`, and divide the rest by `1 - rate`. Else: no change."""

    kind: ClassVar[str] = "dropout"
    rate: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.rate, (int, float)) or not 0 <= self.rate < 1:
            raise NetworkError(f"dropout: rate is {shown(self.rate)}; expected a number from 0 up to, not including, 1")


@dataclasses.dataclass(frozen=True)
class LocalResponseNorm(Layer):
    """`x / (offset + alpha / size * sum of squares over size neighbouring channels) ** beta`."""

    kind: ClassVar[str] = "local_response_norm"
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    offset: float = 2.0

    def __post_init__(self) -> None:
        _positive(self, size=self.size)
        for name in ("alpha", "beta", "offset"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not value > 0:
                raise NetworkError(f"local_response_norm: {name} is {shown(value)}; expected a positive number")

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 3:
            raise NetworkError(f"takes images (height, width, channels), but gets {shape}")
        return shape


@dataclasses.dataclass(frozen=True)
class Flatten(Layer):
    """Images to flat values, in the order (y, x, channel)."""

    kind: ClassVar[str] = "flatten"

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)


KINDS: dict[str, type[Layer]] = {
    kind.kind: kind
    for kind in (
        Conv,
        MaxPool,
        AveragePool,
        Dense,
        ReLU,
        Sigmoid,
        Tanh,
        Softmax,
        Dropout,
        LocalResponseNorm,
        Flatten,
    )
}
