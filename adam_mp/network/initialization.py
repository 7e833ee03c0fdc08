"""First weights: He-normal where a ReLU follows, Glorot-normal elsewhere; biases zero."""

from __future__ import annotations

import math

import numpy as np

from adam_mp.network.layers import MaxPool, ReLU
from adam_mp.network.network import Network


def initial_weights(network: Network, seed: int) -> dict[str, np.ndarray]:
    """Draw parameters by name, float32, from the seed alone.

    Weights are `(inputs, outputs)`: their deviation is `sqrt(2 / inputs)` before a ReLU (He et al. 2015), else
    `sqrt(2 / (inputs + outputs))` (Glorot and Bengio 2010).
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    weights = {}
    for position, (name, layer) in enumerate(zip(network.names, network.layers, strict=True)):
        following = [after for after in network.layers[position + 1 :] if not isinstance(after, MaxPool)]
        rectified = isinstance(following[0], ReLU) if following else False
        for parameter, shape in layer.parameters(network.shapes[position]).items():
            if len(shape) == 1:
                weights[f"{name}.{parameter}"] = np.zeros(shape, np.float32)
                continue
            inputs, outputs = shape
            deviation = math.sqrt(2 / inputs if rectified else 2 / (inputs + outputs))
            weights[f"{name}.{parameter}"] = generator.standard_normal(shape, np.float32) * np.float32(deviation)
    return weights
