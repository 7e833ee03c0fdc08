"""The training context: all arrays that one worker needs for a batch, allocated once (paper, section 3.2.1).

A *program* is a list of kernel calls over these arrays, so that running it allocates no memory. The image layers run in
blocks of images that fit the L2 cache: forward for all blocks, later backward for all blocks, adding each block's
gradients of the weights. The flat layers behind them (`Graph.tail`) run on the whole batch. Values and errors share
one memory, in which `lifetimes` gives each its place.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from adam_mp.compute.choice import KernelChoices, likely_choices
from adam_mp.compute.fusion import fuse
from adam_mp.compute.lifetimes import (
    Bound,
    Place,
    Reads,
    arrange,
    first_writers,
    flat_roots,
    plan_buffers,
    remade_values,
    turns_of,
)
from adam_mp.compute.mail import Mail, Wait
from adam_mp.compute.operation import Call, Operation, Span, aligned_zeros
from adam_mp.compute.operations import DenseProduct, DropoutMask, operation_of
from adam_mp.kernels.join import add_to
from adam_mp.kernels.loss import softmax_cross_entropy
from adam_mp.memory.layout import Layout
from adam_mp.network.graph import INPUT, Graph
from adam_mp.network.layers import Flatten
from adam_mp.network.part_layers import ERRORS, VALUES


@dataclasses.dataclass(frozen=True)
class Program:
    """Kernel calls for one input array. `scores` [n, classes] are the values before the softmax.

    After `run_forward` with labels, `totals` float64 [2] holds the sum of the losses, and how many images are right.
    A partition's program has waits: it is run in segments between them, by what knows when messages have arrived.
    """

    forward: tuple[Call, ...]
    backward: tuple[Call, ...]
    totals: np.ndarray
    scores: np.ndarray
    forward_waits: tuple[Wait, ...] = ()
    backward_waits: tuple[Wait, ...] = ()

    def run_forward(self) -> None:
        """Compute `scores` and, if the program has labels, `totals` and (in training) the error of the scores."""
        for function, arguments in self.forward:
            function(*arguments)

    def run_backward(self) -> None:
        """Compute the gradients of the mean loss; only after `run_forward`."""
        for function, arguments in self.backward:
            function(*arguments)


class TrainingContext:
    """Buffers for batches of up to `batch` images of `network`, bound to `weights` (name -> array). One thread uses it.

    `weights` may lie in shared memory, where other processes change them. `gradient` is flat, in `layout`'s order; the
    caller may give its array, and another order of the tensors. `real` is float32, or float64 for gradient checks.
    `choices` are the kernels to use, by default the likely faster ones. `backward=False` leaves out the buffers that
    only training needs. `smoothing` is by how much the labels are smoothed in training (`kernels.loss`). `mail` is how
    a partition's part of a network exchanges values with the others.
    """

    def __init__(
        self, network: Graph, weights: Mapping[str, np.ndarray], batch: int, real: type = np.float32,
        choices: KernelChoices | None = None, backward: bool = True, gradient: np.ndarray | None = None,
        smoothing: float = 0.0, mail: Mail | None = None, layout: Layout | None = None,
    ) -> None:  # fmt: skip
        self.network, self.batch, self._smoothing = network, batch, smoothing
        self._weights = weights
        self.layout = layout or Layout.of(network.parameters)
        if gradient is None:
            gradient = np.zeros(self.layout.size if backward else 0, real)
        self.gradient: np.ndarray = gradient
        # Without a backward pass nothing writes gradients: the weights stand in, as arrays of these names and shapes.
        self.gradients = self.layout.views(self.gradient) if backward else dict(weights)
        self.choices = choices or likely_choices(network)
        # Blocks of nearly equal size: a small last block would take more time an image than the others.
        self.block = math.ceil(batch / math.ceil(batch / self.choices.block))
        self.totals = np.zeros(2)
        groups = fuse(network, self.choices.ways_back)
        self._roots = flat_roots(groups)
        self._operations: list[Operation] = [
            operation_of(group)(group, dict(weights), self.gradients, batch, batch if group.whole else self.block, real)
            for group in groups
            if not isinstance(group.layers[0], Flatten)
        ]
        for operation in self._operations:
            if mail is not None and (posts := getattr(operation, "posts", None)) is not None:
                posts.connect(mail)
        self._scores = (network.nodes[-1].inputs or (INPUT,))[0]
        self._arrays = self._make_arrays(backward, real)

    def _make_arrays(self, backward: bool, real: type) -> dict[Place, np.ndarray]:
        """Return the arrays of all values and errors, [images, *shape], for a block or for the batch."""
        bound = [Bound(each.group, Reads(
            each.reads_inputs, each.reads_output, each.read_after, each.adds_errors, each.remade,
            each.keeps))
                 for each in self._operations]  # fmt: skip
        self._firsts = first_writers(bound, self._roots)
        again = remade_values(bound, self._roots, self._scores)
        self._remade = {each.group.output: each for each in self._operations if each.group.output in again}
        self.buffers = plan_buffers(bound, self._roots, self._scores, backward)
        self.offsets, numbers = arrange(self.buffers, self.batch, self.block, np.dtype(real).itemsize)
        memory = aligned_zeros((numbers,), real)
        self._whole = {buffer.place for buffer in self.buffers if buffer.whole}
        arrays = {}
        for buffer, offset in zip(self.buffers, self.offsets, strict=True):
            shape = buffer.array_shape(self.batch, self.block)
            arrays[buffer.place] = memory[offset : offset + math.prod(shape)].reshape(shape)
        return arrays

    @property
    def operations(self) -> list[Operation]:
        """The operations, in the order of the forward pass."""
        return list(self._operations)

    def set_dropout_key(self, key: int) -> None:
        """Set the key from which dropout draws its masks, from the next forward pass on."""
        for operation in self.operations:
            if isinstance(operation, DropoutMask):
                operation.key[0] = key

    def update_directly(self, numbers: np.ndarray, apart: Collection[str] = ()) -> list[str]:
        """Let the backward pass update the weights of the tail's dense layers itself, by gradient descent.

        This holds for programs that are made later. `numbers` is the live array `[lr, weight_decay, ...]`; `apart`
        names tensors that are to have a gradient all the same. Return the names of the tensors that the backward pass
        then updates.
        """
        names = []
        for operation in self.operations:
            name = f"{operation.group.name}.weight"
            if isinstance(operation, DenseProduct) and operation.group.whole and name not in apart:
                operation.direct = numbers
                names.append(name)
        return names

    def factors(self, tensor: str, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (inputs [n, m], errors [n, k]) of a dense layer of the tail, from the last backward pass.

        `images` [n, ...] are those of its program. `tensor` names the layer's weight, whose gradient is `inputs.T @
        errors`.
        """
        for operation in self._operations:
            group = operation.group
            if isinstance(operation, DenseProduct) and group.whole and f"{group.name}.weight" == tensor:
                inputs = self._value(group.inputs[0], images, 0, len(images))
                return inputs.reshape(len(images), -1), self._arrays[Place("error", group.output)][: len(images)]
        raise KeyError(tensor)

    def program(
        self, images: np.ndarray, labels: np.ndarray | None, training: bool = True, of_batch: bool | None = None,
        mixed: np.ndarray | None = None,
    ) -> Program:  # fmt: skip
        """Make the program for batches in the arrays `images` [n, h, w, c] and `labels` int32 [n], such as a ring slot.

        Each run reads what then lies in the arrays. Without labels the program computes scores only. With `training`
        it has a backward pass, and dropout is on. `of_batch` is whether norms take the statistics of the batch, else
        those that they know; by default they do so in training. `mixed` float64 [1]
        is the share that each label has of its partner's (`kernels.loss`), by default 0.
        """
        count, of_batch = len(images), training if of_batch is None else of_batch
        forward: list[Call] = []
        forward_waits, backward_waits = list[Wait](), list[Wait]()
        for turns, spans in self._stages(count):
            taking = [each for early, each in turns if early and (of_batch or not each.of_statistics)]
            late = [each for early, each in turns if not early and (of_batch or not getattr(each, "of_statistics", 0))]
            forward_waits += _wait(len(forward), late, VALUES)
            for start, end in spans:
                for early, operation in turns:
                    span = self._span(operation, images, start, end)
                    if operation in taking:
                        forward += operation.take(span)
                    elif not early:
                        forward += operation.forward(span, of_batch if operation.group.batchwise else training)
            forward += [call for operation in taking for call in operation.settle(count)]
        scores = self._value(self._scores, images, 0, count).reshape(count, -1)
        backward: list[Call] = []
        if labels is not None:
            error = np.zeros_like(scores)
            if training:
                error = self._arrays[Place("error", self._roots[self._scores])][:count].reshape(scores.shape)
            shares = (self._smoothing * training, np.zeros(1) if mixed is None else mixed)
            forward.append((softmax_cross_entropy, (scores, labels, error, self.totals, *shares)))
            if training:
                for turns, spans in reversed(self._stages(count)):
                    backward_waits += _wait(len(backward), [each for early, each in turns if early], ERRORS)
                    for start, end in spans:
                        for early, operation in reversed(turns):
                            backward += self._backward(operation, early, images, start, end, len(spans))
        waits = tuple(forward_waits), tuple(backward_waits)
        return Program(tuple(forward), tuple(backward), self.totals, scores, *waits)

    def _stages(self, count: int) -> list[tuple[list[tuple[bool, Any]], list[tuple[int, int]]]]:
        """Return the stages of the forward pass over `count` images: (turns, spans of images for which they run).

        A turn is (whether it is the early one of a batchwise operation, operation).
        """
        blocks = [(start, min(start + self.block, count)) for start in range(0, count, self.block)]
        by_name = {operation.group.name: operation for operation in self._operations}
        stages = []
        for _, turns in itertools.groupby(turns_of([each.group for each in self._operations]), lambda turn: turn.stage):
            those = list(turns)
            spans = [(0, count)] if those[0].group.whole else blocks
            stages.append(([(turn.early, by_name[turn.group.name]) for turn in those], spans))
        return stages

    def _backward(
        self, operation: Any, early: bool, images: np.ndarray, start: int, end: int, spans: int
    ) -> list[Call]:  # fmt: skip
        """Return the calls of an operation's turn in the backward pass, with those that add what it cannot itself."""
        group, targets, sums = operation.group, [], []
        if not group.trains:
            return []
        for number, (name, wanted) in enumerate(zip(group.inputs, group.wanted, strict=True)):
            root = self._roots[name]
            target = self._cut(Place("error", root), start, end) if wanted else None
            if target is not None and (group.name, number) not in self._firsts and not operation.adds_errors:
                extra = self._cut(Place("extra", root, group.name), start, end)
                sums.append((add_to, (extra.reshape(-1), target.reshape(-1))))
                target = extra
            targets.append(None if target is None else target.reshape(-1, *group.input_shapes[number]))
        span = dataclasses.replace(
            self._span(operation, images, start, end),
            error=self._cut(Place("error", group.output), start, end),
            input_errors=tuple(targets),
            kept=None if operation.keeps is None else self._cut(Place("kept", group.output), start, end),
            adds=tuple((group.name, number) not in self._firsts for number in range(len(targets))),
            accumulate=start > 0,
            fresh=spans > 1,
            last=end == len(images),
        )
        again: list[Call] = []
        if operation.reads_inputs and spans > 1:  # another block has been where the inputs were
            for root in dict.fromkeys(self._roots[name] for name in group.inputs):
                if maker := self._remade.get(root):
                    again += maker.forward(self._span(maker, images, start, end), True)
        if group.batchwise and not early:
            return [*again, *operation.take_errors(span)]
        return [*again, *operation.backward(span), *sums]

    def _span(self, operation: Operation, images: np.ndarray, start: int, end: int) -> Span:
        """Return the span of images start:end for the forward pass of an operation."""
        group = operation.group
        inputs = tuple(
            self._value(name, images, start, end).reshape(-1, *shape)
            for name, shape in zip(group.inputs, group.input_shapes, strict=True)
        )
        out = self._value(group.output, images, start, end)
        return Span(start, inputs, out, out[:0], batch=len(images))

    def _value(self, name: str, images: np.ndarray, start: int, end: int) -> np.ndarray:
        """Return a value for images start:end; the shape is that before any flattening."""
        root = self._roots[name]
        return images[start:end] if root == INPUT else self._cut(Place("value", root), start, end)

    def _cut(self, place: Place, start: int, end: int) -> np.ndarray:
        """Return the part of an array for images start:end; an array for a block holds the latest block."""
        array = self._arrays[place]
        return array[start:end] if place in self._whole else array[: end - start]

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers: activations, errors, gradient, scratch; without the weights."""
        shared = {id(_memory_of(array)) for array in (*self._weights.values(), *self.gradients.values())}
        found = {id(_memory_of(array)): _memory_of(array) for array in _arrays_in(vars(self), set())}
        own = sum(memory.nbytes for key, memory in found.items() if key not in shared)
        return own + self.gradient.nbytes


def _wait(call: int, operations: Iterable[Any], purpose: str) -> list[Wait]:
    """Return the wait before a stage in which these operations read what other partitions sent; none if they do not."""
    posts = [operation.posts for operation in operations if getattr(operation, "posts", None) is not None]
    messages = tuple(message for each in posts for message in each.awaited(purpose))
    return [Wait(call, messages)] if messages else []


def _arrays_in(value: Any, seen: set[int]) -> Iterator[np.ndarray]:
    """Yield all arrays in a value: objects of this package, lists, tuples and mappings are searched."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        yield value
        return
    parts: Iterable[Any] = ()
    if isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, (list, tuple)):
        parts = value
    elif type(value).__module__.startswith(__package__):
        parts = vars(value).values()
    for part in parts:
        yield from _arrays_in(part, seen)


def _memory_of(array: np.ndarray) -> np.ndarray:
    """Return the last array in the chain of bases of `array`: it owns the memory, unless no array does."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
