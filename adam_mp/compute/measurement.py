"""Times a network's alternative kernels on this machine, and chooses the fastest.

Choices are kept for later runs, so a moment in which the machine is busy must not decide them. Time is processor time
of this thread, candidates take turns, and each counts with its shortest time. What was measured while other processes
took the core away is used for one run, and not kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from adam_mp.compute.choice import KernelChoices, convolutions, keep_choices, likely_choices, read_choices
from adam_mp.compute.context import TrainingContext
from adam_mp.compute.conv_backward import BACKWARD_WAYS, BoundLayer, ways_back
from adam_mp.compute.fusion import Group
from adam_mp.compute.operation import Call, Span
from adam_mp.kernels.conv import pixel_offsets, tap_offsets
from adam_mp.network.joins import Concat, NamedNode, Node
from adam_mp.network.layer import Layer
from adam_mp.network.layers import Conv, Dense, Flatten, MaxPool, ReLU, Softmax
from adam_mp.network.network import Network

_BLOCKS = (1, 2, 4, 8, 16, 32)
_ENOUGH_SECONDS = 0.05  # of timing one candidate in one of its turns
_TURNS = 2
_UNDISTURBED = 0.9  # share of the measurement's duration that this thread had a core
_CLEARLY_WORSE = 1.1  # times the best: then larger blocks are not tried
_SCRATCH_LIMIT = 64 << 20  # bytes of a candidate's buffers


def choose_kernels(network: Network, batch: int) -> KernelChoices:
    """Return the choices for training `network` with batches of `batch` images; measure them if none are noted."""
    known = read_choices(network, batch)
    if known is None:
        began, worked = time.perf_counter(), time.thread_time()
        known = measure_choices(network, batch)
        if time.thread_time() - worked >= _UNDISTURBED * (time.perf_counter() - began):
            keep_choices(network, batch, known)
    return known


def measure_choices(network: Network, batch: int) -> KernelChoices:
    """Time every way of every convolution, then blocks of different sizes with the fastest ways."""
    likely = likely_choices(network)
    block = min(likely.block, batch)
    ways = {}
    for group in convolutions(network):
        layer: Any = group.layers[0]
        candidates = {way: _way_calls(group, layer, way, block) for way in ways_back(layer, group.wanted[0])}
        seconds = _in_turns({way: _runner(calls) for way, calls in candidates.items()})
        ways[group.name] = min(seconds, key=seconds.__getitem__)
    return KernelChoices(_measure_block(network, batch, KernelChoices(block, ways)), ways)


def _way_calls(group: Group, layer: Conv, way: str, block: int) -> list[Call]:
    """Return the kernel calls of one backward way, on random images and an error with a realistic share of zeros."""
    before, after = group.input_shape, layer.output_shape(group.input_shape)
    generator = np.random.default_rng(0)
    weight: np.ndarray = np.ones((layer.size**2 * before[2], layer.channels), np.float32)
    padded = (before[0] + 2 * layer.margin, before[1] + 2 * layer.margin, before[2])
    images: np.ndarray = generator.standard_normal((block, *padded), dtype=np.float32)
    error: np.ndarray = generator.standard_normal((block, *after), dtype=np.float32)
    error *= generator.random(error.shape) < _density(group.layers[1:])
    pixels = pixel_offsets(block, padded, layer.extent, layer.stride)
    patches = (images, pixels, tap_offsets(padded, layer.size, layer.dilation))
    bound = BoundLayer(layer, before, after, weight, np.zeros_like(weight), block, np.float32)
    x_error: np.ndarray | None = np.zeros((block, *before), np.float32) if group.wanted[0] else None
    span = Span(0, (images,), error, error, (x_error,))
    return BACKWARD_WAYS[way](bound).calls(patches, error, span)


def _density(behind: Sequence[Layer]) -> float:
    """Return which share of a convolution's errors is not 0, from the layers that one operation computes with it.

    Max-pooling passes one error a window, ReLU about half of them.
    """
    density = 1.0
    for layer in behind:
        if isinstance(layer, MaxPool):
            density = min(density, 1 / min(layer.step, layer.size) ** 2)
        elif isinstance(layer, ReLU):
            density = min(density, 1 / 2)
    return density


def _measure_block(network: Network, batch: int, start: KernelChoices) -> int:
    """Return the block with the shortest time per image of the image layers, forward and backward.

    `start` has the backward ways to use. Without a convolution, or with batches of one image, nothing is measured: the
    block is that of `start`, at most `batch`.
    """
    part = _image_part(network)
    if part is None or batch == 1:
        return min(start.block, batch)
    tried: dict[int, Callable[[], None]] = {}  # block: runs it
    counts, best = {}, math.inf
    images = min(batch, 2 * max(_BLOCKS))
    x: np.ndarray = np.random.default_rng(0).random((images, *part.input_shape), dtype=np.float32)
    labels: np.ndarray = np.zeros(images, np.int32)
    for block in _BLOCKS:
        if block > images:
            break
        count = min(images, 2 * block)  # two blocks: the time includes the change from one to the other
        context = TrainingContext(part, _weights(part), count, choices=KernelChoices(block, start.ways_back))
        if block > 1 and context.nbytes > _SCRATCH_LIMIT:
            break
        program = context.program(x[:count], labels[:count])
        counts[block], tried[block] = count, _runner([*program.forward, *program.backward])
        seconds = _seconds(tried[block]) / count
        if seconds > _CLEARLY_WORSE * best:
            break
        best = min(best, seconds)
    if not tried:
        return start.block
    seconds_of = _in_turns(tried)
    return min(tried, key=lambda block: seconds_of[block] / counts[block])


def _image_part(network: Network) -> Network | None:
    """Return the layers before the flat tail, followed by a small dense layer, as a network.

    None if there is no convolution.
    """
    if not convolutions(network):
        return None
    part = [node for node in network.nodes[:-1] if node.name not in network.tail]
    inside = {read for node in part for read in node.inputs}
    ends = [node.name for node in part if node.name not in inside]
    own = "end"
    while any(name.startswith(own) for name in network.names):
        own += "_"
    flat = [NamedNode(Flatten(), f"{own}{number}", (end,)) for number, end in enumerate(ends)]
    joined = [NamedNode(Concat(), f"{own}s", tuple(node.name for node in flat))] if len(flat) > 1 else []
    return Network.build([*part, *flat, *joined, Node(Dense(), f"{own}d"), Softmax()], network.input_shape, 2)


def _weights(network: Network) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        name: generator.standard_normal(shape, dtype=np.float32) * np.float32(0.05)
        for name, shape in network.parameters.items()
    }


def _runner(calls: Sequence[Call]) -> Callable[[], None]:
    def run() -> None:
        for function, arguments in calls:
            function(*arguments)

    return run


_Name = TypeVar("_Name", bound=Hashable)


def _in_turns(actions: Mapping[_Name, Callable[[], object]]) -> dict[_Name, float]:
    """Return the shortest time of each action; they take turns, so that a busy moment does not meet one alone."""
    seconds = dict.fromkeys(actions, math.inf)
    for _ in range(_TURNS):
        for name, action in actions.items():
            seconds[name] = min(seconds[name], _seconds(action))
    return seconds


def _seconds(action: Callable[[], object]) -> float:
    """Return the shortest processor time of a run, after a first one that does not count.

    There are at least three runs and at most 20; more than three only within `_ENOUGH_SECONDS` in all.
    """
    action()
    best, spent, rounds = math.inf, 0.0, 0
    while rounds < 3 or (spent < _ENOUGH_SECONDS and rounds < 20):
        start = time.thread_time()
        action()
        seconds = time.thread_time() - start
        best, spent, rounds = min(best, seconds), spent + seconds, rounds + 1
        if spent > 5 * _ENOUGH_SECONDS:
            break
    return best
