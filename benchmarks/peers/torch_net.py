"""A network of ours as a PyTorch module with the same weights."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from adam_mp.network import layers as kinds
from adam_mp.network.layer import Layer
from adam_mp.network.network import Network

torch.set_num_threads(1)

LAYOUTS = {"channels_first": torch.contiguous_format, "channels_last": torch.channels_last}


def torch_twin(network: Network, weights: dict[str, np.ndarray]) -> nn.Sequential:
    """Return the same network, less the softmax that its loss has, with a copy of `weights`."""
    modules: list[nn.Module] = []
    image: tuple[int, ...] | None = None  # the shape that was flattened, for the next dense layer
    for name, layer, before in zip(network.names, network.layers[:-1], network.shapes, strict=False):
        if isinstance(layer, kinds.Conv):
            conv = nn.Conv2d(before[2], layer.channels, layer.size, layer.stride, layer.padding)
            weight = weights[f"{name}.weight"].reshape(layer.size, layer.size, before[2], layer.channels)
            _fill(conv, weight.transpose(3, 2, 0, 1), weights[f"{name}.bias"])
            modules.append(conv)
        elif isinstance(layer, kinds.Dense):
            dense = nn.Linear(math.prod(before), layer.units or network.classes)
            weight = weights[f"{name}.weight"]
            if image is not None:  # our images are flattened channels last, PyTorch's channels first
                weight = weight.reshape(*image, -1).transpose(2, 0, 1, 3).reshape(weight.shape)
                image = None
            _fill(dense, weight.T, weights[f"{name}.bias"])
            modules.append(dense)
        elif isinstance(layer, kinds.Flatten):
            image = before
            modules.append(nn.Flatten())
        else:
            modules.append(_plain_module(layer))
    return nn.Sequential(*modules)


def _plain_module(layer: Layer) -> nn.Module:
    if isinstance(layer, kinds.MaxPool):
        return nn.MaxPool2d(layer.size, layer.step)
    if isinstance(layer, kinds.Dropout):
        return nn.Dropout(layer.rate)
    return {kinds.ReLU: nn.ReLU, kinds.Tanh: nn.Tanh, kinds.Sigmoid: nn.Sigmoid}[type(layer)]()


def _fill(module: nn.Module, weight: np.ndarray, bias: np.ndarray) -> None:
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        module.bias.copy_(torch.from_numpy(bias.copy()))


class TorchStep:
    """A step as PyTorch's tutorials have it: zero_grad, forward, backward, SGD step."""

    def __init__(
        self, network: Network, weights: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray, rate: float,
        channels_last: bool = False,
    ) -> None:  # fmt: skip
        self.model = torch_twin(network, weights)
        # One channel is laid out alike in both formats; only the strides tell PyTorch which one to use.
        self.images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).clone(memory_format=torch.contiguous_format)
        if channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
            self.images = self.images.clone(memory_format=torch.channels_last)
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=rate)
        self.loss = nn.CrossEntropyLoss()

    def run(self) -> float:
        """Do one step; return the loss before it."""
        self.optimizer.zero_grad()
        loss = self.loss(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        return loss.item()
