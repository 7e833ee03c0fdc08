"""What a network is: layers with shapes, counts and costs. Pure descriptions; no arrays, no processes.

`layers` describes each kind of layer, `network` puts them in a row and checks that they fit, `description` reads and
writes them as TOML and JSON, `zoo` holds the named networks, `initialization` draws first weights.

May import: `errors`.
"""

from adam_mp.network.layers import (
    AveragePool,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Layer,
    LocalResponseNorm,
    MaxPool,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from adam_mp.network.network import Network

__all__ = [
    "AveragePool",
    "Conv",
    "Dense",
    "Dropout",
    "Flatten",
    "Layer",
    "LocalResponseNorm",
    "MaxPool",
    "Network",
    "ReLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
]
