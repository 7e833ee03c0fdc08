"""The shared words of a queue with one producer and one consumer: which slots are published, and which are free again.

Two words, head and tail, count the slots published and consumed since the start. They only grow, each is written by one
side, and each has its own cache line. Either process may die at any moment. Slots that the producer published stay
valid; a slot that it had not published counts as never written. A successor goes on from the words. Nothing here waits.
"""

from __future__ import annotations

import numpy as np

from adam_mp.kernels.atomic import observe, publish
from adam_mp.memory.segment import Segment

LINE = 8  # int64 words in a cache line
_HEAD, _TAIL, _EXTRA = 0, LINE, 2 * LINE
WORDS_BYTES = 3 * LINE * 8


class SlotWords:
    """The words of a queue of `count` slots, at `offset` bytes of a segment; zeroed memory is an empty queue.

    One process, the producer, calls `free` and `publish`; one other process, the consumer, calls `oldest`, `at` and
    `consume`. Any process may call `counts`. `extra` is one more word, on its own cache line: the user of this class
    gives it a meaning (in a `Ring` it names the producer).
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
        """Hand the slot that `free` returned to the consumer. Producer only."""
        publish(self._words, _HEAD, observe(self._words, _HEAD) + 1)

    def oldest(self) -> int | None:
        """Return the oldest published slot; None if there is none. Consumer only."""
        tail = observe(self._words, _TAIL)
        return None if observe(self._words, _HEAD) == tail else int(tail % self._count)

    def at(self, ahead: int) -> int:
        """Return the slot that was published `ahead` slots after the oldest. Consumer only."""
        return int((observe(self._words, _TAIL) + ahead) % self._count)

    def consume(self, count: int = 1) -> None:
        """Give the oldest `count` slots back to the producer. Consumer only."""
        publish(self._words, _TAIL, observe(self._words, _TAIL) + count)

    def counts(self) -> tuple[int, int]:
        """Return how many slots were published and consumed since the start."""
        tail = int(observe(self._words, _TAIL))  # before the head: read after it, the tail could be beyond the head
        return int(observe(self._words, _HEAD)), tail

    @property
    def extra(self) -> int:
        """The word beside head and tail."""
        return int(observe(self._words, _EXTRA))

    @extra.setter
    def extra(self, value: int) -> None:
        publish(self._words, _EXTRA, value)
