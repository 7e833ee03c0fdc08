"""Bounded staleness: no worker is more than K updates ahead of the slowest (stale synchronous parallel).

Each worker has a clock on the board that counts its updates. A worker trains asynchronously, but begins a batch only if
the update will leave it at most K ahead of the slowest worker *in play*. A worker without a batch at hand leaves play,
so that a worker that waits for data holds nobody up; it comes back with the clock of the quickest.
"""

from __future__ import annotations

from collections.abc import Sequence

from adam_mp.memory.board import Counters
from adam_mp.memory.ring import Tag
from adam_mp.memory.wanted import WaitingBatch
from adam_mp.training.worker.asynchronous import AsyncStep
from adam_mp.training.worker.step import Gradient, Outcome


class BoundedClock:
    """The clock of `worker` among those of all workers, whose counters are `rows`; `bound` is K, at least 1.

    On the board a clock of 0 means that the worker is out of play; else the clock is at least 1.
    """

    def __init__(self, worker: int, rows: Sequence[Counters], bound: int) -> None:
        self._own, self._bound = rows[worker], bound
        self._others = [row for number, row in enumerate(rows) if number != worker]
        self._clock = 0  # 0: out of play

    def may_begin(self) -> bool:
        """Enter play if this worker is out of it; tell whether one more update leaves it at most K ahead."""
        while not self._clock:
            self._publish(max([1, *self._clocks()]))
            if self._clock <= max([1, *self._clocks()]) - self._bound:
                self._clock = 0  # a worker that did not see this clock yet is K ahead of it: enter at a later clock
        return self._clock + 1 - min([self._clock, *self._clocks()]) <= self._bound

    def advance(self) -> int:
        """Count an update; return by how many updates this worker is ahead of the slowest now."""
        lead = self._clock + 1 - min([self._clock + 1, *self._clocks()])
        self._publish(self._clock + 1)
        return lead

    def leave(self) -> None:
        """Leave play: there is no batch at hand."""
        if self._clock:
            self._publish(0)

    def _clocks(self) -> list[int]:
        """Return the clocks of the other workers in play."""
        clocks = [row.observe("clock") for row in self._others]
        return [clock for clock in clocks if clock]

    def _publish(self, clock: int) -> None:
        """Store this worker's clock; later loads of the others' clocks cannot be moved before this store.

        With a plain store, a worker that enters play and one that advances could both miss the other's new clock, and
        one of them begin a batch that takes it too far ahead.
        """
        self._clock = clock
        self._own.exchange("clock", clock)


class BoundedStep:
    """The asynchronous step `inner`, begun only while the worker's `clock` allows it; `counters` are the worker's."""

    def __init__(self, inner: AsyncStep, clock: BoundedClock, counters: Counters) -> None:
        self._inner, self._clock, self._counters = inner, clock, counters

    def settle(self) -> bool:
        """Return False: `update` leaves nothing to finish."""
        return False

    def take(self) -> WaitingBatch | Outcome:
        """Return the oldest batch, unless this worker is too far ahead; without a batch the worker leaves play."""
        found = self._inner.take()
        if isinstance(found, Outcome):
            self._clock.leave()
            return found
        return found if self._clock.may_begin() else Outcome.WAITING_FOR_OTHERS

    def skip(self, tag: Tag) -> None:
        """Report an empty batch as done; it made no update, so the clock does not advance."""
        self._inner.skip(tag)

    def prepare(self, tag: Tag, loss: float) -> None:
        self._inner.prepare(tag, loss)

    def update(self, gradient: Gradient) -> None:
        """Update the weights, and advance the clock by one."""
        self._inner.update(gradient)
        self._counters.keep_largest("lead", self._clock.advance())
