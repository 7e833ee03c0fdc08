"""The kinds of layers, and the table of all of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import ClassVar

from adam_mp.errors import NetworkError, shown
from adam_mp.network.joins import Add, Branching, Concat, Join, Multiply, Residual, Row
from adam_mp.network.layer import UNWRITTEN, WHITEN, Layer, Shape, check_flag, check_image, check_init, check_positive
from adam_mp.network.norms import BatchNorm, GroupNorm, LayerNorm


def _windows(shape: Shape, size: int, stride: int, padding: int) -> tuple[int, int]:
    """Return how many windows fit down and across an image of `shape`."""
    check_image(shape)
    height, width = ((side + 2 * padding - size) // stride + 1 for side in shape[:2])
    if min(shape[0], shape[1]) + 2 * padding < size:
        around = f" with padding {padding}" if padding else ""
        raise NetworkError(f"its {size}x{size} window does not fit into {shape[0]}x{shape[1]} pixels{around}")
    return height, width


def _check_padding(layer: Layer, padding: int | str, size: int) -> None:
    if padding == "same":
        if size % 2 == 0:
            raise NetworkError(f"{layer.kind}: padding is 'same' with size {size}; expected an odd size, or a number")
    elif not isinstance(padding, int) or padding < 0:
        raise NetworkError(
            f"{layer.kind}: padding is {shown(padding)}; expected a whole number of at least 0, or 'same'"
        )


def _check_rate(layer: Layer, rate: float) -> None:
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise NetworkError(f"{layer.kind}: rate is {shown(rate)}; expected a number from 0 up to, not including, 1")


def _margin(padding: int | str, size: int) -> int:
    """Return how many pixels a checked `padding` puts on each side."""
    return size // 2 if isinstance(padding, str) else padding


@dataclasses.dataclass(frozen=True)
class Conv(Layer):
    """Convolution: `channels` square kernels of `size` pixels, moved by `stride`, over `padding` zeros all around.

    With padding "same" the output is as large as the input, or 1 / `stride` of it, rounded up; `size` is odd then. With
    `dilation` d a kernel reads every d-th pixel. With `groups` g, input and output channels are divided into g groups,
    and a kernel reads the input channels of its own group; as many groups as channels make the convolution depthwise.
    Parameters: weight `(size * size * in_channels / groups, channels)`, rows in the order (y, x, in_channel); bias
    `(channels,)` unless `bias` is False. `init` is one of `layer.INITS`, or `layer.WHITEN`.
    """

    kind: ClassVar[str] = "conv"
    channels: int
    size: int
    stride: int = 1
    padding: int | str = 0
    bias: bool = dataclasses.field(default=True, metadata=UNWRITTEN)
    groups: int = dataclasses.field(default=1, metadata=UNWRITTEN)
    dilation: int = dataclasses.field(default=1, metadata=UNWRITTEN)
    init: str = dataclasses.field(default="auto", metadata=UNWRITTEN)

    def __post_init__(self) -> None:
        check_positive(self, channels=self.channels, size=self.size, stride=self.stride)
        check_positive(self, groups=self.groups, dilation=self.dilation)
        check_flag(self, bias=self.bias)
        check_init(self, self.init, WHITEN)
        _check_padding(self, self.padding, self.size)
        if self.channels % self.groups:
            raise NetworkError(
                f"conv: channels is {self.channels} and groups is {self.groups}; expected a multiple of groups"
            )

    @property
    def extent(self) -> int:
        """How many pixels a kernel covers down and across, those that it leaves out included."""
        return self.dilation * (self.size - 1) + 1

    @property
    def margin(self) -> int:
        """How many zeros `padding` puts on each side."""
        return _margin(self.padding, self.extent)

    def output_shape(self, shape: Shape) -> Shape:
        found = (*_windows(shape, self.extent, self.stride, self.margin), self.channels)
        if shape[2] % self.groups:
            raise NetworkError(f"cannot divide {shape[2]} channels into {self.groups} groups of one size")
        return found

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        weight: dict[str, Shape] = {"weight": (self.size * self.size * shape[2] // self.groups, self.channels)}
        return {**weight, "bias": (self.channels,)} if self.bias else weight

    def connections(self, shape: Shape) -> int:
        return math.prod(self.output_shape(shape)) * self.size * self.size * shape[2] // self.groups


@dataclasses.dataclass(frozen=True)
class _Pool(Layer):
    size: int
    stride: int | None = None
    padding: int | str = dataclasses.field(default=0, metadata=UNWRITTEN)

    def __post_init__(self) -> None:
        check_positive(self, size=self.size)
        if self.stride is not None:
            check_positive(self, stride=self.stride)
        _check_padding(self, self.padding, self.size)
        if self.margin > self.size // 2:
            raise NetworkError(
                f"{self.kind}: padding is {self.padding} with size {self.size}; expected at most half the size"
            )

    @property
    def margin(self) -> int:
        """How many pixels `padding` puts on each side."""
        return _margin(self.padding, self.size)

    @property
    def step(self) -> int:
        """The stride; without one it is `size`, so that windows lie side by side."""
        return self.size if self.stride is None else self.stride

    def output_shape(self, shape: Shape) -> Shape:
        return (*_windows(shape, self.size, self.step, self.margin), shape[2])


@dataclasses.dataclass(frozen=True)
class MaxPool(_Pool):
    """The largest of each `size` x `size` window, per channel; `stride` defaults to `size`. Padding never wins."""

    kind: ClassVar[str] = "max_pool"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size > 16:  # the kernel notes the largest value's position in the window as one byte
            raise NetworkError(f"max_pool: size is {self.size}; expected at most 16")


@dataclasses.dataclass(frozen=True)
class AveragePool(_Pool):
    """The mean of each `size` x `size` window, per channel; `stride` defaults to `size`. Padding counts as zeros."""

    kind: ClassVar[str] = "average_pool"


@dataclasses.dataclass(frozen=True)
class GlobalAveragePool(Layer):
    """The mean of each channel over the whole image, as flat values: (height, width, channels) to (channels,)."""

    kind: ClassVar[str] = "global_average_pool"

    def output_shape(self, shape: Shape) -> Shape:
        check_image(shape)
        return shape[2:]


@dataclasses.dataclass(frozen=True)
class Dense(Layer):
    """Each of `units` outputs has a weight for every input. `Dense()` has as many units as the data has classes.

    It takes flat values, or images of one pixel, as features are. Parameters: weight `(inputs, units)`; bias `(units,)`
    unless `bias` is False. `init` is one of `layer.INITS`.
    """

    kind: ClassVar[str] = "dense"
    units: int | None = None
    bias: bool = dataclasses.field(default=True, metadata=UNWRITTEN)
    init: str = dataclasses.field(default="auto", metadata=UNWRITTEN)

    def __post_init__(self) -> None:
        if self.units is not None:
            check_positive(self, units=self.units)
        check_flag(self, bias=self.bias)
        check_init(self, self.init)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 1 and shape[:2] != (1, 1):
            raise NetworkError(f"takes flat values, but gets {shape}; put a flatten layer before it")
        if self.units is None:
            raise NetworkError("has no units; give units, or the number of classes to the network")
        return (self.units,)

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        (units,) = self.output_shape(shape)
        weight: dict[str, Shape] = {"weight": (math.prod(shape), units)}
        return {**weight, "bias": (units,)} if self.bias else weight

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
class ReLU6(Layer):
    """`min(max(x, 0), 6)`."""

    kind: ClassVar[str] = "relu6"


@dataclasses.dataclass(frozen=True)
class LeakyReLU(Layer):
    """`x` where it is positive, else `slope * x`."""

    kind: ClassVar[str] = "leaky_relu"
    slope: float = 0.01

    def __post_init__(self) -> None:
        if isinstance(self.slope, bool) or not isinstance(self.slope, (int, float)) or not 0 < self.slope < 1:
            raise NetworkError(f"leaky_relu: slope is {shown(self.slope)}; expected a number between 0 and 1")


@dataclasses.dataclass(frozen=True)
class HardSwish(Layer):
    """`x * min(max(x + 3, 0), 6) / 6` (Howard et al. 2019)."""

    kind: ClassVar[str] = "hard_swish"


@dataclasses.dataclass(frozen=True)
class SiLU(Layer):
    """`x / (1 + exp(-x))`, also called swish."""

    kind: ClassVar[str] = "silu"


@dataclasses.dataclass(frozen=True)
class GELU(Layer):
    """`x` times the normal distribution at x, `x * (1 + erf(x / sqrt(2))) / 2` (Hendrycks and Gimpel 2016)."""

    kind: ClassVar[str] = "gelu"


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
        _check_rate(self, self.rate)


@dataclasses.dataclass(frozen=True)
class StochasticDepth(Layer):
    """While training: zero all values of an image with probability `rate`, else divide them by `1 - rate`.

    It stands at the end of a residual's layers, so that some images skip them (Huang et al. 2016). Else: no change.
    """

    kind: ClassVar[str] = "stochastic_depth"
    rate: float = 0.1

    def __post_init__(self) -> None:
        _check_rate(self, self.rate)


@dataclasses.dataclass(frozen=True)
class LocalResponseNorm(Layer):
    """`x / (offset + alpha / size * sum of squares over size neighbouring channels) ** beta`."""

    kind: ClassVar[str] = "local_response_norm"
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    offset: float = 2.0

    def __post_init__(self) -> None:
        check_positive(self, size=self.size)
        for name in ("alpha", "beta", "offset"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not value > 0:
                raise NetworkError(f"local_response_norm: {name} is {shown(value)}; expected a positive number")

    def output_shape(self, shape: Shape) -> Shape:
        check_image(shape)
        return shape


@dataclasses.dataclass(frozen=True)
class Flatten(Layer):
    """Images to flat values, in the order (y, x, channel)."""

    kind: ClassVar[str] = "flatten"

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)


@dataclasses.dataclass(frozen=True)
class SqueezeExcite(Branching):
    """Images times a factor for each channel, which two dense layers compute from the means of all channels.

    `units` of the first, then `channels` of the second, as many as the images have (Hu et al. 2018). It is short for
    `Multiply([], [GlobalAveragePool(), Dense(units), ReLU(), Dense(channels), Sigmoid()])`.
    """

    kind: ClassVar[str] = "squeeze_excite"
    writes_rows: ClassVar[bool] = False
    channels: int
    units: int

    def __post_init__(self) -> None:
        check_positive(self, channels=self.channels, units=self.units)

    def rows(self) -> tuple[tuple[str, Row], ...]:
        factors = (GlobalAveragePool(), Dense(self.units), ReLU(), Dense(self.channels), Sigmoid())
        return ("layer", ()), ("factors layer", factors)

    def with_rows(self, rows: Iterable[Row]) -> Branching:
        return self

    def join(self) -> Join:
        return Multiply()


KINDS: dict[str, type[Layer]] = {
    kind.kind: kind
    for kind in (
        Conv,
        MaxPool,
        AveragePool,
        GlobalAveragePool,
        Dense,
        ReLU,
        Sigmoid,
        Tanh,
        ReLU6,
        LeakyReLU,
        HardSwish,
        SiLU,
        GELU,
        Softmax,
        Dropout,
        StochasticDepth,
        LocalResponseNorm,
        BatchNorm,
        GroupNorm,
        LayerNorm,
        Flatten,
        Add,
        Multiply,
        Concat,
        Residual,
        SqueezeExcite,
    )
}
