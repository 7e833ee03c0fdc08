"""Which layers of a network one operation computes: a layer, or several that one pass over the data does together.

A convolution is fused with the max-pooling and ReLU that follow it; a dense layer, a max-pooling or a sum with its
ReLU. A layer is fused only if no other one reads what comes before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from adam_mp.network import layers as kinds
from adam_mp.network.graph import INPUT, Graph
from adam_mp.network.joins import Add
from adam_mp.network.layer import Layer, Shape
from adam_mp.network.norms import BatchNorm, GroupNorm

_FOLLOWERS: dict[type[Layer], tuple[type[Layer], ...]] = {
    kinds.Conv: (kinds.ReLU, kinds.MaxPool),  # they commute, so either may come first
    kinds.MaxPool: (kinds.ReLU,),
    kinds.Dense: (kinds.ReLU,),
    BatchNorm: (kinds.ReLU,),
    GroupNorm: (kinds.ReLU,),
    Add: (kinds.ReLU,),
}


@dataclasses.dataclass(frozen=True)
class Group:
    """Layers of a network that one operation computes. `position` and `name` are those of the first node.

    `inputs` and `output` are names of values. `wanted` says for each input whether the backward pass needs its error,
    `trains` whether it needs that of the output; else the group has no backward pass. `whole` is whether the group runs
    on a whole batch at once, `stage` when it runs (see `fuse`). `way` is a convolution's backward way, None for the
    likely faster one. `sparse` says that an input of 0 needs no error, because a ReLU or dropout before made the 0, and
    stops the error.
    """

    position: int
    layers: tuple[Layer, ...]
    name: str
    inputs: tuple[str, ...]
    output: str
    input_shapes: tuple[Shape, ...]
    output_shape: Shape
    wanted: tuple[bool, ...]
    trains: bool
    whole: bool
    stage: int = 0
    way: str | None = None
    sparse: bool = False

    @property
    def batchwise(self) -> bool:
        """Whether each image's output depends on the whole batch, or on other partitions."""
        return self.layers[0].batchwise

    @property
    def input_shape(self) -> Shape:
        """The shape of the first input."""
        return self.input_shapes[0]


def fuse(network: Graph, ways: Mapping[str, str] | None = None) -> list[Group]:
    """Return a network's layers, without its softmax, in groups for one operation each; `ways`: name -> `Group.way`.

    Groups run in stages. A stage is over when it has run for all images of the batch; then the next begins. A group
    that is batchwise takes the statistics of its input in its own stage, and computes its output in the next. The
    groups of the flat tail run in the last stages, after all of the others.
    """
    groups = list(_fused(network, ways or {}))
    stages = {INPUT: 0}
    for whole in (False, True):
        begin = max(stages.values()) + 1 if whole else 0
        for number, group in enumerate(groups):
            if group.whole == whole:
                stage = max(begin, *(stages[name] for name in group.inputs))
                groups[number] = dataclasses.replace(group, stage=stage)
                stages[group.output] = stage + group.batchwise
    return groups


def _fused(network: Graph, ways: Mapping[str, str]) -> Iterator[Group]:
    done: set[int] = set()
    for position, node in enumerate(network.nodes[:-1]):
        if position in done:
            continue
        chain = [position]
        followers = _followers(node.layer)
        while (follower := _only_reader(network, chain[-1])) is not None:
            after = network.nodes[follower].layer
            kind = type(after)
            if kind not in followers or (isinstance(after, kinds.MaxPool) and after.margin):
                break
            followers.remove(kind)  # each at most once
            chain.append(follower)
        done.update(chain)
        name, inputs, output = network.names[position], node.inputs, network.names[chain[-1]]
        wanted = tuple(read in network.trained_values for read in inputs)
        yield Group(
            position, tuple(network.nodes[each].layer for each in chain), name, inputs, output,
            tuple(network.shape_of[read] for read in inputs), network.shape_of[output],
            wanted, output in network.trained_values, name in network.tail,
            way=ways.get(name) if wanted[0] else None, sparse=_is_sparse(network, inputs[0]),
        )  # fmt: skip


def _followers(layer: Layer) -> list[type[Layer]]:
    """Return the kinds of layers, each at most once, that may be computed together with the layer before them."""
    if isinstance(layer, kinds.Conv) and layer.groups > 1:
        return [kinds.ReLU]
    return next((list(after) for kind, after in _FOLLOWERS.items() if isinstance(layer, kind)), [])


def _only_reader(network: Graph, position: int) -> int | None:
    """Return the node that reads the value of the node at `position`, if there is only one."""
    found = network.readers[network.names[position]]
    return found[0] if len(found) == 1 else None


def _is_sparse(network: Graph, value: str) -> bool:
    """Return whether a value fits `Group.sparse`: after the ReLU before it, no layer adds values up."""
    while value != INPUT:
        node = network.nodes[network.names.index(value)]
        if isinstance(node.layer, kinds.ReLU):
            return True
        if not isinstance(node.layer, (kinds.Dropout, kinds.Flatten, kinds.MaxPool)):
            return False
        (value,) = node.inputs
    return False
