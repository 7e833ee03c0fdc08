"""What a network is: layers with shapes and counts. Pure descriptions that own no arrays.

`layers` describes each kind of layer. `network` puts layers in a row and checks that they fit. `description` makes
networks from names, TOML files and functions, and writes and reads JSON. `zoo` holds the named networks.
`initialization` draws first weights.

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
