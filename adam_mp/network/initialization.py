"""First weights, by a layer's `init`. Biases are zero at first; norms say themselves what they begin with.

    auto      normal with variance 1 / inputs, a tenth of that before the softmax
    he        normal with variance 2 / inputs (He et al. 2015)
    glorot    normal with variance 2 / (inputs + outputs) (Glorot and Bengio 2010)
    identity  the first outputs are the inputs, as far as there are both; all others as auto
    zero      zeros
    whiten    of a convolution that reads images: the principal components of their patches, so that each output has
              variance 1, then the same with the other sign, all others as auto (Jordan 2024, *94% on CIFAR-10 in 3.29
              Seconds on a Single GPU*, section 3.2)

Inputs and outputs are those of one weight: a convolution has size * size * channels of a group of each.

He et al. propose variance 2 / inputs for ReLU. Those of auto are smaller on purpose: max-pooling raises activations by
itself, and many workers that update stale weights need small gradients at the start. At the same learning rate, eight
workers train with these weights, and with the larger ones diverge in the first hundred updates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from adam_mp.errors import NetworkError
from adam_mp.network.joins import Add
from adam_mp.network.layer import WHITEN, Layer
from adam_mp.network.layers import Conv
from adam_mp.network.network import Network

_BEFORE_SOFTMAX = 0.1
_ROW_BY_ROW = ("auto", "he", "glorot", "zero")  # whose weights are drawn one by one
_PIECE = 1 << 20  # numbers that are drawn at a time
_LEAST_VARIANCE = 5e-4  # added to the variance of a principal component


def initial_weights(network: Network, seed: int, pictures: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return the first parameters by name, float32, drawn from the seed; those to whiten are measured on `pictures`.

    Weights have the shape `(inputs, outputs)`. `pictures` are normalised ones, float32 [k, h, w, c]; they are needed if
    a layer whitens, else NetworkError is raised.
    """
    weights = {name: np.empty(shape, np.float32) for name, shape in network.parameters.items()}
    draw_weights(network, seed, weights, pictures)
    return weights


def draw_weights(network: Network, seed: int, weights: Mapping[str, Any], pictures: np.ndarray | None = None) -> None:
    """Draw the same numbers as `initial_weights` into `weights`, float32 arrays by name, contiguous or in parts.

    A tensor in parts is drawn some rows at a time; one whose first weights do not follow row by row is drawn whole.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    ends = branch_ends(network)
    for node, input_shape in zip(network.nodes, network.input_shapes, strict=True):
        last = (node.name,) == network.nodes[-1].inputs
        for parameter, shape in node.layer.parameters(input_shape).items():
            tensor = weights[f"{node.name}.{parameter}"]
            if len(shape) == 1:
                tensor[...] = node.layer.first(parameter, node.name in ends)
            elif not isinstance(tensor, np.ndarray) and getattr(node.layer, "init", "auto") in _ROW_BY_ROW:
                for rows in _pieces(shape):
                    drawn = np.empty((rows.stop - rows.start, *shape[1:]), np.float32)
                    generator.standard_normal(dtype=np.float32, out=drawn)
                    drawn *= _deviation(node.layer, shape, last)
                    tensor[rows] = drawn
            else:
                drawn = tensor if isinstance(tensor, np.ndarray) else np.empty(shape, np.float32)
                generator.standard_normal(dtype=np.float32, out=drawn)
                _scale(node.layer, drawn, last)
                if isinstance(node.layer, Conv) and node.layer.init == WHITEN:
                    _whiten(node.name, node.layer, drawn, pictures)
                if drawn is not tensor:
                    tensor[...] = drawn


def branch_ends(network: Network) -> frozenset[str]:
    """Return the names of the nodes that end the layers of a residual: the first value of a sum, read by it alone."""
    return frozenset(
        node.inputs[0]
        for number, node in enumerate(network.nodes)
        if isinstance(node.layer, Add) and network.readers[node.inputs[0]] == (number,)
    )


def _scale(layer: Layer, tensor: np.ndarray, last: bool) -> None:
    """Turn numbers of variance 1 into first weights; `last` is whether the softmax follows."""
    tensor *= _deviation(layer, tensor.shape, last)
    if getattr(layer, "init", "auto") == "identity":
        _pass_through(layer, tensor)


def _deviation(layer: Layer, shape: tuple[int, ...], last: bool) -> np.float32:
    """Return the standard deviation of first weights of this shape; `last` is whether the softmax follows."""
    init, inputs, outputs = getattr(layer, "init", "auto"), *shape
    if isinstance(layer, Conv):
        outputs = layer.size**2 * layer.channels // layer.groups
    variances = {"he": 2 / inputs, "glorot": 2 / (inputs + outputs), "zero": 0.0}
    return np.float32(math.sqrt(variances.get(init, (_BEFORE_SOFTMAX if last else 1.0) / inputs)))


def _pieces(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield the rows of a tensor in pieces of a few megabytes."""
    step = max(1, _PIECE // math.prod(shape[1:]))
    for first in range(0, shape[0], step):
        yield slice(first, min(first + step, shape[0]))


def _whiten(name: str, layer: Conv, tensor: np.ndarray, pictures: np.ndarray | None) -> None:
    """Make the first outputs those of the patches' whitening matrix, the next the same with the other sign."""
    if pictures is None:
        raise NetworkError(f"{name} has init 'whiten', which is measured on images; expected some pictures, not None")
    products = np.zeros((len(tensor), len(tensor)))
    count = 0
    for picture in pictures:
        padded = np.pad(picture, [(layer.margin,) * 2, (layer.margin,) * 2, (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, (layer.extent,) * 2, axis=(0, 1))
        patches = windows[:: layer.stride, :: layer.stride, :, :: layer.dilation, :: layer.dilation]
        rows = patches.transpose(0, 1, 3, 4, 2).reshape(-1, len(tensor)).astype(np.float64)
        products += rows.T @ rows
        count += len(rows)
    variances, vectors = np.linalg.eigh(products / count)
    vectors *= np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(vectors))])  # the same on all machines
    filters = (vectors / np.sqrt(np.maximum(variances, 0) + _LEAST_VARIANCE))[:, ::-1].astype(np.float32)
    both = np.concatenate((filters, -filters), axis=1)[:, : tensor.shape[1]]
    tensor[:, : both.shape[1]] = both


def _pass_through(layer: Layer, tensor: np.ndarray) -> None:
    """Make the first outputs of each group the inputs of the group, at the middle of a convolution's window."""
    groups, size = (layer.groups, layer.size) if isinstance(layer, Conv) else (1, 1)
    reads, makes = len(tensor) // size**2, tensor.shape[1] // groups
    middle = (size // 2 * size + size // 2) * reads
    for group in range(groups):
        for channel in range(min(reads, makes)):
            tensor[:, group * makes + channel] = 0
            tensor[middle + channel, group * makes + channel] = 1
