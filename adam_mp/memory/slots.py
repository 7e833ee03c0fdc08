"""The words of a single-producer single-consumer queue: which slots are published, and which are free again.

Head and tail only grow, each written by one side, each on its own cache line. Either side may die at any moment: what
was published stays valid, what was not never existed, a successor carries on from the words. Nothing here waits.
"""

from __future__ import annotations

import numpy as np

from adam_mp.kernels.atomic import observe, publish
from adam_mp.memory.segment import Segment

LINE = 8  # int64 words in a cache line
_HEAD, _TAIL, _EXTRA = 0, LINE, 2 * LINE
WORDS_BYTES = 3 * LINE * 8


class SlotWords:
    """Words at `offset` bytes of a segment for a queue of `count` slots; zeroed memory is an empty queue.

    The producer calls `free` and `publish`, one other process `oldest`, `at` and `consume`; all else is for anyone.
    `extra` is one more word, on a line of its own, for what the queue's owner likes.
    """

    def __init__(self, segment: Segment, offset: int, count: int) -> None:
        self._words = segment.array(np.int64, (3 * LINE,), offset)
        self._count = count

    def free(self) -> int | None:
        """Return the slot to write next; None if none is free. Producer only."""
        head = observe(self._words, _HEAD)
        if head - observe(self._words, _TAIL) >= self._count:
            return None
        return int(head % self._count)

    def publish(self) -> None:
        """Hand the slot over that `free` returned. Producer only."""
        publish(self._words, _HEAD, observe(self._words, _HEAD) + 1)

    def oldest(self) -> int | None:
        """Return the oldest published slot; None if there is none. Consumer only."""
        tail = observe(self._words, _TAIL)
        return None if observe(self._words, _HEAD) == tail else int(tail % self._count)

    def at(self, ahead: int) -> int:
        """Return the slot that was published `ahead` after the oldest. Consumer only."""
        return int((observe(self._words, _TAIL) + ahead) % self._count)

    def consume(self, count: int = 1) -> None:
        """Give the oldest `count` slots back. Consumer only."""
        publish(self._words, _TAIL, observe(self._words, _TAIL) + count)

    def counts(self) -> tuple[int, int]:
        """Return how many slots were published and consumed since the start."""
        tail = int(observe(self._words, _TAIL))  # first, or it may be beyond the head by then
        return int(observe(self._words, _HEAD)), tail

    @property
    def extra(self) -> int:
        """The word beside them."""
        return int(observe(self._words, _EXTRA))

    @extra.setter
    def extra(self, value: int) -> None:
        publish(self._words, _EXTRA, value)
