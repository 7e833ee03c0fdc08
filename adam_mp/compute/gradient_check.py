"""The gradient of the backward pass against finite differences of the loss, in float64."""

from __future__ import annotations

import numpy as np

from adam_mp.compute.choice import KernelChoices
from adam_mp.compute.context import TrainingContext
from adam_mp.memory.layout import Layout
from adam_mp.network.network import Network


def gradient_error(
    network: Network, seed: int, images: int = 3, choices: KernelChoices | None = None, probes: int = 12,
    smoothing: float = 0.0, mixed: float = 0.0,
) -> float:  # fmt: skip
    """Return the largest error of `probes` directional derivatives, relative to the length of the tensor's gradient.

    Weights, images and labels are drawn from `seed`. Each probe moves one tensor in a random direction d of length 1,
    and compares (loss(w + s d) - loss(w - s d)) / 2s, of the mean loss, with gradient . d. `smoothing` and `mixed` are
    how labels are smoothed and mixed (`kernels.loss`).
    """
    generator = np.random.default_rng(seed)
    layout = Layout.of(network.parameters)
    flat = generator.standard_normal(layout.size) * 0.3
    x = generator.standard_normal((images, *network.input_shape))
    labels = generator.integers(network.classes, size=images, dtype=np.int32)
    context = TrainingContext(network, layout.views(flat), images, np.float64, choices, smoothing=smoothing)
    program = context.program(x, labels, mixed=np.array([mixed]))

    def loss() -> float:
        program.run_forward()
        return float(program.totals[0]) / images

    loss()
    program.run_backward()
    gradient = layout.views(context.gradient.copy())
    worst, step = 0.0, 1e-6
    for probe in range(probes):
        tensor = layout.tensors[probe % len(layout.tensors)]
        view, slope = layout.views(flat)[tensor.name], gradient[tensor.name]
        direction = generator.standard_normal(tensor.shape)
        direction /= np.linalg.norm(direction)
        start = view.copy()
        view[...] = start + step * direction
        above = loss()
        view[...] = start - step * direction
        below = loss()
        view[...] = start
        difference = abs((above - below) / (2 * step) - float(np.sum(slope * direction)))
        worst = max(worst, difference / max(float(np.linalg.norm(slope)), 1e-3))
    return worst
