"""What a network is: a graph of layers with shapes and counts. Pure descriptions that own no arrays.

`layer` is what all layers have; `layers` and `norms` describe each kind. `joins` holds nodes with names and the layers
that have branches; `expansion` makes one row of nodes of them, `graph` tells what follows from nodes, and `network`
checks that they fit. `partition` cuts a network over partitions, with the layers of `part_layers` between them, and
`spread` says how a value lies over them; `cuts` chooses the way of each layer, by what `traffic` says that a cut costs.
`tables` turns layers into tables and back. `description` makes networks from names, TOML files and functions, and
writes and reads JSON. `zoo` holds the named networks. `initialization` draws first weights.

May import: `errors`.
"""

from adam_mp.network.joins import Add, Concat, Multiply, Node, Residual
from adam_mp.network.layer import Layer
from adam_mp.network.layers import (
    GELU,
    AveragePool,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool,
    HardSwish,
    LeakyReLU,
    LocalResponseNorm,
    MaxPool,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    SqueezeExcite,
    StochasticDepth,
    Tanh,
)
from adam_mp.network.network import Network
from adam_mp.network.norms import BatchNorm, GroupNorm, LayerNorm

__all__ = [
    "Add",
    "AveragePool",
    "BatchNorm",
    "Concat",
    "Conv",
    "Dense",
    "Dropout",
    "Flatten",
    "GELU",
    "GlobalAveragePool",
    "GroupNorm",
    "HardSwish",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "LocalResponseNorm",
    "MaxPool",
    "Multiply",
    "Network",
    "Node",
    "ReLU",
    "ReLU6",
    "Residual",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "SqueezeExcite",
    "StochasticDepth",
    "Tanh",
]
