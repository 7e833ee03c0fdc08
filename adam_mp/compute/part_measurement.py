"""What a partition takes on this machine: memory, and seconds of work for an image."""

from __future__ import annotations

import math
import time

import numpy as np

from adam_mp.compute.choice import KernelChoices
from adam_mp.compute.context import TrainingContext
from adam_mp.memory.layout import Layout
from adam_mp.network.part_layers import Message
from adam_mp.network.partition import PartitionPlan
from adam_mp.network.traffic import messages_of

_SECONDS, _FEWEST = 1.0, 3  # how long a step is timed, and how often at least


class _Alone:
    """A mail in which nothing is sent and everything has arrived, to time a partition without the others."""

    def __init__(self, batch: int) -> None:
        self._batch = batch

    def array(self, message: Message) -> np.ndarray:
        return np.zeros(message.shape(self._batch), np.float64 if message.is_sum else np.float32)

    def send(self, message: Message) -> None:
        pass

    def arrived(self, message: Message) -> bool:
        return True


def context_bytes_of(
    plan: PartitionPlan, part: int, batch: int, choices: KernelChoices | None = None, backward: bool = True
) -> int:
    """Return the bytes of a partition's gradient and activations, for one batch at a time."""
    graph, weights = plan.graphs[part], _weights(plan, part)
    return TrainingContext(graph, weights, batch, choices=choices, backward=backward, mail=_Alone(batch)).nbytes


def part_bytes(plan: PartitionPlan, part: int, batch: int, apart: bool = True) -> int:
    """Return the bytes of a partition's weights, gradient, activations and messages, for one batch at a time.

    `apart` says that it is alone on its machine. If all partitions are on one, sender and receiver of a message have
    one array for it, and half of that counts for each.
    """
    arrays = {each.home for _, each in messages_of(plan) if part in (each.sender, each.receiver)}
    weights = 4 * Layout.of(plan.graphs[part].parameters).size
    messages = sum(each.bytes(batch) for each in arrays)
    return context_bytes_of(plan, part, batch) + weights + (messages if apart else messages // 2)


def part_seconds(plan: PartitionPlan, part: int, batch: int, choices: KernelChoices | None = None) -> float:
    """Time training steps of a partition alone; return the median of the seconds for an image."""
    weights = _weights(plan, part)
    generator = np.random.default_rng(part)
    for tensor in weights.values():
        tensor[...] = generator.standard_normal(tensor.shape, np.float32) / math.sqrt(len(tensor))
    images = generator.standard_normal((batch, *plan.network.input_shape), np.float32)
    context = TrainingContext(plan.graphs[part], weights, batch, choices=choices, mail=_Alone(batch))
    program = context.program(images, np.zeros(batch, np.int32))
    seconds: list[float] = []
    while sum(seconds) < _SECONDS or len(seconds) < _FEWEST:
        begin = time.perf_counter()
        program.run_forward()
        program.run_backward()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds)) / batch


def _weights(plan: PartitionPlan, part: int) -> dict[str, np.ndarray]:
    layout = Layout.of(plan.graphs[part].parameters)
    return layout.views(np.zeros(layout.size, np.float32))
