"""A network: a graph of layers that fit each other, and the shapes, names and counts that follow from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property

from adam_mp.errors import NetworkError, several
from adam_mp.network.expansion import check_parts, expand, map_layers
from adam_mp.network.graph import INPUT, Graph
from adam_mp.network.joins import NamedNode, Part, Row
from adam_mp.network.layer import WHITEN, Layer, Shape
from adam_mp.network.layers import Dense, Dropout, Flatten, GlobalAveragePool, Softmax
from adam_mp.network.norms import BatchNorm


@dataclasses.dataclass(frozen=True)
class Network(Graph):
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
    def nodes(self) -> tuple[NamedNode, ...]:  # type: ignore[override]
        """All layers that compute something, in the order in which they run, with names and inputs."""
        return expand(self.layers)

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
