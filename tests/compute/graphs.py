"""Random networks with branches, and what they compute: by plain NumPy, and by PyTorch where it is installed."""

from __future__ import annotations

import importlib
import itertools
import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from adam_mp import (
    Add,
    Concat,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    Multiply,
    Network,
    Node,
    ReLU,
    Residual,
    SqueezeExcite,
    StochasticDepth,
)
from adam_mp.network.layers import (
    GELU,
    AveragePool,
    Conv,
    HardSwish,
    LeakyReLU,
    LocalResponseNorm,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from adam_mp.network.norms import BatchNorm, GroupNorm, LayerNorm

SHAPE, CLASSES = (7, 6, 2), 3


class _Writer:
    """Writes a random network; it knows the shape at each place, so that all fits."""

    def __init__(self, draw: st.DrawFn, smooth: bool, dropout: bool) -> None:
        self.draw, self.smooth = draw, smooth
        self.acts = [Tanh(), Sigmoid(), SiLU(), GELU()]
        self.acts += [] if smooth else [ReLU(), ReLU(), ReLU(), ReLU6(), LeakyReLU(0.2), HardSwish()]
        self.acts += [Dropout(0.3), StochasticDepth(0.4)] if dropout else []
        self.names = itertools.count(1)

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def row(self, shape, depth, keeps, most=4):
        """Return (parts, shape behind them); with `keeps` height and width stay."""
        parts = []
        for _ in range(self.draw(st.integers(0, most))):
            part, shape = self.image_part(shape, depth, keeps)
            parts += part
        return parts, shape

    def image_part(self, shape, depth, keeps):
        kind = self.pick(
            "conv",
            "conv",
            "act",
            "act",
            "pool",
            "norm",
            "batch",
            "batch",
            "multiply",
            *(("residual", "concat", "named") * (depth > 0)),
        )
        height, width, channels = shape
        if kind == "conv":
            size, filters, bias = self.pick(1, 3), self.pick(1, 2, 4), self.pick(True, True, False)
            groups = self.pick(1, *(each for each in (2, channels) if channels % each == 0))
            filters = self.pick(groups, filters * groups)
            if keeps or min(height, width) < 3:
                conv = Conv(filters, size, padding="same", bias=bias, groups=groups, dilation=self.pick(1, 2))
                return [conv, *([ReLU()] * self.pick(0, 1) * (not self.smooth))], (height, width, filters)
            dilation = self.pick(1, 2) if min(height, width) > 4 else 1
            conv = Conv(filters, size, self.pick(1, 2), self.pick(0, 1, "same"), bias, groups, dilation)
            return [conv], conv.output_shape(shape)
        if kind == "pool" and min(height, width) >= 2:
            size = self.pick(2, 3) if min(height, width) > 2 else 2
            kind = self.pick(MaxPool, AveragePool)
            if keeps:
                return self.pick([kind(3, 1, "same")], [Conv(channels, 3, padding=2), MaxPool(3, 1)]), shape
            pool = kind(size, self.pick(1, 2), self.pick(0, 1))
            return [pool], pool.output_shape(shape)
        if kind == "multiply":
            factors = [GlobalAveragePool(), Dense(channels, False), Sigmoid()]
            gate = Multiply([Conv(channels, 1)], self.pick([], factors, [Tanh()]))
            return [self.pick(gate, SqueezeExcite(channels, 2))] if not self.smooth else [gate], shape
        if kind == "batch":
            return [BatchNorm(self.pick(1e-5, 0.1)), *([ReLU()] * self.pick(0, 1) * (not self.smooth))], shape
        if kind == "norm":
            norms = [LocalResponseNorm(3, 0.5, 0.75, 1.0)]
            norms += [GroupNorm(groups, 0.3) for groups in {1, channels} if groups < height * width * channels]
            norms += [LayerNorm(0.3)] * (channels > 1)
            return [self.pick(*norms), *([ReLU()] * self.pick(0, 1) * (not self.smooth))], shape
        if kind == "residual":
            inner, after = self.row(shape, depth - 1, keeps=True)
            shortcut = [] if after == shape else [Conv(after[2], 1, bias=False)]
            return [Residual(inner or [Conv(channels, 3, padding=1)], shortcut)], after
        if kind == "concat":
            rows = [self.row(shape, depth - 1, True, 2) for _ in range(self.pick(2, 2, 3))]
            return [Concat(*[row for row, _ in rows])], (height, width, sum(after[2] for _, after in rows))
        if kind == "named":
            return self.named(shape)
        return [self.pick(*self.acts)], shape

    def named(self, shape):
        """A value that three layers read, by its name."""
        first, second, third = (f"n{next(self.names)}" for _ in range(3))
        layer = Conv(shape[2], 3, padding=1)
        parts = [
            Node(layer, first), Node(self.pick(*self.acts), second), Node(Conv(shape[2], 1), third, [first]),
            Node(Add(), inputs=self.draw(st.permutations([first, second, third]))),
        ]  # fmt: skip
        return parts, shape

    def flat_row(self, width, depth):
        parts = []
        for _ in range(self.draw(st.integers(0, 3))):
            kind = self.pick("dense", "act", "batch", *(("residual", "concat") * (depth > 0)))
            if kind == "dense":
                width = self.pick(2, 5)
                parts.append(Dense(width, self.pick(True, False)))
            elif kind == "batch":
                parts.append(self.pick(BatchNorm(), *([GroupNorm(1, 0.3), LayerNorm(0.3)] * (width > 1))))
            elif kind == "residual":
                inner, _ = self.flat_row(width, depth - 1)
                parts.append(Residual([*inner, Dense(width)], self.pick([], [Tanh()])))
            elif kind == "concat":
                rows = [self.flat_row(width, depth - 1) for _ in range(2)]
                parts.append(Concat(*[row for row, _ in rows]))
                width = sum(after for _, after in rows)
            else:
                parts.append(self.pick(*self.acts))
        return parts, width


@st.composite
def networks(draw: st.DrawFn, smooth: bool = False, dropout: bool = False, shape=SHAPE, depth: int = 2) -> Network:
    """Networks with residuals, concatenations and named values inside each other, for images of `shape`."""
    writer = _Writer(draw, smooth, dropout)
    parts, (height, width, channels) = writer.row(shape, depth, keeps=False)
    flat = height * width * channels
    end = writer.pick("flatten", "pool", "both")
    if end == "both":
        parts.append(Concat([Flatten()], [GlobalAveragePool()]))
        flat += channels
    else:
        parts.append(Flatten() if end == "flatten" else GlobalAveragePool())
        flat = flat if end == "flatten" else channels
    row, _ = writer.flat_row(flat, depth)
    return Network.build([*parts, *row, Dense(), Softmax()], shape, CLASSES)


def data_for(network: Network, images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random images, float64, and labels."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((images, *network.input_shape))
    return x, generator.integers(network.classes, size=images, dtype=np.int32)


def weights_for(network: Network, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights, float64, biases too."""
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape) * 0.4 for name, shape in network.parameters.items()}


def numpy_scores(network: Network, weights: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """The scores [n, classes], each layer as its formula is written; without dropout."""
    values = {"input": images}
    for node in network.nodes[:-1]:
        inputs = [values[name] for name in node.inputs]
        own = {name.partition(".")[2]: array for name, array in weights.items() if name.startswith(f"{node.name}.")}
        values[node.name] = _plain(node.layer, inputs, own)
    return values[network.nodes[-1].inputs[0]].reshape(len(images), -1)


def _plain(layer, inputs, own):
    x = inputs[0]
    if isinstance(layer, Conv):
        windows = _windows(x, layer.extent, layer.stride, layer.margin, 0.0)  # [n, h, w, extent, extent, c]
        windows = windows[:, :, :, :: layer.dilation, :: layer.dilation]
        parts = [
            group.reshape(*group.shape[:3], -1) @ weight
            for group, weight in zip(
                np.split(windows, layer.groups, axis=5), np.split(own["weight"], layer.groups, axis=1), strict=True
            )
        ]
        return np.concatenate(parts, axis=-1) + own.get("bias", 0)
    if isinstance(layer, MaxPool):
        return _windows(x, layer.size, layer.step, layer.margin, -np.inf).max(axis=(3, 4))
    if isinstance(layer, AveragePool):
        return _windows(x, layer.size, layer.step, layer.margin, 0.0).mean(axis=(3, 4))
    if isinstance(layer, Dense):
        return x.reshape(len(x), -1) @ own["weight"] + own.get("bias", 0)
    if isinstance(layer, BatchNorm):  # of a batch that is trained
        axes = tuple(range(x.ndim - 1))
        normal = (x - x.mean(axis=axes)) / np.sqrt(x.var(axis=axes) + layer.epsilon)
        return normal * own["scale"] + own["shift"]
    if isinstance(layer, (GroupNorm, LayerNorm)):
        parts = x.reshape(*x.shape[:-1], getattr(layer, "groups", 1), -1)
        axes = (*range(1, x.ndim - 1), x.ndim) if isinstance(layer, GroupNorm) else (x.ndim,)
        mean, variance = (way(parts, axis=axes, keepdims=True) for way in (np.mean, np.var))
        normal = ((parts - mean) / np.sqrt(variance + layer.epsilon)).reshape(x.shape)
        return normal * own["scale"] + own["shift"]
    if isinstance(layer, LocalResponseNorm):
        padded = np.pad(x * x, [(0, 0)] * (x.ndim - 1) + [(layer.size // 2,) * 2])
        sums = sum(padded[..., k : k + x.shape[-1]] for k in range(layer.size))
        return x / (layer.offset + layer.alpha / layer.size * sums) ** layer.beta
    if isinstance(layer, GELU):
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return {
        ReLU6: lambda: np.clip(x, 0, 6), LeakyReLU: lambda: np.where(x > 0, x, layer.slope * x),
        HardSwish: lambda: x * np.clip(x + 3, 0, 6) / 6, SiLU: lambda: x / (1 + np.exp(-x)),
        ReLU: lambda: np.maximum(x, 0), Sigmoid: lambda: 1 / (1 + np.exp(-x)), Tanh: lambda: np.tanh(x),
        Dropout: lambda: x, StochasticDepth: lambda: x, Flatten: lambda: x.reshape(len(x), -1),
        Multiply: lambda: x * inputs[1].reshape(len(x), *(1,) * (x.ndim - inputs[1].ndim), *inputs[1].shape[1:]),
        GlobalAveragePool: lambda: x.mean(axis=(1, 2)),
        Add: lambda: sum(inputs), Concat: lambda: np.concatenate(inputs, axis=-1),
    }[type(layer)]()  # fmt: skip


def _windows(x, size, stride, margin, fill):
    padded = np.pad(x, [(0, 0), (margin,) * 2, (margin,) * 2, (0, 0)], constant_values=fill)
    views = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    return views.transpose(0, 1, 2, 4, 5, 3)


def torch_gradients(
    network: Network, weights: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(scores, gradients of the mean loss by name) as PyTorch computes them; without dropout."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    tensors = {name: torch.from_numpy(array.copy()).requires_grad_() for name, array in weights.items()}
    values = {"input": torch.from_numpy(images.transpose(0, 3, 1, 2).copy())}
    for node in network.nodes[:-1]:
        inputs = [values[name] for name in node.inputs]
        own = {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{node.name}.")}
        values[node.name] = _torch_layer(torch, node.layer, inputs, own)
    scores = values[network.nodes[-1].inputs[0]]
    torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels.astype(np.int64))).backward()
    return scores.detach().numpy(), {name: tensor.grad.numpy() for name, tensor in tensors.items()}


def _torch_layer(torch, layer, inputs, own):
    functional, x = torch.nn.functional, inputs[0]
    if isinstance(layer, Conv):
        weight = own["weight"].reshape(layer.size, layer.size, -1, layer.channels).permute(3, 2, 0, 1)
        padding = "same" if layer.padding == "same" and layer.stride == 1 else layer.margin
        return functional.conv2d(x, weight, own.get("bias"), layer.stride, padding, layer.dilation, layer.groups)
    if isinstance(layer, Dense):
        return functional.linear(x.flatten(1), own["weight"].T, own.get("bias"))
    if isinstance(layer, GroupNorm):
        return functional.group_norm(x, layer.groups, own["scale"], own["shift"], layer.epsilon)
    if isinstance(layer, LayerNorm):
        last = x.movedim(1, -1)
        normal = functional.layer_norm(last, last.shape[-1:], own["scale"], own["shift"], layer.epsilon)
        return normal.movedim(-1, 1).contiguous()
    if isinstance(layer, BatchNorm):
        return functional.batch_norm(x, None, None, own["scale"], own["shift"], training=True, eps=layer.epsilon)
    return {
        MaxPool: lambda: functional.max_pool2d(x, layer.size, layer.step, layer.margin),
        AveragePool: lambda: functional.avg_pool2d(x, layer.size, layer.step, layer.margin),
        LocalResponseNorm: lambda: functional.local_response_norm(
            x if x.ndim > 2 else x[:, :, None], layer.size, layer.alpha, layer.beta, layer.offset).reshape(x.shape),
        ReLU6: lambda: functional.relu6(x), LeakyReLU: lambda: functional.leaky_relu(x, layer.slope),
        HardSwish: lambda: functional.hardswish(x), SiLU: lambda: functional.silu(x), GELU: lambda: functional.gelu(x),
        ReLU: lambda: torch.relu(x), Sigmoid: lambda: torch.sigmoid(x), Tanh: lambda: torch.tanh(x),
        Dropout: lambda: x,
        Multiply: lambda: x * (inputs[1] if inputs[1].ndim == x.ndim else inputs[1][..., None, None]),
        Flatten: lambda: (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).flatten(1),
        GlobalAveragePool: lambda: x.mean(dim=(2, 3)), Add: lambda: sum(inputs), Concat: lambda: torch.cat(inputs, 1),
    }[type(layer)]()  # fmt: skip
