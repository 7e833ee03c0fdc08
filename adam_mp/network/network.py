"""A network: layers in a row that fit each other, and the shapes, names and counts that follow from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from adam_mp.errors import NetworkError, several, shown
from adam_mp.network.layers import KINDS, Dense, Layer, Shape, Softmax


@dataclasses.dataclass(frozen=True)
class Network:
    """Layers for images of `input_shape` `(height, width, channels)`; picklable, owns no arrays.

    The last layer is `Softmax`. Raises NetworkError, naming the layer and both shapes, if the layers do not fit.

    Example:
        >>> Network.build([Flatten(), Dense(), Softmax()], (28, 28, 1), classes=10).parameter_count
        7850
    """

    layers: tuple[Layer, ...]
    input_shape: Shape
    name: str = "network"

    def __post_init__(self) -> None:
        for position, layer in enumerate(self.layers, 1):
            _check_known(position, layer)
        if not self.layers or not isinstance(self.layers[-1], Softmax):
            last = f"ends with {self.layers[-1].kind}" if self.layers else "has no layers"
            raise NetworkError(f"network {self.name!r} {last}; the last layer must be softmax")
        for name, layer in zip(self.names[:-1], self.layers[:-1], strict=True):
            if isinstance(layer, Softmax):
                raise NetworkError(f"{name} stands inside network {self.name!r}; only the last layer may be softmax")
        if self.classes < 2:  # `classes` computes all shapes, and raises here if two layers do not fit
            raise NetworkError(f"network {self.name!r} ends with {self.classes} score; expected at least 2 classes")

    @classmethod
    def build(cls, layers: Sequence[Layer], input_shape: Shape, classes: int, name: str = "network") -> Network:
        """Make a network of `layers` for data of `input_shape` and `classes`; each `Dense()` gets `classes` units."""
        for position, layer in enumerate(layers, 1):
            _check_known(position, layer)
        sized = tuple(Dense(classes) if layer == Dense() else layer for layer in layers)
        network = cls(sized, tuple(input_shape), name)
        if network.classes != classes:
            raise NetworkError(
                f"network {name!r} ends with {several(network.classes, 'score')}, but the data has "
                f"{several(classes, 'class', 'classes')}; "
                "leave out the units of the last dense layer to have them match"
            )
        return network

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The layers' names: kind and number within the kind, such as `conv2`."""
        seen: dict[str, int] = {}
        names = []
        for layer in self.layers:
            seen[layer.kind] = seen.get(layer.kind, 0) + 1
            names.append(f"{layer.kind}{seen[layer.kind]}")
        return tuple(names)

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The input shape, then the output shape of each layer."""
        shapes = [self.input_shape]
        for name, layer in zip(self.names, self.layers, strict=True):
            try:
                shapes.append(layer.output_shape(shapes[-1]))
            except NetworkError as error:
                raise NetworkError(f"{name} ({layer}) after input {shapes[-1]}: {error}") from None
        return tuple(shapes)

    @cached_property
    def parameters(self) -> dict[str, Shape]:
        """Name -> shape of all parameters, such as `conv1.weight`, in the order of the layers."""
        return {
            f"{name}.{parameter}": shape
            for name, layer, input_shape in zip(self.names, self.layers, self.shapes, strict=False)
            for parameter, shape in layer.parameters(input_shape).items()
        }

    @property
    def classes(self) -> int:
        """How many classes the network has: the outputs of its last layer."""
        return self.shapes[-1][0]

    @property
    def parameter_count(self) -> int:
        """How many numbers all parameters have together."""
        return sum(math.prod(shape) for shape in self.parameters.values())

    @property
    def connection_counts(self) -> tuple[int, ...]:
        """The connections of each layer, in their order."""
        return tuple(layer.connections(shape) for layer, shape in zip(self.layers, self.shapes, strict=False))

    @property
    def connections(self) -> int:
        """Multiply-adds of one forward pass of one image."""
        return sum(self.connection_counts)


def _check_known(position: int, layer: Any) -> None:
    """Raise NetworkError unless `layer` is of a kind that every process knows, with plain numbers."""
    known = ", ".join(sorted(kind.__name__ for kind in KINDS.values()))
    if isinstance(layer, type) and issubclass(layer, Layer):
        raise NetworkError(
            f"layer {position} is the class {layer.__name__}; expected a layer: write {layer.__name__}(...)"
        )
    if not isinstance(layer, Layer):
        raise NetworkError(f"layer {position} is {shown(layer)}; expected a layer such as adam_mp.Conv(20, 5)")
    if type(layer) not in KINDS.values():
        raise NetworkError(
            f"layer {position} is of the class {type(layer).__name__}, which is none of adam_mp's, and which the "
            f"processes of a run do not know; expected one of {known}"
        )
    for name, value in vars(layer).items():
        if type(value) not in (int, float, bool, type(None)):
            raise NetworkError(
                f"layer {position} ({layer.kind}): {name} is of type {type(value).__name__}; expected a plain number"
            )
