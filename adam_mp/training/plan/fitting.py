"""Over how many machines a model that does not fit this one's memory must be cut so that each has room for its part."""

from __future__ import annotations

from adam_mp.errors import AdamError
from adam_mp.memory.segment import free_space
from adam_mp.network.cuts import MOST_PARTS
from adam_mp.network.network import Network
from adam_mp.network.partition import NONE, partition, ways_of

_TRIED = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, MOST_PARTS)
_BESIDE = 256 << 20  # bytes of a machine's processes


def fitting_advice(network: Network, spaces: int) -> str:
    """Return how the model could be trained on machines with as much memory as this one; "" if it cannot be said.

    `spaces` is how many numbers a partition keeps for each parameter: the weight, the optimizer's, a gradient.
    """
    free = free_space(None)
    for parts in _TRIED:
        largest = _largest_part(network, parts)
        if largest is not None and 4 * largest * spaces + _BESIDE <= free:
            return f"; cut over {parts} machines like this one it fits: --partition 1/{parts} --listen HOST:PORT"
    return ""


def _largest_part(network: Network, parts: int) -> int | None:
    """Return the parameters of the largest partition, if all layers that can are cut by units or channels."""
    ways = {}
    for node, shape in zip(network.nodes, network.shapes[1:], strict=True):
        if possible := ways_of(node.layer, shape, parts):
            ways[node.name] = next((way for way in reversed(possible) if way != NONE), NONE)
    try:
        return max(graph.parameter_count for graph in partition(network, parts, ways).graphs)
    except AdamError:
        return None
