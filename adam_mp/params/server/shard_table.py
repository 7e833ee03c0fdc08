"""A server's shards: weights in a parameter store of its own, and updates applied to them once each.

Updates to a shard are numbered by their sender; one that is not newer than the last applied is known already. Each
update makes a new version of the shard. Versions begin at a random height, so that no two lives of a server share one.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from adam_mp.compute.operation import product_panel, strided
from adam_mp.errors import TransportError
from adam_mp.kernels.dense import dense_update
from adam_mp.kernels.exchange import add, from_bfloat16
from adam_mp.kernels.update import ALWAYS, LR, WEIGHT_DECAY
from adam_mp.memory.layout import Layout, Shard
from adam_mp.memory.store import ParameterStore

_MOST_SENDERS = 4096  # whose sequences are remembered, a shard
_FLOAT16, _BFLOAT16 = 1, 2


@dataclasses.dataclass
class Entry:
    """Shard `number`: `weights` flat, a view of the store; `version` 0 while it has no weights yet."""

    number: int
    shard: Shard
    weights: np.ndarray
    version: int = 0
    applied: dict[int, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Delta:
    """A delta as it came: who sent it under which sequence, flat numbers in their encoding."""

    sender: int
    sequence: int
    numbers: np.ndarray
    encoding: int = 0


class FactorProduct:
    """Multiplies activations and errors into rows of a matrix. One thread may use it."""

    def __init__(self) -> None:
        self._panel = product_panel(np.float32)
        self._numbers = np.zeros(len(ALWAYS))
        self._numbers[LR] = 1.0

    def apply(
        self, weight: np.ndarray, activations: np.ndarray, own: slice, errors: np.ndarray, decay: float
    ) -> None:  # fmt: skip
        """`weight = decay * weight - activations[:, own].T @ errors`: [rows, n], [k, all rows], [k, n]."""
        self._numbers[WEIGHT_DECAY] = 1.0 - decay
        count, width = activations.shape
        inputs, images = strided(width, 1)[own], strided(count, width)
        dense_update(activations, inputs, images, errors, weight, self._panel, self._numbers)


@dataclasses.dataclass(frozen=True)
class ShardStatistics:
    """Counters: deltas and products applied, those known already, passes over shards that folded several deltas."""

    deltas: int = 0
    products: int = 0
    repeated: int = 0
    folded: int = 0


class ShardTable:
    """The shards numbered `numbers` of `layout`. One thread may use it.

    `changed` are the shards that changed since whoever keeps copies of them took their numbers out.
    Memory is taken from `folder`, if given, else it is shared memory. Raises SpaceError if there is no room.
    """

    def __init__(self, layout: Layout, numbers: Sequence[int], folder: Path | None = None) -> None:
        self.layout, self.numbers = layout, tuple(numbers)
        own = Layout.of({str(number): (layout.shards[number].size,) for number in numbers})
        self.store = ParameterStore.create(own, (), folder)
        self.entries = {n: Entry(n, layout.shards[n], self.store.tensors[str(n)]) for n in numbers}
        self.changed: set[int] = set()
        self._parts: dict[int | None, list[Entry]] = {}
        for entry in self.entries.values():
            self._parts.setdefault(entry.shard.tensor, []).append(entry)
        self._height = (int.from_bytes(os.urandom(3), "little") + 1) << 38
        self._widened: list[np.ndarray] = []
        self._product = FactorProduct()
        self._tally = dict.fromkeys((field.name for field in dataclasses.fields(ShardStatistics)), 0)

    def fill(self, number: int, weights: np.ndarray) -> bool:
        """Take first weights, flat, if the shard has none; tell whether it took them."""
        entry = self.entries[number]
        if entry.version:
            return False
        self._check_size(number, weights)
        entry.weights[...] = weights
        self._advance(entry)
        return True

    def restore(self, number: int, weights: np.ndarray, applied: dict[int, int]) -> None:
        """Take weights and sequences of a snapshot."""
        self.fill(number, weights)
        self.entries[number].applied = dict(applied)
        self.changed.discard(number)

    def apply_deltas(self, number: int, deltas: Sequence[Delta]) -> list[bool]:
        """Add deltas to a shard that has weights, in as few passes as possible; tell of each whether it was new.

        Raises TransportError, before any is applied, if one has another size than the shard.
        """
        entry = self.entries[number]
        for delta in deltas:
            self._check_size(number, delta.numbers)
        fresh: list[np.ndarray] = []
        new: list[bool] = []
        for delta in deltas:
            new.append(delta.sequence > entry.applied.get(delta.sender, 0))
            if new[-1]:
                fresh.append(self._float32(delta, len(fresh)))
                self._note(entry, delta.sender, delta.sequence)
        if fresh:
            add(entry.weights, fresh)
            self._tally["folded"] += len(fresh) > 1
        self._tally["deltas"] += len(fresh)
        self._tally["repeated"] += len(deltas) - len(fresh)
        for _ in fresh:
            self._advance(entry)
        return new

    def apply_factors(self, tensor: int, sender: int, sequence: int, payload: np.ndarray) -> bool:
        """Multiply activations and errors straight into this server's rows of a matrix; tell whether any were new.

        `payload`: [decay, 0 ... (16 numbers)], activations [k, rows of this server], errors [k, columns], where the
        errors carry the learning rate: `w = decay * w - activations.T @ errors`. Raises TransportError if the sizes do
        not fit.
        """
        entries = self.parts_of(tensor)
        columns = self.layout.tensors[tensor].shape[1]
        rows = sum(entry.shard.rows for entry in entries)
        count, rest = divmod(len(payload) - FACTOR_HEAD, rows + columns)
        if not entries or rest or count < 1:
            raise TransportError(
                f"activations for {self.layout.tensors[tensor].name} have {len(payload)} numbers; expected "
                f"{FACTOR_HEAD} and a multiple of {rows} + {columns}"
            )
        activations = payload[FACTOR_HEAD : FACTOR_HEAD + count * rows]
        errors = payload[FACTOR_HEAD + count * rows :].reshape(count, columns)
        decay = float(payload[0])
        first, new = 0, False
        for entry in entries:
            own = slice(first, first + entry.shard.rows)
            first = own.stop
            if sequence <= entry.applied.get(sender, 0):
                self._tally["repeated"] += 1
                continue
            weight = entry.weights[: entry.shard.rows * columns].reshape(entry.shard.rows, columns)
            self._product.apply(weight, activations.reshape(count, rows), own, errors, decay)
            self._note(entry, sender, sequence)
            self._advance(entry)
            self._tally["products"] += 1
            new = True
        return new

    def parts_of(self, tensor: int) -> list[Entry]:
        """Return this server's shards of a matrix, in order of rows."""
        return self._parts.get(tensor, [])

    def statistics(self) -> ShardStatistics:
        """Return the counters as of now."""
        return ShardStatistics(**self._tally)

    def close(self) -> None:
        """Give the memory back."""
        for entry in self.entries.values():
            del entry.weights
        self.store.close()

    def _float32(self, delta: Delta, position: int) -> np.ndarray:
        """Return a delta in float32; one that came in 16 bits is widened into scratch."""
        if delta.encoding == 0:
            return delta.numbers
        while len(self._widened) <= position:
            self._widened.append(np.zeros(0, np.float32))
        if len(self._widened[position]) < len(delta.numbers):
            self._widened[position] = np.zeros(len(delta.numbers), np.float32)
        out = self._widened[position][: len(delta.numbers)]
        if delta.encoding == _BFLOAT16:
            from_bfloat16(delta.numbers, out)
        else:
            out[...] = delta.numbers
        return out

    def _check_size(self, number: int, numbers: np.ndarray) -> None:
        expected = self.entries[number].shard.size
        if len(numbers) != expected:
            raise TransportError(f"shard {number} came with {len(numbers)} numbers; expected {expected}")

    def _note(self, entry: Entry, sender: int, sequence: int) -> None:
        entry.applied.pop(sender, None)  # the most recent stand last
        entry.applied[sender] = sequence
        if len(entry.applied) > _MOST_SENDERS:
            del entry.applied[next(iter(entry.applied))]

    def _advance(self, entry: Entry) -> None:
        entry.version = entry.version + 1 if entry.version else self._height
        self.changed.add(entry.number)
        self.store.count_update()


FACTOR_HEAD = 16  # numbers before the activations, so that these begin on a cache line
