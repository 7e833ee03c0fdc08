"""A network of ours as a PyTorch module with the same weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from adam_mp.network import layers as kinds
from adam_mp.network.joins import Add, Concat, Join, Multiply
from adam_mp.network.layer import Layer
from adam_mp.network.network import Network
from adam_mp.network.norms import BatchNorm

torch.set_num_threads(1)

LAYOUTS = {"channels_first": torch.contiguous_format, "channels_last": torch.channels_last}


def torch_twin(network: Network, weights: dict[str, np.ndarray]) -> nn.Module:
    """Return the same network, less the softmax that its loss has, with a copy of `weights`."""
    row = all(node.inputs == (before,) for node, before in zip(network.nodes, ("input", *network.names), strict=False))
    modules: dict[str, nn.Module] = {}
    image: tuple[int, ...] | None = None  # in a row: the shape that was flattened, for the next dense layer
    for name, node, before in zip(network.names, network.nodes[:-1], network.input_shapes, strict=False):
        own = {key.partition(".")[2]: value for key, value in weights.items() if key.startswith(f"{name}.")}
        layer = node.layer
        if isinstance(layer, kinds.Conv):
            conv = nn.Conv2d(
                before[2], layer.channels, layer.size, layer.stride, layer.margin, layer.dilation, layer.groups,
                layer.bias,
            )  # fmt: skip
            weight = own["weight"].reshape(layer.size, layer.size, -1, layer.channels)
            modules[name] = _fill(conv, weight.transpose(3, 2, 0, 1), own.get("bias"))
        elif isinstance(layer, kinds.Dense):
            dense = nn.Linear(math.prod(before), layer.units or network.classes, bias=layer.bias)
            weight = own["weight"]
            if image is not None:  # our images are flattened channels last, PyTorch's channels first
                weight = weight.reshape(*image, -1).transpose(2, 0, 1, 3).reshape(weight.shape)
                image = None
            modules[name] = _fill(dense, weight.T, own.get("bias"))
        elif isinstance(layer, BatchNorm):
            norm = (nn.BatchNorm2d if len(before) == 3 else nn.BatchNorm1d)(before[-1], layer.epsilon)
            modules[name] = _fill(norm, own["scale"], own["shift"])
        elif isinstance(layer, kinds.Flatten):
            image = before if row else None
            modules[name] = nn.Flatten() if row else _FlattenLast()
        elif not isinstance(layer, Join):
            modules[name] = _plain_module(layer)
    return nn.Sequential(*modules.values()) if row else _Graph(network, modules)


class _FlattenLast(nn.Module):
    """Images to flat values in our order: channels last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [n, h * w * c] for [n, c, h, w]."""
        return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).flatten(1)


class _Graph(nn.Module):
    """The nodes of a network in their order; `modules` has those that are no sum or concatenation."""

    def __init__(self, network: Network, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self.nodes, self.inner = network.nodes, nn.ModuleDict(modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scores [n, classes] for images [n, c, h, w]."""
        values = {"input": x}
        for node in self.nodes[:-1]:
            inputs = [values[name] for name in node.inputs]
            if isinstance(node.layer, Concat):
                values[node.name] = torch.cat(inputs, 1)
            elif isinstance(node.layer, Multiply):
                first, second = inputs
                values[node.name] = first * (second if second.ndim == first.ndim else second[..., None, None])
            elif isinstance(node.layer, Add):
                values[node.name] = sum(inputs[1:], inputs[0])
            else:
                values[node.name] = self.inner[node.name](inputs[0])
        return values[self.nodes[-1].inputs[0]]


def _plain_module(layer: Layer) -> nn.Module:
    if isinstance(layer, kinds.MaxPool):
        return nn.MaxPool2d(layer.size, layer.step, layer.margin)
    if isinstance(layer, kinds.AveragePool):
        return nn.AvgPool2d(layer.size, layer.step, layer.margin)
    if isinstance(layer, kinds.GlobalAveragePool):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if isinstance(layer, kinds.Dropout):
        return nn.Dropout(layer.rate)
    if isinstance(layer, kinds.LeakyReLU):
        return nn.LeakyReLU(layer.slope)
    return {
        kinds.ReLU: nn.ReLU, kinds.Tanh: nn.Tanh, kinds.Sigmoid: nn.Sigmoid, kinds.ReLU6: nn.ReLU6, kinds.SiLU: nn.SiLU,
        kinds.GELU: nn.GELU, kinds.HardSwish: nn.Hardswish,
    }[type(layer)]()  # fmt: skip


def _fill(module: Any, weight: np.ndarray, bias: np.ndarray | None) -> nn.Module:
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        if bias is not None:
            module.bias.copy_(torch.from_numpy(bias.copy()))
    made: nn.Module = module
    return made


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
