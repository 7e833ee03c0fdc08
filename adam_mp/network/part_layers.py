"""The layers of one partition's part of a network that no whole network has: what gets values from other partitions.

`Fetch` makes the box of a value that a layer needs from the boxes that partitions have. `SumOfParts` adds up what each
has of a mean. `PartBatchNorm` takes its statistics over all partitions. `PartDropout` and `PartStochasticDepth` draw
what the layer in the whole network would draw.

A layer tells its *messages*: what each partition sends to each other for a batch. All partitions derive the same list.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

from adam_mp.network.layer import Layer, Shape
from adam_mp.network.layers import Dropout, StochasticDepth
from adam_mp.network.norms import BatchNorm
from adam_mp.network.spread import Box, Spread, box_of

# The purposes of messages: forward pass, backward pass, gradient of an update, sum of its squares, updated weights.
VALUES, ERRORS, GRADIENT, SQUARES, WEIGHTS = "values", "errors", "gradient", "squares", "weights"
_ASKED_BY = {ERRORS: VALUES, WEIGHTS: GRADIENT}  # answer -> what it answers


class Message(NamedTuple):
    """What a node of partition `sender` sends to the same node of `receiver` for each batch.

    It has `numbers` for each image, or, with `of_batch`, for the batch.
    """

    node: str
    purpose: str
    sender: int
    receiver: int
    numbers: int
    of_batch: bool = False

    @property
    def home(self) -> Message:
        """The message whose array this one uses. For most that is the message itself.

        An error uses the array of its value, and weights that of the gradient by which they were updated. Both answer a
        message of as many numbers that came the other way, and that its receiver has read for the last time. If there
        is no such message, nothing else has this home.
        """
        if (asked := _ASKED_BY.get(self.purpose)) is None:
            return self
        return self._replace(purpose=asked, sender=self.receiver, receiver=self.sender)

    @property
    def is_sum(self) -> bool:
        """Whether it has sums over a batch, which are float64; all else has the network's numbers."""
        return self.of_batch and self.purpose not in (GRADIENT, WEIGHTS)

    def shape(self, batch: int) -> tuple[int, ...]:
        """Return the shape of its array, for batches of up to `batch` images."""
        return (self.numbers,) if self.of_batch else (batch, self.numbers)

    def bytes(self, batch: int) -> int:
        """Return the bytes of its array, with numbers of float32."""
        return math.prod(self.shape(batch)) * (8 if self.is_sum else 4)


@dataclasses.dataclass(frozen=True)
class PartLayer(Layer):
    """A layer of partition number `part` that may exchange something with the same layer of the others."""

    part: int

    def messages(self, node: str) -> list[Message]:
        """Return what this partition sends and receives, for a node of this name."""
        return []


@dataclasses.dataclass(frozen=True)
class Fetch(PartLayer):
    """The box `needs[part]` of a value that lies as `source` says, made of what this and other partitions have.

    Rows outside of the image, and `margin` columns on both sides, are `fill`. With `sums_errors` the readers of the
    boxes are different parts of one layer, so the error of a number is the sum of what all partitions have of it. Else
    every partition computes the same, and has all errors that it needs.
    """

    kind: ClassVar[str] = "fetch"
    source: Spread
    needs: tuple[Box, ...]
    margin: int = 0
    fill: float = 0.0
    sums_errors: bool = True

    @property
    def batchwise(self) -> bool:  # type: ignore[override]
        """Whether anything travels."""
        return bool(self.messages(""))

    @property
    def width(self) -> int:
        """The columns of the box, with its margins."""
        return self.source.image[1] + 2 * self.margin

    def output_shape(self, shape: Shape) -> Shape:
        box = self.needs[self.part]
        return (box.numbers(self.width),) if self.source.flat else (box.rows.size, self.width, box.channels.size)

    def piece(self, owner: int, reader: int) -> Box:
        """Return what `reader` needs of the box that `owner` has."""
        return self.needs[reader].meet(self.source.boxes[owner])

    def numbers(self, box: Box) -> int:
        """Return how many numbers a box without margins has."""
        return box.numbers(self.source.image[1])

    def messages(self, node: str) -> list[Message]:
        found = []
        parts = range(len(self.needs))
        pairs = [(one, other) for one in parts for other in parts if one != other and self.part in (one, other)]
        for owner, reader in pairs:
            size = self.numbers(self.piece(owner, reader))
            if size and not self.source.is_whole:
                found.append(Message(node, VALUES, owner, reader, size))
            if size and self.sums_errors:
                found.append(Message(node, ERRORS, reader, owner, size))
        return found


@dataclasses.dataclass(frozen=True)
class SumOfParts(PartLayer):
    """`sum of shares[p] * x_p`, where partition p has x_p: flat values, of one shape everywhere."""

    kind: ClassVar[str] = "sum_of_parts"
    batchwise: ClassVar[bool] = True
    shares: tuple[float, ...] = ()
    units: int = 0

    def messages(self, node: str) -> list[Message]:
        return _to_all(node, self.part, len(self.shares), (VALUES,), self.units, of_batch=False)


@dataclasses.dataclass(frozen=True)
class PartBatchNorm(BatchNorm):
    """Batch norm of rows of images: each partition has `pixels[p]` pixels of an image, all have the same statistics."""

    part: int = 0
    pixels: tuple[int, ...] = ()
    channels: int = 0

    def messages(self, node: str) -> list[Message]:
        """Return what this partition sends and receives: two sums for each channel."""
        both = (VALUES, ERRORS)
        return _to_all(node, self.part, len(self.pixels), both, 2 * self.channels, of_batch=True)


class Draw(NamedTuple):
    """Which of the draws of a layer in the whole network are those of a part: a box of the value `image`.

    `place` is the number of the node in the network.
    """

    place: int
    image: tuple[int, int, int]
    box: Box

    @classmethod
    def of_all(cls, place: int, shape: Shape) -> Draw:
        """Return all draws of a layer whose output has `shape`."""
        image = (shape[0], shape[1], shape[2]) if len(shape) == 3 else (1, 1, shape[0])
        return cls(place, image, box_of(image))


@dataclasses.dataclass(frozen=True)
class PartDropout(Dropout):
    """Dropout of a part of a value."""

    draw: Draw | None = None


@dataclasses.dataclass(frozen=True)
class PartStochasticDepth(StochasticDepth):
    """Stochastic depth of a part of a value."""

    draw: Draw | None = None


def _to_all(node: str, part: int, parts: int, purposes: tuple[str, ...], numbers: int, of_batch: bool) -> list[Message]:
    """Return the messages of a node whose partitions all send the same to all others."""
    return [
        Message(node, purpose, sender, receiver, numbers, of_batch)
        for purpose in purposes
        for sender in range(parts)
        for receiver in range(parts)
        if sender != receiver and part in (sender, receiver)
    ]
