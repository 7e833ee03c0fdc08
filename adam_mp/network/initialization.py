"""First weights: normal with variance 1 / inputs, a tenth of that before the softmax; biases zero.

He et al. (2015) propose variance 2 / inputs for ReLU. These weights are smaller on purpose: max-pooling raises
activations by itself, and many workers that update stale weights need small gradients at the start. At the same
learning rate, eight workers train with these weights, and with the larger ones diverge in the first hundred updates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from adam_mp.network.network import Network


def initial_weights(network: Network, seed: int) -> dict[str, np.ndarray]:
    """Return the first parameters by name, float32, drawn from the seed alone.

    Weights have the shape `(inputs, outputs)`.
    """
    weights = {name: np.empty(shape, np.float32) for name, shape in network.parameters.items()}
    draw_weights(network, seed, weights)
    return weights


def draw_weights(network: Network, seed: int, weights: Mapping[str, np.ndarray]) -> None:
    """Draw the same numbers as `initial_weights` into `weights`, contiguous float32 arrays by name."""
    generator = np.random.Generator(np.random.PCG64(seed))
    for node, input_shape in zip(network.nodes, network.input_shapes, strict=True):
        last = (node.name,) == network.nodes[-1].inputs
        for parameter, shape in node.layer.parameters(input_shape).items():
            tensor = weights[f"{node.name}.{parameter}"]
            if len(shape) == 1:
                tensor[...] = node.layer.first(parameter)
                continue
            generator.standard_normal(dtype=np.float32, out=tensor)
            tensor *= np.float32(math.sqrt((0.1 if last else 1.0) / shape[0]))
