"""The named networks. Each is a function (input shape, number of classes) -> layers, as a user's `--model` may be.

The last `Dense()` gets one unit a class.
"""

from __future__ import annotations

from collections.abc import Callable

from adam_mp.errors import NetworkError
from adam_mp.network.layer import Layer, Shape
from adam_mp.network.layers import Conv, Dense, Dropout, Flatten, MaxPool, ReLU, Softmax


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
    if min(shape[:2]) < 64:
        raise NetworkError(f"alexnet takes images of at least 64x64 pixels, but the data has {shape[0]}x{shape[1]}")
    return [
        Conv(64, 11, stride=4, padding=2), ReLU(), MaxPool(3, 2),
        Conv(192, 5, padding=2), ReLU(), MaxPool(3, 2),
        Conv(384, 3, padding=1), ReLU(),
        Conv(256, 3, padding=1), ReLU(),
        Conv(256, 3, padding=1), ReLU(), MaxPool(3, 2),
        Flatten(), Dropout(0.5), Dense(4096), ReLU(), Dropout(0.5), Dense(4096), ReLU(), Dense(), Softmax(),
    ]  # fmt: skip


ZOO: dict[str, Callable[[Shape, int], list[Layer]]] = {
    "mnist": mnist,
    "mnist-best": mnist_best,
    "lenet": lenet,
    "mlp": mlp,
    "alexnet": alexnet,
}
