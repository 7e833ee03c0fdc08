"""Leases: which batches of an epoch a machine trains, and when the epoch is over.

`Leases` is the interface that the supervisor uses. `OwnLeases` is that of a machine alone: it trains all batches, and
the epoch is over when they reach the quorum. `shared_leases` is that of a replica.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from adam_mp.memory.ledger import SKIPPED, TRAINED, images_in
from adam_mp.memory.run_memory import RunMemory
from adam_mp.training.folder.figures import Sums
from adam_mp.training.plan.quorum import quorum_reached

# Takes numbers of batches [n] of the epoch that is open; returns batch -> its images that could not be read.
FailedIn = Callable[[np.ndarray], dict[int, int]]


class Leases(Protocol):
    """The supervisor's view of an epoch's batches. `states`, uint8 [batches], are always those of the ledger."""

    @property
    def leads(self) -> bool:
        """Whether this machine validates, and writes models and checkpoints."""

    @property
    def seconds_without_batches(self) -> float:
        """Seconds since the start in which an epoch went on but this machine had no batch left to train."""

    def open(self, epoch: int, states: np.ndarray) -> None:
        """Open the ledger for an epoch whose batches have these `states`."""

    def over(self, states: np.ndarray) -> bool:
        """Tell whether the epoch is over; called at every look at training."""

    def trained(self, states: np.ndarray) -> int:
        """Return how many images of the epoch are trained, by all machines."""

    def images_of_all(self, here: float) -> float:
        """Return how many images all machines have trained since some moment; `here` is how many this one has.

        Only differences between two results mean something.
        """

    def next_epoch(self) -> int:
        """Return the epoch to train once this one is over."""

    def sums(self, states: np.ndarray) -> Sums:
        """Return the images of the epoch by all machines, up to now or up to its end."""

    def failed_in(self, states: np.ndarray) -> dict[int, int]:
        """Return batch -> its images that could not be read, of the batches that `resumable` says are trained."""

    def missed(self) -> list[tuple[int, Sums]]:
        """Return (epoch, its images) for the epochs that other replicas began and ended since this one."""

    def step(self) -> None:
        """Keep in touch with the coordinator; called at short intervals, whatever else goes on."""

    def moved(self) -> bool:
        """Tell whether other machines made progress since the last call; then this machine may wait for them."""

    def silences(self) -> dict[str, float]:
        """Return coordinator and parameter servers -> seconds for which each has owed an answer, 0 if it owes none."""

    def settle(self, step: Callable[[], None]) -> None:
        """Wait, calling `step`, until the parameter servers have every update made here. Workers are idle.

        Raises TransportError if no weights are exchanged for too long.
        """

    def resumable(self, states: np.ndarray, step: Callable[[], None]) -> np.ndarray:
        """Return the states to keep in a checkpoint; the weights here then have the update of every TRAINED batch.

        Waits for that, calls `step` meanwhile and raises as `settle` does. Workers are idle.
        """

    def leave(self) -> None:
        """Leave the run, because it is over or has failed here."""


class OwnLeases:
    """The leases of a machine alone: all batches. `failed_in` finds images that could not be read.

    `part_failed` is what the checkpoint of a resumed run says of the epoch that was cut: batch -> images that could not
    be read.
    """

    def __init__(
        self, memory: RunMemory, batch_size: int, images: int, quorum: float, failed_in: FailedIn,
        part_failed: Mapping[int, int],
    ) -> None:  # fmt: skip
        self._ledger, self._size, self._images, self._quorum = memory.ledger, batch_size, images, quorum
        self._epoch, self._find_failed = 0, failed_in
        self._next_part: Mapping[int, int] = part_failed  # it belongs to the first epoch that is opened
        self._part: Mapping[int, int] = {}

    @property
    def leads(self) -> bool:
        """See `Leases.leads`."""
        return True

    @property
    def seconds_without_batches(self) -> float:
        """See `Leases.seconds_without_batches`. Always 0: a machine alone has batches until the epoch is over."""
        return 0.0

    def open(self, epoch: int, states: np.ndarray) -> None:
        """See `Leases.open`."""
        self._epoch, self._part, self._next_part = epoch, self._next_part, {}
        self._ledger.open(epoch, states)

    def over(self, states: np.ndarray) -> bool:
        """See `Leases.over`."""
        return quorum_reached(states, self._quorum, self._size, self._images)

    def trained(self, states: np.ndarray) -> int:
        """See `Leases.trained`."""
        return images_in(states, TRAINED, self._size, self._images)

    def images_of_all(self, here: float) -> float:
        """See `Leases.images_of_all`."""
        return here

    def next_epoch(self) -> int:
        """See `Leases.next_epoch`."""
        return self._epoch + 1

    def sums(self, states: np.ndarray) -> Sums:
        """See `Leases.sums`."""
        failed = sum(self.failed_in(states).values())
        return Sums(self.trained(states) - failed, images_in(states, SKIPPED, self._size, self._images), failed)

    def failed_in(self, states: np.ndarray) -> dict[int, int]:
        """See `Leases.failed_in`."""
        return {**self._part, **self._find_failed(np.flatnonzero(states == TRAINED))}

    def missed(self) -> list[tuple[int, Sums]]:
        """See `Leases.missed`."""
        return []

    def step(self) -> None:
        """See `Leases.step`."""

    def moved(self) -> bool:
        """See `Leases.moved`."""
        return False

    def silences(self) -> dict[str, float]:
        """See `Leases.silences`."""
        return {}

    def settle(self, step: Callable[[], None]) -> None:
        """See `Leases.settle`."""

    def resumable(self, states: np.ndarray, step: Callable[[], None]) -> np.ndarray:
        """See `Leases.resumable`."""
        return states

    def leave(self) -> None:
        """See `Leases.leave`."""
