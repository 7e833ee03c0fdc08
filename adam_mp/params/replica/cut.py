"""A cut: the weights with exactly the updates that lie in the outboxes at one moment, and no later ones.

Workers go on updating meanwhile. So the cut is made in two steps. First the synchronizer notes how many updates each
outbox holds (`cut`), and copies the weights shard by shard; it notes the outboxes' counts again after each shard. Then
it subtracts from each copy the updates that came between the cut and the copying of that shard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from adam_mp.kernels.exchange import take_delta
from adam_mp.memory.exchange import ExchangeMemory
from adam_mp.params.replica.factors import Inboxes
from adam_mp.params.server.shard_table import FactorProduct


class Cut:
    """Sets `sent` of shards in `memory` to a cut of the replica's `weights`: first `look`, then `take_out`."""

    def __init__(self, memory: ExchangeMemory, weights: np.ndarray) -> None:
        self._memory, self._weights = memory, weights
        self._delta: np.ndarray = np.zeros(max((shard.size for shard in memory.held.shards), default=1), np.float32)
        self._product = FactorProduct()

    def look(self, numbers: Sequence[int], waiting: Callable[[], tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Set `sent` of each shard to its present weights; return, for each shard, what `waiting` returned after it.

        `waiting` returns how many updates lie in each outbox.
        """
        memory, ends = self._memory, []
        for number in numbers:
            place, size = memory.held.shards[number].place, memory.held.shards[number].size
            take_delta(self._weights[place], memory.base[place], memory.sent[place], self._delta[:size])
            ends.append(waiting())
        return ends

    def take_out(
        self, numbers: Sequence[int], inboxes: Inboxes, cut: tuple[int, ...], ends: Sequence[tuple[int, ...]]
    ) -> None:  # fmt: skip
        """Subtract from `sent` of each shard the updates from `cut` to the shard's entry in `ends`: few, often none.

        `cut` and each of `ends` count updates in each outbox. An update was `w = decay * w - x.T @ e`, so the weights
        before it are `(w + x.T @ e) / decay`.
        """
        shards = self._memory.held.shards
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
