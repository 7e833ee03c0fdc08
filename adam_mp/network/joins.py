"""How a network's graph is written: nodes with names, and layers that hold branches.

A row of layers is a graph in which each layer reads the one before. `Residual`, `Add` and `Concat` stand in a row like
any layer and hold rows of their own, which all begin at the value before. `Node` gives a layer a name, and lets it read
other values than the one before.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Union

from adam_mp.errors import NetworkError, shown
from adam_mp.network.layer import UNWRITTEN, Layer, Shape

Part = Union[Layer, "Node"]  # of what a row is written
Row = tuple[Part, ...]


@dataclasses.dataclass(frozen=True)
class Node:
    """A layer at its place in a network: its name, and the names of the values that it reads.

    A value has the name of the node that computes it; "input" is the images. Without `name` the node gets its layer's
    kind and number, such as `conv2`; without `inputs` it reads what the part before it in the row gives. The name of a
    layer with branches is that of the value in which they end.
    """

    layer: Layer
    name: str | None = None
    inputs: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.layer, Layer):
            raise NetworkError(f"node: layer is {shown(self.layer)}; expected a layer such as adam_mp.Conv(20, 5)")
        if self.inputs is not None:
            given: Any = self.inputs
            if isinstance(given, str) or not isinstance(given, Sequence):
                raise NetworkError(f"{self.layer.kind}: inputs is {shown(given)}; expected a list of names")
            object.__setattr__(self, "inputs", tuple(given))


@dataclasses.dataclass(frozen=True)
class NamedNode(Node):
    """A node of which both are known, as all of a network's nodes are: its name and its inputs."""

    name: str = ""
    inputs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Branching(Layer, abc.ABC):
    """A layer that may hold rows of layers: each begins at the value before it, and it joins their ends.

    `writes_rows` is whether the user writes the rows; else they follow from the layer's numbers.
    """

    writes_rows: ClassVar[bool] = True

    @abc.abstractmethod
    def rows(self) -> tuple[tuple[str, Row], ...]:
        """Return (what it is called in messages, row) of each row of layers that it holds; none if it holds none."""

    @abc.abstractmethod
    def with_rows(self, rows: Iterable[Row]) -> Branching:
        """Return the same layer with other rows, in the order of `rows`."""

    @abc.abstractmethod
    def join(self) -> Join:
        """Return the layer that joins the ends of the rows."""


@dataclasses.dataclass(frozen=True, init=False)
class Join(Branching):
    """Several values to one: the ends of its `branches`, or, without branches, the `inputs` of its `Node`.

    A branch is a list of layers. An empty one is the value before, unchanged.
    """

    branches: tuple[Row, ...] = dataclasses.field(default=(), metadata=UNWRITTEN)

    def __init__(self, *branches: Sequence[Part]) -> None:
        for number, branch in enumerate(branches, 1):
            _check_row(self.kind, f"branch {number}", branch)
        if len(branches) == 1:
            raise NetworkError(f"{self.kind} has one branch; expected at least two, such as {self.kind}([...], [...])")
        object.__setattr__(self, "branches", tuple(tuple(branch) for branch in branches))

    def rows(self) -> tuple[tuple[str, Row], ...]:
        return tuple((f"branch {number} layer", branch) for number, branch in enumerate(self.branches, 1))

    def with_rows(self, rows: Iterable[Row]) -> Branching:
        return type(self)(*rows)

    def join(self) -> Join:
        return type(self)()

    @abc.abstractmethod
    def joined_shape(self, inputs: Sequence[tuple[str, Shape]]) -> Shape:
        """Return the output shape for values of these names and shapes; raises NetworkError if they do not fit."""


@dataclasses.dataclass(frozen=True, init=False)
class Add(Join):
    """The sum of values of one shape."""

    kind: ClassVar[str] = "add"

    def joined_shape(self, inputs: Sequence[tuple[str, Shape]]) -> Shape:
        first, shape = inputs[0]
        for name, other in inputs[1:]:
            if other != shape:
                raise NetworkError(
                    f"adds {first} of shape {shape} and {name} of shape {other}; expected equal shapes (a "
                    "convolution in a shortcut or branch can make them equal)"
                )
        return shape


@dataclasses.dataclass(frozen=True, init=False)
class Concat(Join):
    """Values side by side: images of one height and width by their channels, flat values by their features."""

    kind: ClassVar[str] = "concat"

    def joined_shape(self, inputs: Sequence[tuple[str, Shape]]) -> Shape:
        first, shape = inputs[0]
        for name, other in inputs[1:]:
            if other[:-1] != shape[:-1]:
                raise NetworkError(
                    f"puts {first} of shape {shape} and {name} of shape {other} side by side; expected images of "
                    "one height and width, or flat values"
                )
        return (*shape[:-1], sum(each[-1] for _, each in inputs))


@dataclasses.dataclass(frozen=True, init=False)
class Multiply(Join):
    """The product of two values: both of one shape, or images and flat values that have a factor for each channel."""

    kind: ClassVar[str] = "multiply"

    def joined_shape(self, inputs: Sequence[tuple[str, Shape]]) -> Shape:
        if len(inputs) != 2:
            raise NetworkError(f"multiplies {len(inputs)} values; expected two")
        (first, shape), (second, factors) = inputs
        if factors not in (shape, shape[-1:]):
            fitting = " or ".join(dict.fromkeys((str(shape), str(shape[-1:]))))
            raise NetworkError(
                f"multiplies {first} of shape {shape} and {second} of shape {factors}; expected a second one of shape "
                f"{fitting}"
            )
        return shape


@dataclasses.dataclass(frozen=True)
class Residual(Branching):
    """`layers(x) + shortcut(x)`, where x is the value before; without `shortcut` it is `layers(x) + x`."""

    kind: ClassVar[str] = "residual"
    layers: Sequence[Part]
    shortcut: Sequence[Part] = ()

    def __post_init__(self) -> None:
        for name in ("layers", "shortcut"):
            _check_row(self.kind, name, getattr(self, name))
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.layers:
            raise NetworkError("residual has no layers; expected a list such as [Conv(16, 3, padding=1), ReLU()]")

    def rows(self) -> tuple[tuple[str, Row], ...]:
        return ("inner layer", tuple(self.layers)), ("shortcut layer", tuple(self.shortcut))

    def with_rows(self, rows: Iterable[Row]) -> Branching:
        return Residual(*rows)

    def join(self) -> Join:
        return Add()


def _check_row(kind: str, what: str, row: Any) -> None:
    if not isinstance(row, (list, tuple)):
        raise NetworkError(f"{kind}: {what} is {shown(row)}; expected a list of layers")
