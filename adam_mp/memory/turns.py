"""Turns: which worker trains which batch of an epoch, where that must not depend on who is quick.

The batches that are left when an epoch opens are dealt to the workers like cards, in order: turn `t` of worker `w` of
`W` is the batch at place `t * W + w`. In the last turn there may be batches for some of the workers only.
"""

from __future__ import annotations

import numpy as np

from adam_mp.memory.segment import Segment

_LINE = 8
_COUNT, _STEP = 0, 1


class Turns:
    """A view of the turns of up to `capacity` batches at `offset` bytes of a segment.

    Written by the supervisor while workers are idle, between two rounds of the ledger; read by anyone.
    """

    def __init__(self, segment: Segment, offset: int, capacity: int, workers: int) -> None:
        self.workers = workers
        self._header = segment.array(np.int64, (_LINE,), offset)
        self._batches = segment.array(np.int64, (capacity,), offset + 8 * _LINE)

    @staticmethod
    def bytes_needed(capacity: int) -> int:
        """Return the bytes that turns take."""
        return 8 * (_LINE + capacity)

    def deal(self, batches: np.ndarray, step: int) -> None:
        """Deal `batches` [n], in their order; `step` is the number of updates before the first turn."""
        self._batches[: batches.size] = batches
        self._header[_COUNT], self._header[_STEP] = batches.size, step

    def hand(self, worker: int) -> np.ndarray:
        """Return the batches of `worker`, the first turn's first: a view."""
        return self._batches[worker : int(self._header[_COUNT]) : self.workers]

    def players(self, turn: int) -> int:
        """Return how many workers have a batch in a turn: the first so many of them."""
        return max(0, min(self.workers, int(self._header[_COUNT]) - turn * self.workers))

    def step(self, turn: int) -> int:
        """Return the number of updates before a turn."""
        return int(self._header[_STEP]) + turn
