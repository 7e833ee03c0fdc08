"""Activations and errors on their way from workers to parameter servers (paper, section 3.3: dense layers).

After each update, for each layer with the protocol *activations*, a worker puts the layer's inputs and its errors times
the learning rate into its outbox, a local channel to the synchronizer. The synchronizer gathers what has come since the
last round, and sends each server the inputs of that server's rows.

A worker never waits. If its outbox is full, it counts the update as lost there, and the synchronizer sends deltas in
that round. It does the same if a message cannot hold all that it has gathered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from adam_mp.memory.layout import Layout
from adam_mp.memory.segment import Segment
from adam_mp.params.server.shard_table import FACTOR_HEAD
from adam_mp.transport.local import ChannelHandle, LocalChannel
from adam_mp.transport.messages import LONGEST

_HEAD = 16  # numbers at the start of an outbox slot: the count of images, the decay, 14 unused
_ROUNDS = 2  # rounds whose updates fit an outbox
_SPARE = 4  # slots of an outbox beyond those


@dataclasses.dataclass(frozen=True)
class FactorShape:
    """The matrices whose updates go as activations: their indices in the layout, and (inputs, outputs) of each.

    `batch` is how many images an update has at most.
    """

    tensors: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    batch: int

    @classmethod
    def of(cls, layout: Layout, tensors: Sequence[int], batch: int) -> FactorShape:
        """Return the shape for some matrices of a layout."""
        sizes = [layout.tensors[tensor].shape for tensor in tensors]
        return cls(tuple(tensors), tuple((size[0], size[1]) for size in sizes), batch)

    @property
    def numbers(self) -> int:
        """How many float32 numbers an outbox slot holds, a multiple of 16."""
        return _HEAD + -(-self.batch * sum(inputs + outputs for inputs, outputs in self.sizes) // 16) * 16


def fits_message(images: int, inputs: int, outputs: int) -> bool:
    """Whether one message can hold the activations and errors of `images`, if one server has the whole matrix."""
    return 4 * (FACTOR_HEAD + images * (inputs + outputs)) <= LONGEST


def outbox_slots(images: int, batch: int, workers: int) -> int:
    """Return how many updates each worker's outbox holds, if a round begins every `images` images of all workers."""
    return -(-_ROUNDS * images // (batch * workers)) + _SPARE


def make_outboxes(segment: Segment, workers: int, slots: int, shape: FactorShape) -> list[LocalChannel]:
    """Make a channel for each worker in `segment`, which has `workers` times `LocalChannel.bytes_needed` bytes."""
    size = LocalChannel.bytes_needed(slots, shape.numbers)
    return [LocalChannel(segment, number * size, slots, shape.numbers) for number in range(workers)]


class Outbox:
    """A worker's side of its outbox."""

    def __init__(self, handle: ChannelHandle) -> None:
        self._channel = LocalChannel.attach(handle)

    def put(
        self, arrays: Sequence[tuple[np.ndarray, np.ndarray]], rate: float, weight_decay: float, share: float = 1.0
    ) -> None:  # fmt: skip
        """Put an update with learning rate `rate` into the outbox, or count it as lost if that is full. Never waits.

        `arrays` has, for each matrix of the shape, the layer's inputs [images, m] and errors [images, n].
        `share` is by what the update's gradient was multiplied to clip it.
        """
        count = len(arrays[0][0])
        slot = self._channel.reserve()
        if slot is None:
            self._channel.lose()
            return
        slot[0], slot[1] = count, 1.0 - rate * weight_decay
        at = _HEAD
        for inputs, errors in arrays:
            at = _write(slot, at, inputs)
            end = at + errors.size
            np.multiply(errors, np.float32(rate * share), out=slot[at:end].reshape(count, -1))
            at = end
        self._channel.publish()


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Some updates of one matrix [m, n], as `w = decay * w - inputs.T @ errors`.

    `inputs` [k, m] and `errors` [k, n], times the learning rate, are those of all k images; `decay` is the product of
    the updates' decays.
    """

    inputs: np.ndarray
    errors: np.ndarray
    decay: float

    def payload(self, rows: Sequence[slice]) -> np.ndarray:
        """Return the FACTORS payload, float32, for a server that has these rows of the matrix."""
        own = [self.inputs[:, part] for part in rows]
        width = sum(part.shape[1] for part in own)
        count = len(self.inputs)
        out = np.zeros(FACTOR_HEAD + count * (width + self.errors.shape[1]), np.float32)
        out[0] = self.decay
        inputs = out[FACTOR_HEAD : FACTOR_HEAD + count * width].reshape(count, width)
        np.concatenate(own, axis=1, out=inputs)
        out[FACTOR_HEAD + count * width :] = self.errors.reshape(-1)
        return out


class Inboxes:
    """The synchronizer's side of all workers' outboxes. An update stays in its outbox until `consume` removes it."""

    def __init__(self, handles: Sequence[ChannelHandle], shape: FactorShape) -> None:
        segment = Segment.attach(handles[0].segment)
        self._channels = [LocalChannel.attach(handle, segment) for handle in handles]
        self.shape = shape

    @property
    def lost(self) -> int:
        """How many updates have been lost since the start because an outbox was full."""
        return sum(channel.lost for channel in self._channels)

    @property
    def full(self) -> bool:
        """Whether any outbox has no room for its worker's next update."""
        return any(channel.waiting >= channel.handle.slots for channel in self._channels)

    def waiting(self) -> tuple[int, ...]:
        """Return how many updates lie in each outbox."""
        return tuple(channel.waiting for channel in self._channels)

    def fits(self, counts: Sequence[int]) -> bool:
        """Whether messages can hold the oldest updates of the outboxes, `counts` of each."""
        images = sum(int(slot[0]) for slot in self._slots([0] * len(counts), counts))
        return all(fits_message(images, *sizes) for sizes in self.shape.sizes)

    def gather(self, begin: Sequence[int], end: Sequence[int]) -> dict[int, Gathered]:
        """Return, by tensor, the updates `begin` to `end` - 1 of each outbox, counted from its oldest."""
        return self._sort(self._slots(begin, end))

    def consume(self, counts: Sequence[int]) -> None:
        """Remove the oldest updates from the outboxes, `counts` of each."""
        for channel, count in zip(self._channels, counts, strict=True):
            channel.consume(count)

    def _slots(self, begin: Sequence[int], end: Sequence[int]) -> list[np.ndarray]:
        spans = zip(self._channels, begin, end, strict=True)
        return [channel.peek(ahead) for channel, first, last in spans for ahead in range(first, last)]

    def _sort(self, slots: Sequence[np.ndarray]) -> dict[int, Gathered]:
        counts = [int(slot[0]) for slot in slots]
        # All updates in one product: each later update's decay shrinks the earlier ones' share, as it does the weights.
        decays = np.array([slot[1] for slot in slots], np.float64)
        later = np.append(np.cumprod(decays[::-1])[::-1][1:], 1.0)
        found, offsets = {}, [_HEAD] * len(slots)
        for tensor, (inputs, outputs) in zip(self.shape.tensors, self.shape.sizes, strict=True):
            x = np.empty((sum(counts), inputs), np.float32)
            e = np.empty((sum(counts), outputs), np.float32)
            row = 0
            for index, (slot, count) in enumerate(zip(slots, counts, strict=True)):
                middle = offsets[index] + count * inputs
                end = middle + count * outputs
                x[row : row + count] = slot[offsets[index] : middle].reshape(count, inputs)
                np.multiply(
                    slot[middle:end].reshape(count, outputs), np.float32(later[index]), out=e[row : row + count]
                )  # fmt: skip
                offsets[index] = end
                row += count
            found[tensor] = Gathered(x, e, float(np.prod(decays)))
        return found


def _write(slot: np.ndarray, at: int, array: np.ndarray) -> int:
    end = at + array.size
    slot[at:end] = array.reshape(-1)
    return end
