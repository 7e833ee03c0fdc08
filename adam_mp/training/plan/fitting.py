"""Over how many machines a model that does not fit this one's memory must be cut so that each has room for its part."""

from __future__ import annotations

import math
from collections.abc import Collection

from adam_mp.errors import AdamError
from adam_mp.memory.segment import free_space
from adam_mp.network.cuts import MOST_PARTS
from adam_mp.network.graph import Graph
from adam_mp.network.layers import Dense
from adam_mp.network.network import Network
from adam_mp.network.partition import NONE, partition, ways_of

_TRIED = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, MOST_PARTS)
_BESIDE = 256 << 20  # bytes of a machine's processes


def fitting_advice(network: Network, states: int, direct: bool) -> str:
    """Return how the model could be trained on machines with as much memory as this one; "" if it cannot be said.

    `states` is how many numbers the optimizer keeps for each parameter. With `direct`, dense layers that are cut are
    updated without a gradient.
    """
    free = free_space(None)
    for parts in _TRIED:
        largest = _largest_part(network, parts, states, direct)
        if largest is not None and largest + _BESIDE <= free:
            return f"; cut over {parts} machines like this one it fits: --partition 1/{parts} --listen HOST:PORT"
    return ""


def _largest_part(network: Network, parts: int, states: int, direct: bool) -> int | None:
    """Return the bytes of the largest partition, if all layers that can are cut by units or channels."""
    ways = {}
    for node, shape in zip(network.nodes, network.shapes[1:], strict=True):
        if possible := ways_of(node.layer, shape, parts):
            ways[node.name] = next((way for way in reversed(possible) if way != NONE), NONE)
    try:
        plan = partition(network, parts, ways)
    except AdamError:
        return None
    return max(_bytes_of(graph, plan.columns if direct else (), states) for graph in plan.graphs)


def _bytes_of(graph: Graph, direct: Collection[str], states: int) -> int:
    """Return the bytes of a partition's weights, optimizer state and gradient, without that of the tensors `direct`."""
    dense = [f"{node.name}.weight" for node in graph.nodes if isinstance(node.layer, Dense)]
    gradient = graph.parameter_count - sum(math.prod(graph.parameters[name]) for name in dense if name in direct)
    return 4 * (graph.parameter_count * (1 + states) + gradient)
