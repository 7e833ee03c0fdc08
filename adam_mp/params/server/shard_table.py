"""A parameter server's shards: their weights in a parameter store, and updates applied to them once each.

A sender numbers its updates to a shard by growing sequences. An update whose sequence is not above the last applied one
has been applied already, and is skipped. Each update makes a new version of the shard. The first version is a random
number, so that two lives of a server, and two primaries of a shard, do not have the same versions.

Shards come and go in groups: a server has one group, or, in a run with copies, several.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from adam_mp.compute.operation import product_panel, strided
from adam_mp.errors import TransportError
from adam_mp.kernels.dense import dense_update
from adam_mp.kernels.exchange import add, from_bfloat16
from adam_mp.kernels.update import ALWAYS, LR, WEIGHT_DECAY
from adam_mp.memory.layout import Layout, Shard
from adam_mp.memory.store import ParameterStore

_MOST_SENDERS = 4096  # senders a shard whose last sequence is kept
_FLOAT16, _BFLOAT16 = 1, 2


@dataclasses.dataclass
class Entry:
    """Shard `number` of `group`. `weights` [shard.size] is a view of the store; `version` is 0 while it has no weights.

    `applied` maps a sender to the sequence of its last applied update.
    """

    number: int
    group: int
    shard: Shard
    weights: np.ndarray
    version: int = 0
    applied: dict[int, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Delta:
    """A delta as it came: sender, sequence, and `numbers` [shard.size] in the dtype of `encoding` (`ENCODINGS`)."""

    sender: int
    sequence: int
    numbers: np.ndarray
    encoding: int = 0


class FactorProduct:
    """Adds the product of activations and errors to rows of a matrix. One thread may use it."""

    def __init__(self) -> None:
        self._panel = product_panel(np.float32)
        self._numbers = np.zeros(len(ALWAYS))
        self._numbers[LR] = 1.0  # errors are multiplied by the learning rate already

    def apply(
        self, weight: np.ndarray, activations: np.ndarray, own: slice, errors: np.ndarray, decay: float
    ) -> None:  # fmt: skip
        """Set `weight = decay * weight - activations[:, own].T @ errors`, all float32.

        `weight` [rows, n], `activations` [k, m], of which `own` selects the columns of these rows, `errors` [k, n].
        """
        self._numbers[WEIGHT_DECAY] = 1.0 - decay
        count, width = activations.shape
        inputs, images = strided(width, 1)[own], strided(count, width)
        dense_update(activations, inputs, images, errors, weight, self._panel, self._numbers)


@dataclasses.dataclass(frozen=True)
class ShardStatistics:
    """Counters: `deltas` and `products` applied, updates skipped as `repeated`, and `folded` passes.

    A folded pass adds several deltas to a shard at once.
    """

    deltas: int = 0
    products: int = 0
    repeated: int = 0
    folded: int = 0


class ShardTable:
    """The shards of some groups of `layout`: `groups` has the numbers of each group's shards. One thread may use it.

    `changed` holds the numbers of shards that were updated; whoever copies a shard removes its number. `updates` counts
    the updates. The memory is a file a group in `folder`, if given, else anonymous shared memory. Raises SpaceError if
    there is no room.
    """

    def __init__(self, layout: Layout, groups: Mapping[int, Sequence[int]], folder: Path | None = None) -> None:
        self.layout, self._folder = layout, folder
        self.entries: dict[int, Entry] = {}
        self.changed: set[int] = set()
        self.updates = 0
        self._stores: dict[int, ParameterStore] = {}
        self._parts: dict[tuple[int | None, int], list[Entry]] = {}
        self._widened: list[np.ndarray] = []
        self._product = FactorProduct()
        self._tally = dict.fromkeys((field.name for field in dataclasses.fields(ShardStatistics)), 0)
        for group, numbers in groups.items():
            self.add(group, numbers)

    def add(self, group: int, numbers: Sequence[int]) -> None:
        """Make the shards of one more group, without weights. Raises SpaceError if there is no room."""
        own = Layout.of({str(number): (self.layout.shards[number].size,) for number in numbers})
        store = self._stores[group] = ParameterStore.create(own, (), self._folder)
        for number in numbers:
            entry = Entry(number, group, self.layout.shards[number], store.tensors[str(number)])
            self.entries[number] = entry
            self._parts.setdefault((entry.shard.tensor, group), []).append(entry)

    def drop(self, group: int) -> None:
        """Free the shards of a group."""
        store = self._stores.pop(group)
        for number in [number for number, entry in self.entries.items() if entry.group == group]:
            entry = self.entries.pop(number)
            del entry.weights
            self.changed.discard(number)
        self._parts = {key: some for key, some in self._parts.items() if key[1] != group}
        store.close()

    @property
    def groups(self) -> Collection[int]:
        """The numbers of the groups."""
        return self._stores.keys()

    @property
    def bytes(self) -> int:
        """The bytes of all weights."""
        return 4 * sum(entry.shard.size for entry in self.entries.values())

    def fill(self, number: int, weights: np.ndarray) -> bool:
        """Take first weights, float32 [shard.size], if the shard has none yet; return whether it took them."""
        entry = self.entries[number]
        if entry.version:
            return False
        self._check_size(number, weights)
        entry.weights[...] = weights
        self._advance(entry)
        return True

    def restore(self, number: int, weights: np.ndarray, applied: dict[int, int]) -> None:
        """Take the weights of a shard that has none yet, and its senders' sequences, from a snapshot.

        The shard does not count as changed: the snapshot has it already.
        """
        self.fill(number, weights)
        self.entries[number].applied = dict(applied)
        self.changed.discard(number)

    def apply_deltas(self, number: int, deltas: Sequence[Delta]) -> list[bool]:
        """Add all new deltas to a shard that has weights, in as few passes as possible; return for each if it was new.

        Raises TransportError, before it applies any, if one has another size than the shard.
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

    def take_copy(self, number: int, version: int, weights: np.ndarray, applied: Mapping[int, int]) -> None:
        """Take the weights of a shard, float32 [shard.size], its version and its senders' sequences, from its primary.

        If `version` is 0 the primary has no weights yet, and `weights` is empty. The shard does not count as changed:
        the caller says when a snapshot is due.
        """
        entry = self.entries[number]
        if version:
            self._check_size(number, weights)
            entry.weights[...] = weights
        entry.version, entry.applied = version, dict(applied)

    def renew(self, group: int) -> None:
        """Give the shards of a group versions that no primary before this server has given."""
        first = _first_version()
        for entry in self.entries.values():
            if entry.group == group and entry.version:
                entry.version = first

    def apply_factors(self, tensor: int, group: int, sender: int, sequence: int, payload: np.ndarray) -> bool:
        """Set `w = decay * w - activations.T @ errors` in a group's rows of a matrix: in each shard that lacks it.

        `payload`, float32: `FACTOR_HEAD` numbers, of which the first is `decay` and the rest are 0; then activations
        [k, rows of this group]; then errors [k, columns], which are multiplied by the learning rate already. Return
        whether any shard lacked the update. Raises TransportError if the sizes do not fit.
        """
        entries = self.parts_of(tensor, group)
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

    def parts_of(self, tensor: int, group: int) -> list[Entry]:
        """Return a group's shards of a matrix (the tensor's index), in order of rows."""
        return self._parts.get((tensor, group), [])

    def statistics(self) -> ShardStatistics:
        """Return the counters as of now."""
        return ShardStatistics(**self._tally)

    def close(self) -> None:
        """Free the memory."""
        for group in list(self._stores):
            self.drop(group)

    def _float32(self, delta: Delta, position: int) -> np.ndarray:
        """Return a delta in float32; a 16-bit one is widened into scratch array number `position`."""
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
        entry.applied.pop(sender, None)  # so that the dict has the most recent sender last
        entry.applied[sender] = sequence
        if len(entry.applied) > _MOST_SENDERS:
            del entry.applied[next(iter(entry.applied))]

    def _advance(self, entry: Entry) -> None:
        entry.version = entry.version + 1 if entry.version else _first_version()
        self.changed.add(entry.number)
        self.updates += 1


def _first_version() -> int:
    """Return a random version: its upper bits are drawn, its lower ones count updates."""
    return (int.from_bytes(os.urandom(3), "little") + 1) << 38


FACTOR_HEAD = 16  # float32 numbers of a FACTORS payload before the activations, which so begin on a cache line
