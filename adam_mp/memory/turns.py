"""Turns: which worker trains which batch of an epoch, where that must not depend on which worker is faster.

When an epoch opens, the supervisor deals the batches that are left to the workers like cards, in order: with `W`
workers, the batch of worker `w` in turn `t` is the one at index `t * W + w`. In the last turn there may be batches for
the first workers only.
"""

from __future__ import annotations

import numpy as np

from adam_mp.memory.segment import Segment

_LINE = 8
_COUNT, _STEP = 0, 1


class Turns:
    """A view of the turns of up to `capacity` batches at `offset` bytes of a segment.

    The supervisor writes them while workers are idle, between two rounds of the ledger. Any process reads them.
    """

    def __init__(self, segment: Segment, offset: int, capacity: int, workers: int) -> None:
        self.workers = workers
        self._header = segment.array(np.int64, (_LINE,), offset)
        self._batches = segment.array(np.int64, (capacity,), offset + 8 * _LINE)

    @staticmethod
    def bytes_needed(capacity: int) -> int:
        """Return the bytes that the turns of `capacity` batches take."""
        return 8 * (_LINE + capacity)

    def deal(self, batches: np.ndarray, step: int) -> None:
        """Deal `batches` int64 [n], in the order given; `step` is the number of updates before the first turn."""
        self._batches[: batches.size] = batches
        self._header[_COUNT], self._header[_STEP] = batches.size, step

    def hand(self, worker: int) -> np.ndarray:
        """Return a view of the batches of `worker`, in the order of its turns."""
        return self._batches[worker : int(self._header[_COUNT]) : self.workers]

    def players(self, turn: int) -> int:
        """Return how many workers have a batch in a turn; they are always the first workers."""
        return max(0, min(self.workers, int(self._header[_COUNT]) - turn * self.workers))

    def step(self, turn: int) -> int:
        """Return the number of updates before a turn."""
        return int(self._header[_STEP]) + turn
