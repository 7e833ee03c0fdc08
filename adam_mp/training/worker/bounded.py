"""Bounded staleness: no worker is more than K updates ahead of the slowest (stale synchronous parallel).

A worker trains asynchronously as long as its clock lets it. Each worker's clock is the number of its updates. Only
workers in play count as slowest: who has no batch at hand is out of play, and comes back with the clock of the
quickest, so that a worker that waits for data holds nobody up.
"""

from __future__ import annotations

from collections.abc import Sequence

from adam_mp.memory.board import Counters
from adam_mp.memory.ring import Tag
from adam_mp.memory.wanted import WaitingBatch
from adam_mp.training.worker.asynchronous import AsyncStep
from adam_mp.training.worker.step import Gradient, Outcome


class BoundedClock:
    """One worker's clock among those of all; `bound` is K, at least 1.

    On the board a clock of 0 means out of play, else it is one more than the updates.
    """

    def __init__(self, worker: int, rows: Sequence[Counters], bound: int) -> None:
        self._own, self._bound = rows[worker], bound
        self._others = [row for number, row in enumerate(rows) if number != worker]
        self._clock = 0  # 0: out of play

    def may_begin(self) -> bool:
        """Come into play if need be; tell whether one more update leaves this worker at most K ahead."""
        while not self._clock:
            self._publish(max([1, *self._clocks()]))
            if self._clock <= max([1, *self._clocks()]) - self._bound:
                self._clock = 0  # others went on between the look and the word, and may have begun one more
        return self._clock + 1 - min([self._clock, *self._clocks()]) <= self._bound

    def advance(self) -> int:
        """Count an update; return by how many this worker is ahead of the slowest now."""
        lead = self._clock + 1 - min([self._clock + 1, *self._clocks()])
        self._publish(self._clock + 1)
        return lead

    def leave(self) -> None:
        """Go out of play: there is no batch at hand."""
        if self._clock:
            self._publish(0)

    def _clocks(self) -> list[int]:
        """The clocks of the others in play."""
        clocks = [row.observe("clock") for row in self._others]
        return [clock for clock in clocks if clock]

    def _publish(self, clock: int) -> None:
        """Store the clock before the others' are looked at.

        Else, of a worker that comes into play and one that goes on, neither might see the other, and one get too far.
        """
        self._clock = clock
        self._own.exchange("clock", clock)


class BoundedStep:
    """Asynchronous steps that begin only where the worker's clock lets them; `counters` are the worker's."""

    def __init__(self, inner: AsyncStep, clock: BoundedClock, counters: Counters) -> None:
        self._inner, self._clock, self._counters = inner, clock, counters

    def settle(self) -> bool:
        """Nothing is ever left to finish."""
        return False

    def take(self) -> WaitingBatch | Outcome:
        """Return the oldest batch, unless this worker is too far ahead; without a batch it goes out of play."""
        found = self._inner.take()
        if isinstance(found, Outcome):
            self._clock.leave()
            return found
        return found if self._clock.may_begin() else Outcome.WAITING_FOR_OTHERS

    def skip(self, tag: Tag) -> None:
        """Be done with an empty batch: it is no update, so the clock stands."""
        self._inner.skip(tag)

    def prepare(self, tag: Tag, loss: float) -> None:
        self._inner.prepare(tag, loss)

    def update(self, gradient: Gradient) -> None:
        """Update the weights, and let the clock go on by one."""
        self._inner.update(gradient)
        self._counters.keep_largest("lead", self._clock.advance())
