"""The training context: all arrays that one worker needs for a batch, allocated once (paper, section 3.2.1).

A *program* is a list of kernel calls over these arrays, so that running it allocates no memory. The layers before the
first flat one (the image layers) run in blocks of images that fit the L2 cache: forward for all blocks, later backward
for all blocks, adding each block's gradients of the weights. The flat layers run on the whole batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from adam_mp.compute.choice import KernelChoices, likely_choices
from adam_mp.compute.operation import Call, Operation, Span, fuse
from adam_mp.compute.operations import OPERATIONS, DenseProduct, DropoutMask
from adam_mp.kernels.loss import softmax, softmax_cross_entropy
from adam_mp.memory.layout import Layout
from adam_mp.network.layers import Flatten
from adam_mp.network.network import Network


@dataclasses.dataclass(frozen=True)
class Program:
    """Kernel calls for one input array. `scores` [n, classes] are the values before the softmax.

    After `run_forward` with labels, `totals` float64 [2] holds the sum of the losses, and how many images are right.
    """

    forward: tuple[Call, ...]
    backward: tuple[Call, ...]
    totals: np.ndarray
    scores: np.ndarray

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
    caller may give its array. `real` is float32, or float64 for gradient checks. `choices` are the kernels to use, by
    default the likely faster ones. `backward=False` leaves out the buffers that only training needs.
    """

    def __init__(
        self, network: Network, weights: Mapping[str, np.ndarray], batch: int, real: type = np.float32,
        choices: KernelChoices | None = None, backward: bool = True, gradient: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.network, self.batch = network, batch
        self._weights = weights
        self.layout = Layout.of(network.parameters)
        if gradient is None:
            gradient = np.zeros(self.layout.size if backward else 0, real)
        self.gradient: np.ndarray = gradient
        # Without a backward pass nothing writes gradients: the weights stand in, as arrays of these names and shapes.
        self.gradients = self.layout.views(self.gradient) if backward else dict(weights)
        self.choices = choices or likely_choices(network)
        # Blocks of nearly equal size: a small last block would take more time an image than the others.
        self.block = math.ceil(batch / math.ceil(batch / self.choices.block))
        self.totals = np.zeros(2)
        groups = list(fuse(network, self.choices.ways_back))
        flat = [len(group.input_shape) == 1 or isinstance(group.layers[0], Flatten) for group in groups]
        self._image_groups = flat.index(True) if True in flat else len(groups)
        self._operations: list[Operation | None] = []
        self._outputs: list[np.ndarray] = []
        self._errors: list[np.ndarray] = []
        for index, group in enumerate(groups):
            rows = self.block if index < self._image_groups else batch
            # The last image layer's error comes from the flat layers, which run on the whole batch.
            error_rows = rows if index + 1 < self._image_groups else batch
            if isinstance(group.layers[0], Flatten):
                shape = (-1, math.prod(group.output_shape))
                empty: np.ndarray = np.zeros((batch, *group.output_shape), real)
                self._operations.append(None)
                self._outputs.append(self._outputs[-1].reshape(shape) if self._outputs else empty)
                self._errors.append(self._errors[-1].reshape(shape) if self._errors else empty[:0])
                continue
            kind = OPERATIONS[type(group.layers[0])]
            self._operations.append(kind(group, dict(weights), self.gradients, batch, rows, real))
            self._outputs.append(np.zeros((batch, *group.output_shape), real))
            self._errors.append(np.zeros((error_rows if backward else 0, *group.output_shape), real))

        # The first operation that computes; a Flatten before it only reshapes the images, and has None in the list.
        self._lowest = next(index for index, operation in enumerate(self._operations) if operation is not None)

    @property
    def operations(self) -> list[Operation]:
        """The operations, in the order of the forward pass."""
        return [operation for operation in self._operations if operation is not None]

    def set_dropout_key(self, key: int) -> None:
        """Set the key from which dropout draws its masks, from the next forward pass on."""
        for operation in self.operations:
            if isinstance(operation, DropoutMask):
                operation.key[0] = key

    def update_directly(self, numbers: np.ndarray) -> list[str]:
        """Let the backward pass update the dense layers' weights itself, by gradient descent.

        This holds for programs that are made later. `numbers` is the live array `[lr, weight_decay, ...]`. Return the
        names of the tensors that the backward pass then updates.
        """
        names = []
        for operation in self.operations:
            if isinstance(operation, DenseProduct):
                operation.direct = numbers
                names.append(f"{operation.group.name}.weight")
        return names

    def factors(self, tensor: str, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (inputs [n, m], errors [n, k]) of a dense layer, from the last backward pass, on `images` [n, ...].

        `tensor` names the layer's weight, whose gradient is `inputs.T @ errors`.
        """
        for index, operation in enumerate(self._operations):
            if isinstance(operation, DenseProduct) and f"{operation.group.name}.weight" == tensor:
                inputs = self._input(index, images, 0, len(images))
                return inputs.reshape(len(images), -1), self._errors[index][: len(images)]
        raise KeyError(tensor)

    def program(self, images: np.ndarray, labels: np.ndarray | None, training: bool = True) -> Program:
        """Make the program for batches in the arrays `images` [n, h, w, c] and `labels` int32 [n], such as a ring slot.

        Each run reads what then lies in the arrays. Without labels the program computes scores only. With `training`
        it has a backward pass, and dropout is on.
        """
        count = len(images)
        blocks = [(start, min(start + self.block, count)) for start in range(0, count, self.block)]
        bound = [(index, operation) for index, operation in enumerate(self._operations) if operation is not None]
        image_part = [each for each in bound if each[0] < self._image_groups]
        flat_part = [each for each in bound if each[0] >= self._image_groups]
        forward: list[Call] = []
        for part, spans in ((image_part, blocks), (flat_part, [(0, count)])):
            for start, end in spans:
                for index, operation in part:
                    forward += operation.forward(self._span(index, images, start, end), training)
        scores = self._outputs[-1][:count]
        backward: list[Call] = []
        if labels is not None:
            error = self._errors[-1][:count] if training else np.zeros_like(scores)
            forward.append((softmax_cross_entropy, (scores, labels, error, self.totals)))
            if training:
                for part, spans in ((flat_part, [(0, count)]), (image_part, blocks)):
                    for start, end in spans:
                        for index, operation in reversed(part):
                            backward += operation.backward(self._span(index, images, start, end, len(spans)))
        return Program(tuple(forward), tuple(backward), self.totals, scores)

    def _input(self, index: int, images: np.ndarray, start: int, end: int) -> np.ndarray:
        if index > self._lowest:
            return self._outputs[index - 1][start:end]
        block = images[start:end]
        return block.reshape(len(block), -1) if index else block

    def _span(self, index: int, images: np.ndarray, start: int, end: int, blocks: int = 1) -> Span:
        """Return the span of images start:end for operation number `index`, one of the batch's `blocks` spans."""
        return Span(
            first=start,
            x=self._input(index, images, start, end),
            out=self._outputs[index][start:end],
            error=self._error(index, start, end),
            x_error=None if index == self._lowest else self._error(index - 1, start, end),
            accumulate=start > 0,
            fresh=blocks > 1,
            last=end == len(images),
        )

    def _error(self, index: int, start: int, end: int) -> np.ndarray:
        """Return the error of output `index` for images start:end. Between image layers all blocks share one array."""
        if index + 1 < self._image_groups:
            return self._errors[index][: end - start]
        return self._errors[index][start:end]

    def probabilities(self, program: Program, out: np.ndarray) -> None:
        """Write the class probabilities, from the scores of a program that has run forward, into `out` [n, classes]."""
        softmax(program.scores, out)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers: activations, errors, gradient, scratch; without the weights."""
        shared = {id(_memory_of(array)) for array in (*self._weights.values(), *self.gradients.values())}
        found = {id(_memory_of(array)): _memory_of(array) for array in _arrays_in(vars(self), set())}
        own = sum(memory.nbytes for key, memory in found.items() if key not in shared)
        return own + self.gradient.nbytes


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
