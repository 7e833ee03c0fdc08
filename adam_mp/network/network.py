"""A network: a graph of layers that fit each other, and the shapes, names and counts that follow from it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import cached_property

from adam_mp.errors import NetworkError, several
from adam_mp.network.graph import INPUT, check_parts, expand, map_layers, readers
from adam_mp.network.joins import Join, NamedNode, Part, Row
from adam_mp.network.layer import WHITEN, Layer, Shape
from adam_mp.network.layers import Dense, Dropout, Flatten, GlobalAveragePool, Softmax
from adam_mp.network.norms import BatchNorm


@dataclasses.dataclass(frozen=True)
class Network:
    """Layers for images of `input_shape` `(height, width, channels)`; picklable, owns no arrays.

    `layers` are as they are written: a row, in which some may hold rows of their own. `nodes` are all layers in the
    order in which they run, with their names and inputs. The last one is `Softmax`. Raises NetworkError, naming the
    layers and both shapes, if the layers do not fit.

    Example:
        >>> Network.build([Flatten(), Dense(), Softmax()], (28, 28, 1), classes=10).parameter_count
        7850
    """

    layers: Row
    input_shape: Shape
    name: str = "network"

    def __post_init__(self) -> None:
        check_parts(self.layers)
        last = self.nodes[-1].layer if self.nodes else None
        if not isinstance(last, Softmax):
            ends = f"ends with {last.kind}" if last else "has no layers"
            raise NetworkError(f"network {self.name!r} {ends}; the last layer must be softmax")
        for node in self.nodes[:-1]:
            if isinstance(node.layer, Softmax):
                raise NetworkError(
                    f"{node.name} stands inside network {self.name!r}; only the last layer may be softmax"
                )
        for node in self.nodes:
            if getattr(node.layer, "init", None) == WHITEN and (node.inputs != (INPUT,) or node.layer.groups > 1):  # type: ignore[attr-defined]
                raise NetworkError(
                    f"{node.name} has init 'whiten'; that is for a convolution without groups that reads the images"
                )
        if not self.parameters:
            raise NetworkError(f"network {self.name!r} has no layer with weights, so that nothing can be trained")
        if self.classes < 2:  # `classes` computes all shapes, and raises here if two layers do not fit
            raise NetworkError(f"network {self.name!r} ends with {self.classes} score; expected at least 2 classes")

    @classmethod
    def build(cls, layers: Sequence[Part], input_shape: Shape, classes: int, name: str = "network") -> Network:
        """Make a network of `layers` for data of `input_shape` and `classes`; each `Dense()` gets `classes` units."""

        def sized(layer: Layer) -> Layer:
            wants = isinstance(layer, Dense) and layer.units is None
            return dataclasses.replace(layer, units=classes) if wants else layer  # type: ignore[call-arg]

        check_parts(layers)
        network = cls(map_layers(layers, sized), tuple(input_shape), name)
        if network.classes != classes:
            raise NetworkError(
                f"network {name!r} ends with {several(network.classes, 'score')}, but the data has "
                f"{several(classes, 'class', 'classes')}; "
                "leave out the units of the last dense layer to have them match"
            )
        return network

    @cached_property
    def nodes(self) -> tuple[NamedNode, ...]:
        """All layers that compute something, in the order in which they run, with names and inputs."""
        return expand(self.layers)

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
    def scores_means(self) -> bool:
        """Whether there are batch norms, and the scores are those of means over all pixels, as in residual networks."""
        nodes = {node.name: node for node in self.nodes}
        source = (self.nodes[-1].inputs or (INPUT,))[0]
        while source in nodes and isinstance(nodes[source].layer, (Dense, Dropout, Flatten)):
            hidden = isinstance(nodes[source].layer, Dense) and source not in self.nodes[-1].inputs
            source = INPUT if hidden else (nodes[source].inputs or (INPUT,))[0]
        pooled = source in nodes and isinstance(nodes[source].layer, GlobalAveragePool)
        return pooled and any(isinstance(node.layer, BatchNorm) for node in self.nodes)

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
