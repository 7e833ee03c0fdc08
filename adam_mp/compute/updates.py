"""Binds an optimizer to a context's gradient and a parameter store's weights."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from adam_mp.compute.clipping import Clip
from adam_mp.compute.context import TrainingContext
from adam_mp.compute.optimizer import Optimizer, Update
from adam_mp.compute.shares import Shares, cut_stretches, of_own_rate, stretches_of
from adam_mp.memory.layout import Layout
from adam_mp.memory.store import ParameterStore


def bind_updates(
    optimizer: Optimizer, store: ParameterStore, context: TrainingContext, numbers: np.ndarray, shares: Shares,
    clip: Clip | None = None, worker: int = 0,
) -> list[Update]:  # fmt: skip
    """Return functions by which `worker` applies the context's gradient to the store, each tensor's with its shares.

    `numbers` is the array of the optimizer's `UpdateNumbers`. With plain gradient descent, dense layers update their
    weights in the backward pass itself, unless these have a rate of their own. The functions then update only the flat
    space between these weights. `clip` is called first; it needs the whole gradient, so nothing is then updated in the
    backward pass.
    """
    stretches = stretches_of(store.layout, shares)
    if clip is not None or not optimizer.is_plain_descent:
        update = optimizer.bind(store.weights, context.gradient, store.states_of(worker), numbers, stretches)
        return [update] if clip is None else [clip, update]
    done = set(context.update_directly(numbers, of_own_rate(shares)))
    updates = []
    for part in without(store.layout, done):
        weights, gradient = store.weights[part], context.gradient[part]
        updates.append(optimizer.bind(weights, gradient, {}, numbers, cut_stretches(stretches, part)))
    return updates


def without(layout: Layout, names: Collection[str]) -> list[slice]:
    """Return the stretches of a layout's flat space between the tensors of these names."""
    found, start = [], 0
    for tensor in [*layout.tensors, None]:
        if tensor is None or tensor.name in names:
            end = layout.size if tensor is None else tensor.offset
            if end > start:
                found.append(slice(start, end))
            start = end if tensor is None else tensor.offset + tensor.size
    return found
