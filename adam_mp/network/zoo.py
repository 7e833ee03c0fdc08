"""The named networks. Each is a function (input shape, number of classes) -> layers, as a user's `--model` may be.

The last `Dense()` gets one unit a class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from adam_mp.errors import NetworkError
from adam_mp.network.joins import Part, Residual
from adam_mp.network.layer import Layer, Shape
from adam_mp.network.layers import (
    GELU,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    ReLU,
    ReLU6,
    Softmax,
)
from adam_mp.network.norms import BatchNorm

_Inner = Callable[[int, int], "list[Part]"]  # (channels, stride) -> layers of a residual block


def mnist(shape: Shape, classes: int) -> list[Layer]:
    """The paper's MNIST network: two convolution and pooling layers, two dense; 2.5 million connections at 28x28."""
    return [
        Conv(24, 5), MaxPool(2), ReLU(),
        Conv(48, 5), MaxPool(2), ReLU(),
        Flatten(), Dense(384), ReLU(), Dense(), Softmax(),
    ]  # fmt: skip


def mnist_best(shape: Shape, classes: int) -> list[Layer]:
    """Wider than the paper's, with dropout before both dense layers; 4.3 million connections at 28x28.

    The most accurate network here for MNIST if it is trained for long: docs/benchmarks/mnist_best.md.
    """
    return [
        Conv(32, 5), MaxPool(2), ReLU(),
        Conv(64, 5), MaxPool(2), ReLU(),
        Flatten(), Dropout(0.25), Dense(512), ReLU(), Dropout(0.5), Dense(), Softmax(),
    ]  # fmt: skip


def lenet(shape: Shape, classes: int) -> list[Layer]:
    """LeNet with ReLU as commonly benchmarked; 431,080 parameters at 28x28x1 and 10 classes."""
    return [
        Conv(20, 5), MaxPool(2), ReLU(),
        Conv(50, 5), MaxPool(2), ReLU(),
        Flatten(), Dense(500), ReLU(), Dense(), Softmax(),
    ]  # fmt: skip


def mlp(shape: Shape, classes: int) -> list[Layer]:
    """Two hidden dense layers, for images or plain features."""
    return [Flatten(), Dense(512), ReLU(), Dense(256), ReLU(), Dense(), Softmax()]


def alexnet(shape: Shape, classes: int) -> list[Layer]:
    """Five convolutions and three dense layers (Krizhevsky 2014, in one tower), for images from 64x64."""
    _check_side("alexnet", shape, 64)
    return [
        Conv(64, 11, stride=4, padding=2), ReLU(), MaxPool(3, 2),
        Conv(192, 5, padding=2), ReLU(), MaxPool(3, 2),
        Conv(384, 3, padding=1), ReLU(),
        Conv(256, 3, padding=1), ReLU(),
        Conv(256, 3, padding=1), ReLU(), MaxPool(3, 2),
        Flatten(), Dropout(0.5), Dense(4096), ReLU(), Dropout(0.5), Dense(4096), ReLU(), Dense(), Softmax(),
    ]  # fmt: skip


def vgg16(shape: Shape, classes: int) -> list[Part]:
    """Thirteen convolutions with norms and three dense layers (Simonyan and Zisserman 2015), for images from 32x32."""
    _check_side("vgg16", shape, 32)
    layers: list[Part] = []
    for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        layers += [Conv(channels, 3, padding=1), BatchNorm(), ReLU()] * count + [MaxPool(2)]
    dense = [Dense(4096), ReLU(), Dropout(0.5)]
    return [*layers, Flatten(), *dense, *dense, Dense(), Softmax()]


def resnet18(shape: Shape, classes: int) -> list[Part]:
    """Residual blocks of two 3x3 convolutions, 18 layers with weights in a row (He et al. 2015)."""
    return _resnet("resnet18", shape, _basic, (2, 2, 2, 2))


def resnet34(shape: Shape, classes: int) -> list[Part]:
    """As resnet18, with 34 layers."""
    return _resnet("resnet34", shape, _basic, (3, 4, 6, 3))


def resnet50(shape: Shape, classes: int) -> list[Part]:
    """Residual blocks of a 3x3 convolution between two of 1x1, 50 layers; the 3x3 ones have the strides."""
    return _resnet("resnet50", shape, _bottleneck, (3, 4, 6, 3))


def mobilenet_v2(shape: Shape, classes: int) -> list[Part]:
    """Residual blocks that widen, convolve each channel alone, and narrow again (Sandler et al. 2018), from 32x32."""
    _check_side("mobilenet-v2", shape, 32)
    layers: list[Part] = _clipped(Conv(32, 3, 2, 1, bias=False))
    before = 32
    for wider, channels, count, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
    ):  # fmt: skip
        for number in range(count):
            step = stride if number == 0 else 1
            inner = _inverted(before, wider * before, channels, step)
            layers += [Residual(inner)] if step == 1 and before == channels else inner
            before = channels
    return [*layers, *_clipped(Conv(1280, 1, bias=False)), GlobalAveragePool(), Dropout(0.2), Dense(), Softmax()]


def resnet20(shape: Shape, classes: int) -> list[Part]:
    """The small residual network for images of 32x32, with 1x1 convolutions in the shortcuts; 272,474 parameters."""
    layers: list[Part] = _normed(Conv(16, 3, padding=1, bias=False))
    for channels, stride in ((16, 1), (32, 2), (64, 2)):
        for number in range(3):
            step = stride if number == 0 else 1
            layers += _block(_basic(channels, step), channels if step > 1 else None, step)
    return [*layers, GlobalAveragePool(), Dense(), Softmax()]


def _resnet(name: str, shape: Shape, inner: _Inner, counts: tuple[int, ...]) -> list[Part]:
    """Return the layers of a residual network for photographs; `counts` is how many blocks each size of image has."""
    _check_side(name, shape, 32)
    layers: list[Part] = [*_normed(Conv(64, 7, 2, 3, bias=False)), MaxPool(3, 2, 1)]
    wide = 4 if inner is _bottleneck else 1
    for number, count in enumerate(counts):
        channels = 64 << number
        for block in range(count):
            stride = 2 if number > 0 and block == 0 else 1
            changes = block == 0 and (stride > 1 or wide > 1)
            layers += _block(inner(channels, stride), wide * channels if changes else None, stride)
    return [*layers, GlobalAveragePool(), Dense(), Softmax()]


def cifar_fast(shape: Shape, classes: int) -> list[Part]:
    """The one that learns CIFAR-10 soonest (Jordan 2024, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*).

    The first convolution whitens patches of the images; it is made to be trained with `--rates conv1.weight=0`, which
    leaves it as it is.
    """
    _check_side("cifar-fast", shape, 24)
    layers: list[Part] = [Conv(24, 2, init="whiten"), GELU()]
    for channels in (64, 256, 256):
        first, second = (Conv(channels, 3, padding=1, bias=False, init="identity") for _ in range(2))
        layers += [first, MaxPool(2), BatchNorm(), GELU(), second, BatchNorm(), GELU()]
    side = (min(shape[:2]) - 1) // 8
    return [*layers, MaxPool(min(side, 16)), Flatten(), Dense(bias=False), Softmax()]


def _block(inner: list[Part], channels: int | None, stride: int) -> list[Part]:
    """Return a residual block; with `channels`, a convolution in the shortcut gives it that many."""
    shortcut = [] if channels is None else [Conv(channels, 1, stride, bias=False), BatchNorm()]
    return [Residual(inner, shortcut), ReLU()]


def _basic(channels: int, stride: int) -> list[Part]:
    first = Conv(channels, 3, stride, 1, bias=False)
    return [*_normed(first), Conv(channels, 3, padding=1, bias=False), BatchNorm()]


def _bottleneck(channels: int, stride: int) -> list[Part]:
    first, second = Conv(channels, 1, bias=False), Conv(channels, 3, stride, 1, bias=False)
    return [*_normed(first), *_normed(second), Conv(4 * channels, 1, bias=False), BatchNorm()]


def _inverted(before: int, wide: int, channels: int, stride: int) -> list[Part]:
    """Return a block of mobilenet-v2: `before` channels to `wide`, each convolved alone, to `channels`."""
    widen = _clipped(Conv(wide, 1, bias=False)) if wide > before else []
    alone = _clipped(Conv(wide, 3, stride, 1, bias=False, groups=wide))
    return [*widen, *alone, Conv(channels, 1, bias=False), BatchNorm()]


def _clipped(layer: Layer) -> list[Part]:
    return [layer, BatchNorm(), ReLU6()]


def _normed(layer: Layer) -> list[Part]:
    return [layer, BatchNorm(), ReLU()]


def _check_side(name: str, shape: Shape, least: int) -> None:
    if min(shape[:2]) < least:
        raise NetworkError(
            f"{name} takes images of at least {least}x{least} pixels, but the data has {shape[0]}x{shape[1]}"
        )


ZOO: dict[str, Callable[[Shape, int], Sequence[Part]]] = {
    "mnist": mnist,
    "mnist-best": mnist_best,
    "lenet": lenet,
    "mlp": mlp,
    "alexnet": alexnet,
    "vgg16": vgg16,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "mobilenet-v2": mobilenet_v2,
    "cifar-fast": cifar_fast,
}
