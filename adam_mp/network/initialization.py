"""First weights: normal with variance 1 / inputs, a tenth of that before the softmax; biases zero.

Smaller than He et al. (2015) propose for ReLU, on purpose: max-pooling raises activations by itself, and many
workers that update stale weights need a calm start. With the larger weights eight workers diverge in the first
hundred updates at learning rates that these bear.
"""

from __future__ import annotations

import math

import numpy as np

from adam_mp.network.network import Network


def initial_weights(network: Network, seed: int) -> dict[str, np.ndarray]:
    """Draw parameters by name, float32, from the seed alone.

    Weights are `(inputs, outputs)`.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    weights = {}
    for position, (name, layer) in enumerate(zip(network.names, network.layers, strict=True)):
        last = position == len(network.layers) - 2
        for parameter, shape in layer.parameters(network.shapes[position]).items():
            if len(shape) == 1:
                weights[f"{name}.{parameter}"] = np.zeros(shape, np.float32)
                continue
            deviation = math.sqrt((0.1 if last else 1.0) / shape[0])
            weights[f"{name}.{parameter}"] = generator.standard_normal(shape, np.float32) * np.float32(deviation)
    return weights
