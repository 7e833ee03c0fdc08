"""What a replica knows of the batches of its epoch, and what it tells of them. Pure: no sockets, no clock.

    ELSEWHERE ──granted──▶ on their way here ──trained──▶ waiting ──exchanged──▶ ready ──▶ telling ──heard──▶ told

A trained batch waits for a round of the exchange that began after it was trained: only then do the servers have its
update, and only then may it be reported. A replica that dies before has not reported it, and others train it again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from adam_mp.memory.ledger import FREE, HELD, LEASED, TRAINED
from adam_mp.training.replica.leases import FailedIn

_LEAST, _MOST = 4, 4096  # batches that wait here to be trained, for each worker and in all
_AHEAD = 4  # reports for whose time there should be batches here


@dataclasses.dataclass
class _Waiting:
    """Batches that are trained, and the round of the exchange after which the servers have their updates."""

    batches: list[int]
    round: int


@dataclasses.dataclass(frozen=True)
class Rejoining:
    """What a replica tells of its epoch when it joins again: what the servers have, and the rest."""

    trained: list[int]
    leased: list[int]


class LeasedBatches:
    """The batches that a replica was leased, in the epoch that is open. `states` are always those of its ledger."""

    def __init__(self) -> None:
        self._pace = 0.0  # batches trained between two reports
        self.begin(0)

    def begin(self, batches: int) -> None:
        """Begin an epoch of so many batches, with nothing known of it."""
        self._known: np.ndarray = np.zeros(batches, bool)  # which are trained here
        self._count = 0  # of them
        self._failed: dict[int, int] = {}  # batch -> images that could not be had, of those
        self._failed_elsewhere: dict[int, int] = {}  # of those of all replicas, if that was asked
        self._waiting: list[_Waiting] = []
        self._ready: list[int] = []  # the servers have them; the coordinator does not know yet
        self._telling: list[int] = []  # they are in a report that is not answered yet
        self._count_at_report = 0
        self._hungry = True

    def look(self, states: np.ndarray, next_round: int, is_done: Callable[[int], bool], failed_in: FailedIn) -> None:
        """Find what was trained since the last look, and what the servers have since then.

        `next_round` is the exchange's next round, read after `states`; `is_done` tells whether a round is over.
        """
        new = np.flatnonzero((states == TRAINED) & ~self._known).tolist()
        if new:
            self._known[new] = True
            self._count += len(new)
            self._failed.update(failed_in(np.array(new)))
            self._waiting.append(_Waiting(new, next_round))
        while self._waiting and is_done(self._waiting[0].round):
            self._ready += self._waiting.pop(0).batches

    @property
    def waits_for_exchange(self) -> bool:
        """Whether batches are trained here whose updates the servers may not have."""
        return bool(self._waiting)

    @property
    def has_to_tell(self) -> bool:
        """Whether the coordinator should hear soon: of trained batches, or that this replica wants more."""
        return bool(self._ready) or self._hungry

    def want(self, states: np.ndarray, workers: int) -> int:
        """Return how many more batches this replica asks for, so that its workers have some until the next answers."""
        self._pace = max(self._count - self._count_at_report, 0.7 * self._pace)
        self._count_at_report = self._count
        backlog = int(np.count_nonzero((states == FREE) | (states == HELD)))
        wanted = max(0, min(_MOST, max(_LEAST * workers, round(_AHEAD * self._pace))) - backlog)
        self._hungry = wanted > 0
        return wanted

    def tell(self) -> list[int]:
        """Return the trained batches of the next report. They are told until `heard`."""
        self._telling, self._ready = self._ready, []
        return self._telling

    def heard(self) -> None:
        """The coordinator answered the last report."""
        self._telling = []

    def tell_last(self) -> list[int]:
        """Return what a replica that leaves has to tell: also what is in a report that nobody answered."""
        return [*self._telling, *self._ready]

    def rejoin(self, states: np.ndarray, same_epoch: bool) -> Rejoining:
        """Return what to join with again; all that the servers have is told by it.

        If the coordinator had ended this epoch before it was lost (not `same_epoch`), there is nothing to tell of it.
        """
        self._ready = []
        if not same_epoch:
            return Rejoining([], [])
        unpushed = sorted(batch for waiting in self._waiting for batch in waiting.batches)
        pushed = self._known.copy()
        pushed[unpushed] = False
        here = np.flatnonzero(np.isin(states, (FREE, HELD, LEASED))).tolist()
        return Rejoining(np.flatnonzero(pushed).tolist(), [*here, *unpushed])

    def failed_of(self, batches: list[int]) -> list[list[int]]:
        """Return what is told of these batches' images that could not be had: pairs of batch and images."""
        return [[batch, self._failed[batch]] for batch in batches if batch in self._failed] if self._failed else []

    def note_failed_elsewhere(self, failed: Mapping[int, int]) -> None:
        """Take over batch -> images that could not be had, of the batches that all replicas trained."""
        self._failed_elsewhere = dict(failed)

    @property
    def failed(self) -> dict[int, int]:
        """Batch -> images that could not be had, as far as known, of all replicas."""
        return {**self._failed, **self._failed_elsewhere}


def none_here(states: np.ndarray) -> bool:
    """Tell whether no batch is here to be trained, or being trained."""
    return not np.isin(states, (FREE, HELD, LEASED)).any()
