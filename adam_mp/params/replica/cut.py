"""One cut of outboxes and weights: what the weights are with just the updates that lie in the outboxes.

Workers go on meanwhile, so the weights are looked at shard by shard, and updates that came in before a shard was looked
at are taken out of what was seen of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from adam_mp.kernels.exchange import take_delta
from adam_mp.memory.exchange import ExchangeMemory
from adam_mp.params.replica.factors import Inboxes
from adam_mp.params.server.shard_table import FactorProduct


class Cut:
    """Sets `sent` in the exchange's memory from the replica's `weights`. One thread may use it."""

    def __init__(self, memory: ExchangeMemory, weights: np.ndarray) -> None:
        self._memory, self._weights = memory, weights
        self._delta: np.ndarray = np.zeros(max(shard.size for shard in memory.layout.shards), np.float32)
        self._product = FactorProduct()

    def look(self, numbers: Sequence[int], waiting: Callable[[], tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Set `sent` of each shard to its weights now; return how many updates were waiting then."""
        memory, ends = self._memory, []
        for number in numbers:
            place, size = memory.layout.shards[number].place, memory.layout.shards[number].size
            take_delta(self._weights[place], memory.base[place], memory.sent[place], self._delta[:size])
            ends.append(waiting())
        return ends

    def take_out(
        self, numbers: Sequence[int], inboxes: Inboxes, cut: tuple[int, ...], ends: Sequence[tuple[int, ...]]
    ) -> None:  # fmt: skip
        """Take the updates behind `cut` out of `sent`, up to each shard's end; there are few, often none."""
        shards = self._memory.layout.shards
        for end in set(ends) - {cut}:
            late = inboxes.gather(cut, end)
            for number in (number for number, its in zip(numbers, ends, strict=True) if its == end):
                shard = shards[number]
                assert shard.tensor is not None
                factors = late[shard.tensor]
                own = slice(shard.first_row, shard.first_row + shard.rows)
                columns = factors.errors.shape[1]
                weight = self._memory.sent[shard.place][: shard.rows * columns].reshape(shard.rows, columns)
                errors = factors.errors * np.float32(-1 / factors.decay)
                self._product.apply(weight, factors.inputs, own, errors, 1 / factors.decay)
