"""The batches that a replica has leased: how many more it asks for, and when it reports which as trained.

No sockets and no clock. A batch moves through these places:

    ELSEWHERE ──granted──▶ in the ledger ──trained──▶ waiting ──exchanged──▶ ready ──▶ telling ──answered──▶ told

A trained batch waits until a round of the exchange that began after its training is over. Only then do the parameter
servers have its update, and only then may it be reported. If the replica dies before that, the batch was never
reported, and another replica trains it again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from adam_mp.memory.ledger import FREE, HELD, LEASED, TRAINED
from adam_mp.training.replica.leases import FailedIn

_LEAST, _MOST = 4, 4096  # batches to have here untrained: at least so many for each worker, at most so many in all
_AHEAD = 4  # reports: the batches here should last for the time between so many


@dataclasses.dataclass
class _Waiting:
    """Trained batches, and the round of the exchange after which the parameter servers have their updates."""

    batches: list[int]
    round: int


@dataclasses.dataclass(frozen=True)
class Rejoining:
    """What a replica says of its epoch when it joins again.

    `trained` are batches whose updates the parameter servers have; `leased` are all others that it has: those still to
    be trained, and those trained whose updates are not exchanged yet.
    """

    trained: list[int]
    leased: list[int]


class LeasedBatches:
    """The batches that a replica has leased in the epoch that is open. `states` are always those of its ledger."""

    def __init__(self) -> None:
        self._pace = 0.0  # batches trained between two reports
        self.begin(0)

    def begin(self, batches: int) -> None:
        """Begin an epoch of so many batches, of which nothing is known yet."""
        self._known: np.ndarray = np.zeros(batches, bool)  # which batches were trained here, as of the last look
        self._count = 0  # how many of them
        self._failed: dict[int, int] = {}  # batch trained here -> its images that could not be read
        self._failed_elsewhere: dict[int, int] = {}  # the same for all replicas' batches, once the coordinator told
        self._waiting: list[_Waiting] = []
        self._ready: list[int] = []  # the parameter servers have their updates; no report names them yet
        self._telling: list[int] = []  # named in a report that is not answered yet
        self._count_at_report = 0
        self._hungry = True

    def step(self, states: np.ndarray, next_round: int, is_done: Callable[[int], bool], failed_in: FailedIn) -> None:
        """Find the batches trained since the last look, and those whose updates the parameter servers have by now.

        `next_round` is the number of the exchange's next round, read after `states`; `is_done` tells whether a round is
        over; `failed_in` returns batch -> images that could not be read.
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
        """Whether batches were trained here whose updates the parameter servers may not have yet."""
        return bool(self._waiting)

    @property
    def has_to_tell(self) -> bool:
        """Whether to report soon: there are trained batches to name, or this replica needs more batches."""
        return bool(self._ready) or self._hungry

    def want(self, states: np.ndarray, workers: int) -> int:
        """Return how many more batches to ask for, so that the workers have enough until the next answers."""
        self._pace = max(self._count - self._count_at_report, 0.7 * self._pace)
        self._count_at_report = self._count
        backlog = int(np.count_nonzero((states == FREE) | (states == HELD)))
        wanted = max(0, min(_MOST, max(_LEAST * workers, round(_AHEAD * self._pace))) - backlog)
        self._hungry = wanted > 0
        return wanted

    def tell(self) -> list[int]:
        """Return the trained batches to name in the next report; `heard` must follow once it is answered."""
        self._telling, self._ready = self._ready, []
        return self._telling

    def heard(self) -> None:
        """Note that the coordinator answered the last report: it knows the batches named there."""
        self._telling = []

    def tell_last(self) -> list[int]:
        """Return the trained batches to name in the last report of all, those of an unanswered report included."""
        return [*self._telling, *self._ready]

    def rejoin(self, states: np.ndarray, same_epoch: bool) -> Rejoining:
        """Return what to say of the epoch when this replica joins again.

        `same_epoch` is whether the coordinator still trained this epoch when it spoke last. If not, the epoch is over
        for it, and there is nothing to say.
        """
        self._ready = []  # joining names them
        if not same_epoch:
            return Rejoining([], [])
        unpushed = sorted(batch for waiting in self._waiting for batch in waiting.batches)
        pushed = self._known.copy()
        pushed[unpushed] = False
        here = np.flatnonzero(np.isin(states, (FREE, HELD, LEASED))).tolist()
        return Rejoining(np.flatnonzero(pushed).tolist(), [*here, *unpushed])

    def failed_of(self, batches: list[int]) -> dict[int, int]:
        """Return batch -> its images that could not be read, for those of `batches` that have any."""
        return {batch: self._failed[batch] for batch in batches if batch in self._failed} if self._failed else {}

    def note_failed_elsewhere(self, failed: Mapping[int, int]) -> None:
        """Keep what the coordinator said: batch -> its images that could not be read, for all replicas' batches."""
        self._failed_elsewhere = dict(failed)

    @property
    def failed(self) -> dict[int, int]:
        """Batch -> its images that could not be read, for all batches of which this replica knows."""
        return {**self._failed, **self._failed_elsewhere}


def none_here(states: np.ndarray) -> bool:
    """Tell whether no batch is here that is still to be trained, or is being trained."""
    return not np.isin(states, (FREE, HELD, LEASED)).any()
