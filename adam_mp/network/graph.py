"""A graph of nodes, and what follows from it: names, shapes, parameters, and what runs on a whole batch.

The order of the nodes is that in which they run; a node reads only the images and nodes before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

from adam_mp.errors import NetworkError
from adam_mp.network.joins import Join, NamedNode
from adam_mp.network.layer import Shape
from adam_mp.network.layers import Dense, Flatten

INPUT = "input"  # the name of the images


def readers(nodes: Sequence[NamedNode]) -> dict[str, tuple[int, ...]]:
    """Return value's name -> numbers of the nodes that read it, ascending; of one that reads it twice, twice."""
    found: dict[str, list[int]] = {INPUT: [], **{node.name: [] for node in nodes}}
    for number, node in enumerate(nodes):
        for read in node.inputs:
            found[read].append(number)
    return {name: tuple(numbers) for name, numbers in found.items()}


class Graph:
    """`nodes` for images of `input_shape` `(height, width, channels)`, the last one `Softmax`; owns no arrays.

    `nodes` are all layers that compute something, in the order in which they run, with names and inputs.
    """

    input_shape: Shape
    nodes: tuple[NamedNode, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the nodes: if the network gives no other, kind and number within the kind, such as `conv2`."""
        return tuple(node.name for node in self.nodes)

    @cached_property
    def readers(self) -> dict[str, tuple[int, ...]]:
        """Name of a value -> numbers of the nodes that read it."""
        return readers(self.nodes)

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The input shape, then the output shape of each node."""
        known = {INPUT: self.input_shape}
        for name, node in zip(self.names, self.nodes, strict=True):
            inputs = [(read, known[read]) for read in node.inputs]
            try:
                if isinstance(node.layer, Join):
                    known[name] = node.layer.joined_shape(inputs)
                else:
                    known[name] = node.layer.output_shape(inputs[0][1])
            except NetworkError as error:
                after = "" if isinstance(node.layer, Join) else f" ({node.layer}) after input {inputs[0][1]}:"
                raise NetworkError(f"{name}{after} {error}") from None
        return tuple(known.values())

    @cached_property
    def shape_of(self) -> dict[str, Shape]:
        """Name of a value -> its shape; `input` is the images."""
        return dict(zip((INPUT, *self.names), self.shapes, strict=True))

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        """The shape of the first input of each node."""
        return tuple(self.shape_of[node.inputs[0]] for node in self.nodes)

    @cached_property
    def parameters(self) -> dict[str, Shape]:
        """Name -> shape of all parameters, such as `conv1.weight`, in the order of the nodes."""
        return {
            f"{node.name}.{parameter}": shape
            for node, input_shape in zip(self.nodes, self.input_shapes, strict=True)
            for parameter, shape in node.layer.parameters(input_shape).items()
        }

    @cached_property
    def statistics(self) -> dict[str, Shape]:
        """Name -> shape of what layers know of the training images, such as `batch_norm1.mean`, in the same order."""
        return {
            f"{node.name}.{statistic}": shape
            for node, input_shape in zip(self.nodes, self.input_shapes, strict=True)
            for statistic, shape in node.layer.statistics(input_shape).items()
        }

    @cached_property
    def trained_values(self) -> frozenset[str]:
        """The names of values that depend on parameters: the backward pass needs their errors."""
        found: set[str] = set()
        for name, node, shape in zip(self.names, self.nodes, self.input_shapes, strict=True):
            if node.layer.parameters(shape) or found.intersection(node.inputs):
                found.add(name)
        return frozenset(found)

    @cached_property
    def tail(self) -> frozenset[str]:
        """The names of the nodes that compute flat values from flat ones, and whose readers all do so.

        They run on a whole batch at once, all others on a few images at a time.
        """
        found: set[str] = set()
        for name, node, shape in reversed(list(zip(self.names, self.nodes, self.input_shapes, strict=True))):
            flat = len(shape) == 1 or isinstance(node.layer, (Flatten, Dense))
            if flat and all(self.names[number] in found for number in self.readers[name]):
                found.add(name)
        return frozenset(found)

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
        """The connections of each node, in their order."""
        return tuple(node.layer.connections(shape) for node, shape in zip(self.nodes, self.input_shapes, strict=True))

    @property
    def connections(self) -> int:
        """Multiply-adds of one forward pass of one image."""
        return sum(self.connection_counts)
