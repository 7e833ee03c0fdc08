"""One network cut over partitions that are together one replica (paper, sections 2.3 and 3.2): a plan, as pure data.

Each partition computes its part of every layer. Its part is a graph of its own: the same nodes with smaller shapes, and
between them the nodes of `part_layers`, which get from other partitions what a layer needs.

    rows      each partition has all weights and computes some rows of the image; borders travel, and the gradients
              of the weights are summed over all partitions
    channels  each partition has the weights of some output channels; the input is gathered
    units     the same of a dense layer
    none      every partition has all weights and computes everything; the input is gathered

Convolutions and dense layers are cut by one of these ways. All other layers follow the value that they read, and gather
it only if they cannot work on a part.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

from adam_mp.errors import NetworkError, several
from adam_mp.network import layers as kinds
from adam_mp.network.graph import INPUT, Graph
from adam_mp.network.joins import Add, Concat, Join, Multiply, NamedNode
from adam_mp.network.layer import Layer, Shape
from adam_mp.network.network import Network
from adam_mp.network.norms import BatchNorm, GroupNorm, LayerNorm
from adam_mp.network.part_layers import (
    Draw,
    Fetch,
    PartBatchNorm,
    PartDropout,
    PartStochasticDepth,
    SumOfParts,
)
from adam_mp.network.spread import Box, Image, Interval, Spread, box_of, even

ROWS, CHANNELS, UNITS, NONE = "rows", "channels", "units", "none"


@dataclasses.dataclass(frozen=True)
class PartGraph(Graph):
    """What one partition computes."""

    nodes: tuple[NamedNode, ...]
    input_shape: Shape


@dataclasses.dataclass(frozen=True)
class PartitionPlan:
    """A network cut over partitions: `ways` by name of each convolution and dense layer, `graphs` by partition.

    `columns` says of which columns of a parameter (its last axis) each partition has the weights; every partition has
    all of a parameter that is not in it. `summed` names the parameters of which each partition computes a part of the
    gradient, which is the sum of all parts. Every other gradient is computed whole where the weights are.
    """

    network: Network
    ways: Mapping[str, str]
    graphs: tuple[PartGraph, ...]
    columns: Mapping[str, tuple[Interval, ...]]
    summed: tuple[str, ...]

    @property
    def parts(self) -> int:
        """How many partitions there are."""
        return len(self.graphs)


class _Need(NamedTuple):
    """What the parts of a node need of one input: a box each, with padding.

    `sums_errors` is whether the errors of what several partitions read are to be summed, see `Fetch`.
    """

    boxes: tuple[Box, ...]
    margin: int = 0
    fill: float = 0.0
    sums_errors: bool = True


class _Cut(NamedTuple):
    """A node cut into parts: their layers, what they need of each input, and how their output lies.

    `columns` are those of the node's parameters that each part has, None if each has all. `summed` is whether the
    gradients of the parameters are to be summed.
    """

    layers: tuple[Layer, ...]
    needs: tuple[_Need, ...]
    out: Spread
    columns: tuple[Interval, ...] | None = None
    summed: bool = False


def ways_of(layer: Layer, output_shape: Shape, parts: int) -> tuple[str, ...]:
    """Return the ways in which a layer can be cut over so many partitions; none for one that follows its input."""
    if isinstance(layer, kinds.Dense):
        return (UNITS, NONE) if output_shape[0] >= parts else (NONE,)
    if not isinstance(layer, kinds.Conv):
        return ()
    ways = (ROWS,) if output_shape[0] >= parts else ()
    apart = layer.channels if layer.groups == 1 else layer.groups
    return (*ways, *((CHANNELS,) if apart >= parts else ()), NONE)


def partition(network: Network, parts: int, ways: Mapping[str, str]) -> PartitionPlan:
    """Cut a network over `parts` partitions; `ways` has the way of each convolution and dense layer by its name.

    Raises NetworkError, naming the layer and what is possible, if a layer cannot be cut in its way.
    """
    for node, shape in zip(network.nodes, network.shapes[1:], strict=True):
        possible = ways_of(node.layer, shape, parts)
        if possible and ways[node.name] not in possible:
            raise NetworkError(
                f"{node.name} cannot be cut by {ways[node.name]} over {several(parts, 'partition')}: its output is "
                f"{shape}; possible: {', '.join(map(repr, possible))}"
            )
    return _Partitioner(network, parts, ways).plan()


class _Partitioner:
    """Cuts the nodes one after the other, and notes how each value lies."""

    def __init__(self, network: Network, parts: int, ways: Mapping[str, str]) -> None:
        self.network, self.parts, self.ways = network, parts, ways
        self.spreads = {INPUT: Spread.whole(_image(network.input_shape), parts, flat=False)}
        self.nodes: list[list[NamedNode]] = [[] for _ in range(parts)]
        self.columns: dict[str, tuple[Interval, ...]] = {}
        self.summed: list[str] = []
        self._fetched: dict[tuple[str, _Need], str] = {}

    def plan(self) -> PartitionPlan:
        """Cut all nodes; return the plan."""
        for place, node in enumerate(self.network.nodes):
            cut = self._cut(place, node)
            names = [self._fetch(node, *pair) for pair in zip(node.inputs, cut.needs, strict=True)]
            own = node.name
            if isinstance(node.layer, kinds.GlobalAveragePool) and self.spreads[node.inputs[0]].is_by_rows:
                own = f"{node.name}.part"
            for part, layer in enumerate(cut.layers):
                self.nodes[part].append(NamedNode(layer, own, tuple(names)))
            if own != node.name:
                self._sum_parts(node, own)
            self.spreads[node.name] = cut.out
            shape = self.network.shape_of[node.inputs[0]]
            for parameter in node.layer.parameters(shape):
                name = f"{node.name}.{parameter}"
                if cut.columns is not None:
                    self.columns[name] = cut.columns
                if cut.summed:
                    self.summed.append(name)
        graphs = tuple(PartGraph(tuple(nodes), self.network.input_shape) for nodes in self.nodes)
        return PartitionPlan(self.network, dict(self.ways), graphs, self.columns, tuple(self.summed))

    def _fetch(self, node: NamedNode, value: str, need: _Need) -> str:
        """Return the name of the value that has what a node needs: `value` itself, or a node that fetches it."""
        source = self.spreads[value]
        if value not in self.network.trained_values:
            need = need._replace(sums_errors=False)
        complete = not (source.is_whole and need.sums_errors)
        if need.boxes == source.boxes and not need.margin and complete:
            return value
        key = value, need
        if key not in self._fetched:
            name = self._fetched[key] = f"{value}>{node.name}"
            for part, nodes in enumerate(self.nodes):
                layer = Fetch(part, source, need.boxes, need.margin, need.fill, need.sums_errors)
                nodes.append(NamedNode(layer, name, (value,)))
        return self._fetched[key]

    def _sum_parts(self, node: NamedNode, own: str) -> None:
        """Append the nodes that add up the means of some rows to those of all."""
        source = self.spreads[node.inputs[0]]
        shares = tuple(box.rows.size / source.image[0] for box in source.boxes)
        for part, nodes in enumerate(self.nodes):
            nodes.append(NamedNode(SumOfParts(part, shares, source.image[2]), node.name, (own,)))

    def _cut(self, place: int, node: NamedNode) -> _Cut:
        layer = node.layer
        sources = [self.spreads[name] for name in node.inputs]
        if isinstance(layer, (kinds.Conv, kinds.Dense)):
            way = self.ways[node.name]
            if way == ROWS:
                return self._by_rows(place, node, sources[0])
            return self._by_channels(node, sources[0]) if way in (CHANNELS, UNITS) else self._everywhere(place, node)
        if isinstance(layer, (Add, Concat, Multiply)):
            return self._join(place, node, sources)
        (source,) = sources
        if isinstance(layer, (kinds.MaxPool, kinds.AveragePool)) and source.is_by_rows:
            fits = self.network.shape_of[node.name][0] >= self.parts
            return self._by_rows(place, node, source) if fits else self._everywhere(place, node)
        if source.is_whole or not _follows(layer, source):
            return self._everywhere(place, node)
        return self._follow(place, node, source)

    def _everywhere(self, place: int, node: NamedNode) -> _Cut:
        """Cut nothing: all partitions compute the same, from whole inputs."""
        shape, source = self.network.shape_of[node.name], self.spreads[node.inputs[0]]
        boxes = [(box_of(self.spreads[name].image),) * self.parts for name in node.inputs]
        needs = tuple(_Need(each, sums_errors=False) for each in boxes)
        flattened = isinstance(node.layer, kinds.Flatten) or (source.flat and _keeps_shape(node.layer))
        image, flat = source.image if flattened else _image(shape), len(shape) == 1
        out = Spread.whole(image, self.parts, flat)
        layer = _drawn(node.layer, Draw.of_all(place, shape))
        return _Cut((layer,) * self.parts, needs, out)

    def _rows_of(self, place: int) -> tuple[tuple[Interval, ...], bool]:
        """Return the rows of a node's output that each part computes, and whether some are computed twice.

        A convolution computes what its pooling reads, if nothing else reads its output; a ReLU may come between.
        """
        network, node = self.network, self.network.nodes[place]
        height, behind = network.shape_of[node.name][0], place
        while isinstance(node.layer, kinds.Conv):
            readers = network.readers[network.names[behind]]
            if len(readers) != 1:
                break
            behind = readers[0]
            after = network.nodes[behind].layer
            if isinstance(after, (kinds.MaxPool, kinds.AveragePool)) and after.margin == 0:
                pooled = network.shape_of[network.names[behind]][0]
                if pooled < self.parts:
                    break
                rows = tuple(_window(each, after.size, after.step, 0) for each in even(pooled, self.parts))
                return rows, rows != even_ends(rows, height)
            if not isinstance(after, kinds.ReLU):
                break
        return even(height, self.parts), False

    def _by_rows(self, place: int, node: NamedNode, source: Spread) -> _Cut:
        """Cut a convolution or pooling by the rows of its output; each part reads the rows under its windows."""
        layer: Any = node.layer
        shape = self.network.shape_of[node.name]
        rows, shared = self._rows_of(place)
        size, step = _size_and_step(layer)
        channels = source.boxes[0].channels if source.is_by_rows else Interval(0, source.image[2])
        boxes = tuple(Box(_window(each, size, step, layer.margin), channels) for each in rows)
        if layer.margin == 0 and source.is_by_rows and _reads_own(source.boxes, boxes, rows, size, step):
            boxes = source.boxes
        fill = _LOWEST if isinstance(layer, kinds.MaxPool) else 0.0
        need = _Need(boxes, layer.margin, fill)
        out = Spread.by_rows(_image(shape), rows, shared)
        layers = (dataclasses.replace(layer, padding=0),) * self.parts
        return _Cut(layers, (need,), out, summed=True)

    def _by_channels(self, node: NamedNode, source: Spread) -> _Cut:
        """Cut a convolution or dense layer by its output channels or units."""
        layer: Any = node.layer
        shape = self.network.shape_of[node.name]
        if isinstance(layer, kinds.Dense):
            columns = even(shape[0], self.parts)
            layers = tuple(dataclasses.replace(layer, units=each.size) for each in columns)
        elif layer.groups == 1:
            columns = even(layer.channels, self.parts)
            layers = tuple(dataclasses.replace(layer, channels=each.size) for each in columns)
        else:
            groups = even(layer.groups, self.parts)
            columns = _times(groups, layer.channels // layer.groups)
            layers = tuple(
                dataclasses.replace(layer, channels=column.size, groups=group.size)
                for column, group in zip(columns, groups, strict=True)
            )
        boxes = (box_of(source.image),) * self.parts
        if isinstance(layer, kinds.Conv) and layer.groups > 1:
            read = _times(even(layer.groups, self.parts), source.image[2] // layer.groups)
            boxes = tuple(Box(boxes[0].rows, each) for each in read)
        flat = len(shape) == 1
        return _Cut(layers, (_Need(boxes),), Spread.by_channels(_image(shape), columns, flat), columns)

    def _follow(self, place: int, node: NamedNode, source: Spread) -> _Cut:
        """Cut a layer as the value that it reads."""
        layer, parts = node.layer, range(self.parts)
        need = _Need(source.boxes)
        channels = tuple(box.channels for box in source.boxes) if source.is_by_channels else None
        if isinstance(layer, kinds.GlobalAveragePool):
            image: Image = (1, 1, source.image[2])
            same = (layer,) * self.parts
            if channels is None:
                return _Cut(same, (need,), Spread.whole(image, self.parts, flat=True))
            return _Cut(same, (need,), Spread.by_channels(image, channels, flat=True))
        out = dataclasses.replace(source, flat=source.flat or isinstance(layer, kinds.Flatten))
        if isinstance(layer, (kinds.MaxPool, kinds.AveragePool)):
            shape = self.network.shape_of[node.name]
            out = Spread.by_channels(_image(shape), tuple(box.channels for box in source.boxes), flat=False)
        layers = tuple(self._following(layer, place, source, part) for part in parts)
        return _Cut(layers, (need,), out, channels, summed=channels is None and isinstance(layer, LayerNorm))

    def _following(self, layer: Layer, place: int, source: Spread, part: int) -> Layer:
        """Return the layer of a part that follows its input."""
        box = source.boxes[part]
        if isinstance(layer, BatchNorm) and source.is_by_rows:
            pixels = tuple(each.rows.size * source.image[1] for each in source.boxes)
            values = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
            return PartBatchNorm(**values, part=part, pixels=pixels, channels=source.image[2])
        if isinstance(layer, GroupNorm):
            groups = box.channels.size // (source.image[2] // layer.groups)
            return dataclasses.replace(layer, groups=groups)
        return _drawn(layer, Draw(place, source.image, box))

    def _join(self, place: int, node: NamedNode, sources: list[Spread]) -> _Cut:
        """Cut a layer that reads several values: as the first of them that is cut, if the others can be cut so."""
        layers = (node.layer,) * self.parts
        first = next((source for source in sources if not source.is_whole), None)
        if isinstance(node.layer, Multiply):
            first = None if sources[0].is_whole else sources[0]
        if first is None or first.shared:
            return self._everywhere(place, node)
        if isinstance(node.layer, Concat):
            if not first.is_by_rows or first.flat:
                return self._everywhere(place, node)
            rows = tuple(box.rows for box in first.boxes)
            needs = tuple(_Need(Spread.by_rows(source.image, rows).boxes) for source in sources)
            return _Cut(layers, needs, Spread.by_rows(_image(self.network.shape_of[node.name]), rows))
        each = list[_Need]()
        for source in sources:
            if source.image == first.image and source.flat == first.flat:
                each.append(_Need(first.boxes))
            elif isinstance(node.layer, Multiply) and source.image == (1, 1, first.image[2]):
                boxes = (box_of(source.image),) * self.parts
                if first.is_by_channels:
                    boxes = tuple(Box(Interval(0, 1), box.channels) for box in first.boxes)
                each.append(_Need(boxes))
            else:
                return self._everywhere(place, node)
        return _Cut(layers, tuple(each), first)


_LOWEST = float("-inf")


def even_ends(rows: tuple[Interval, ...], height: int) -> tuple[Interval, ...]:
    """Return intervals that begin as `rows`, without overlaps or gaps, and end at `height`."""
    begins = [0, *(each.begin for each in rows[1:]), height]
    return tuple(Interval(begin, end) for begin, end in itertools.pairwise(begins))


def _image(shape: Shape) -> Image:
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (1, 1, shape[0])


def _window(rows: Interval, size: int, step: int, margin: int) -> Interval:
    """Return the rows of the input under the windows of some rows of the output; those below 0 are padding."""
    begin = rows.begin * step - margin
    return Interval(begin, (rows.end - 1) * step - margin + size)


def _size_and_step(layer: Any) -> tuple[int, int]:
    return (layer.extent, layer.stride) if isinstance(layer, kinds.Conv) else (layer.size, layer.step)


def _reads_own(
    own: tuple[Box, ...], needed: tuple[Box, ...], rows: tuple[Interval, ...], size: int, step: int
) -> bool:  # fmt: skip
    """Return whether every part has what it needs, and computes just its rows if it reads all that it has."""
    return all(
        has.rows.begin == need.rows.begin and has.covers(need) and (has.rows.size - size) // step + 1 == out.size
        for has, need, out in zip(own, needed, rows, strict=True)
    )


def _times(intervals: tuple[Interval, ...], factor: int) -> tuple[Interval, ...]:
    return tuple(Interval(each.begin * factor, each.end * factor) for each in intervals)


def _keeps_shape(layer: Layer) -> bool:
    return type(layer).output_shape is Layer.output_shape and not isinstance(layer, Join)


def _follows(layer: Layer, source: Spread) -> bool:
    """Return whether a layer can work on the parts of a value that is cut."""
    if source.shared:
        return isinstance(layer, kinds.ReLU)
    if isinstance(layer, (BatchNorm, GroupNorm, LayerNorm)) and source.flat and source.image[:2] != (1, 1):
        return False  # parameters by feature, of which a part would have scattered ones
    if isinstance(layer, (kinds.Softmax, kinds.Dense)):
        return False
    if isinstance(layer, kinds.LocalResponseNorm):
        return source.is_by_rows and not source.flat
    if isinstance(layer, LayerNorm):
        return source.is_by_rows and not source.flat
    if isinstance(layer, GroupNorm):
        size = source.image[2] // layer.groups
        return source.is_by_channels and all(box.channels.begin % size == 0 for box in source.boxes)
    if isinstance(layer, BatchNorm) and source.flat:
        return source.is_by_channels
    return True


def _drawn(layer: Layer, draw: Draw) -> Layer:
    """Return a layer that draws as the one in the whole network does."""
    if isinstance(layer, kinds.Dropout):
        return PartDropout(layer.rate, draw)
    return PartStochasticDepth(layer.rate, draw) if isinstance(layer, kinds.StochasticDepth) else layer
