"""What a cut of a network costs: bytes that travel, operations and weights of each partition."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

from adam_mp.network.graph import INPUT
from adam_mp.network.part_layers import Fetch, Message, PartBatchNorm, SumOfParts
from adam_mp.network.partition import PartitionPlan
from adam_mp.network.spread import Interval

_REAL = 4  # bytes of a number
# For choosing between cuts: what a core of today does in a second, and a link of 10 Gbit/s.
_CONNECTIONS_PER_SECOND = 8e9  # forward and backward, 6 operations for each
_BYTES_PER_SECOND = 1.25e9
_WEIGHT_PASSES = 5  # times that an update moves each weight between memory and core
_MEMORY_BYTES_PER_SECOND = 8e9
BATCH = 32


class Traffic(NamedTuple):
    """Bytes that partitions send: `of_image[p]` for each image, `of_batch[p]` for each batch, by partition p."""

    of_image: tuple[float, ...]
    of_batch: tuple[float, ...]

    def per_image(self, batch: int) -> tuple[float, ...]:
        """Return the bytes that each partition sends for an image, in batches of so many."""
        return tuple(one + all_ / batch for one, all_ in zip(self.of_image, self.of_batch, strict=True))


@dataclasses.dataclass(frozen=True)
class PartCost:
    """What one partition has and does: parameters (numbers), connections of an image, bytes sent for an image."""

    parameters: int
    connections: int
    sent: float


def messages_of(plan: PartitionPlan) -> Iterator[tuple[str, Message]]:
    """Yield (node of the network, message) of all messages; a fetched value is counted to its first reader."""
    for part, graph in enumerate(plan.graphs):
        for node in graph.nodes:
            if isinstance(node.layer, (Fetch, SumOfParts, PartBatchNorm)):
                reader = node.name.rpartition(">")[2]
                yield from ((reader, each) for each in node.layer.messages(node.name) if each.sender == part)


def input_rows(plan: PartitionPlan, part: int) -> Interval:
    """Return the rows of the images that a partition reads."""
    rows = Interval(0, plan.network.input_shape[0])
    readers = [node for node in plan.graphs[part].nodes if INPUT in node.inputs]
    needed = [node.layer.needs[part].rows.meet(rows) for node in readers if isinstance(node.layer, Fetch)]
    if len(needed) < len(readers):
        return rows
    return Interval(min(each.begin for each in needed), max(each.end for each in needed))


def input_bytes(plan: PartitionPlan, part: int) -> int:
    """Return the bytes of the rows of an image that a partition reads."""
    return _REAL * input_rows(plan, part).size * math.prod(plan.network.input_shape[1:])


def traffic_of(plan: PartitionPlan) -> dict[str, Traffic]:
    """Return what each partition sends for each node of the network, forward and backward, gradients included.

    A gradient that is a sum over partitions is summed up in parts: each partition sums one part, and sends it to all
    others.
    """
    parts = plan.parts
    images: dict[str, list[float]] = {node.name: [0.0] * parts for node in plan.network.nodes}
    batches: dict[str, list[float]] = {node.name: [0.0] * parts for node in plan.network.nodes}
    for name, message in messages_of(plan):
        sent = batches if message.of_batch else images
        sent[name][message.sender] += message.bytes(1)
    for name in plan.summed:
        size = math.prod(plan.network.parameters[name])
        for part in range(parts):
            batches[name.rpartition(".")[0]][part] += 2 * _REAL * size * (parts - 1) / parts
    return {name: Traffic(tuple(images[name]), tuple(batches[name])) for name in images}


def part_costs(plan: PartitionPlan, batch: int) -> list[PartCost]:
    """Return the costs of each partition for batches of so many images."""
    traffic = [each.per_image(batch) for each in traffic_of(plan).values()]
    return [
        PartCost(graph.parameter_count, graph.connections, sum(each[part] for each in traffic))
        for part, graph in enumerate(plan.graphs)
    ]


def work_seconds(plan: PartitionPlan) -> float:
    """Return about how long the work for an image takes, of all partitions together, on a core each."""
    return sum(graph.connections for graph in plan.graphs) / _CONNECTIONS_PER_SECOND


def seconds_of(plan: PartitionPlan, batch: int = BATCH) -> float:
    """Return about how long an image takes, to compare cuts: the slowest partition's work, and its weights and bytes.

    The work of the slowest counts as if nothing ran beside it, because partitions wait for each other.
    """
    costs = part_costs(plan, batch)
    work = max(cost.connections for cost in costs) / _CONNECTIONS_PER_SECOND
    weights = max(cost.parameters for cost in costs) * _REAL * _WEIGHT_PASSES / _MEMORY_BYTES_PER_SECOND / batch
    return work + weights + max(cost.sent for cost in costs) / _BYTES_PER_SECOND
