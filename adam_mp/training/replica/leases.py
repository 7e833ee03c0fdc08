"""Which batches of an epoch a machine trains, and when the epoch is over: what is asked, and the answers of one alone.

Alone, a machine has all batches, and the epoch is over at the quorum of its own. `shared_leases` has the answers of a
replica of many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from adam_mp.memory.ledger import SKIPPED, TRAINED, images_in
from adam_mp.memory.run_memory import RunMemory
from adam_mp.training.folder.figures import Sums
from adam_mp.training.plan.quorum import quorum_reached

# Returns batch -> images of it that could not be had, of these batches of the epoch that is open.
FailedIn = Callable[[np.ndarray], dict[int, int]]


class Leases(Protocol):
    """The supervisor's view of an epoch's batches."""

    @property
    def leads(self) -> bool:
        """Whether this machine validates, and keeps model and checkpoints."""

    @property
    def seconds_without_batches(self) -> float:
        """Seconds, since the start, in which an epoch went on and this machine had no batch that is not trained."""

    def open(self, epoch: int, states: np.ndarray) -> None:
        """Begin an epoch, of which `states` [batches] tells what is done."""

    def over(self, states: np.ndarray) -> bool:
        """Tell whether the epoch is over; called at every look, with the ledger's states."""

    def trained(self, states: np.ndarray) -> int:
        """Return how many images of the epoch are trained, by all machines."""

    def images_of_all(self, here: float) -> float:
        """Return how many images all machines have trained, up to a constant; `here` is how many this one has."""

    def next_epoch(self) -> int:
        """Return the epoch to train once this one is over."""

    def sums(self, states: np.ndarray) -> Sums:
        """Return the images of the epoch, by all machines: of all of it where it is over, else up to now."""

    def failed_in(self, states: np.ndarray) -> dict[int, int]:
        """Return batch -> images that could not be had, of the batches that `resumable` says are trained."""

    def missed(self) -> list[tuple[int, Sums]]:
        """Return epoch and images of those that others began and ended since this one."""

    def tick(self) -> None:
        """Keep in touch with the others; called at short intervals, whatever else goes on."""

    def moved(self) -> bool:
        """Tell whether something went on elsewhere since the last look: then nothing stalls here."""

    def silences(self) -> dict[str, float]:
        """Return who answers other machines' questions -> seconds for which it has owed an answer; 0 if it does not."""

    def settle(self, tick: Callable[[], None]) -> None:
        """Have the weights here and elsewhere agree, calling `tick` meanwhile. Workers are idle.

        Raises TransportError if they do not in good time.
        """

    def resumable(self, states: np.ndarray, tick: Callable[[], None]) -> np.ndarray:
        """Return the epoch's states for a checkpoint of the weights that are here after it. As `settle`."""

    def leave(self) -> None:
        """The run is over for this machine."""


class OwnLeases:
    """All batches are this machine's. `part_failed` is what a checkpoint says of the epoch that it cut."""

    def __init__(
        self, memory: RunMemory, batch_size: int, images: int, quorum: float, failed_in: FailedIn,
        part_failed: Mapping[int, int],
    ) -> None:  # fmt: skip
        self._ledger, self._size, self._images, self._quorum = memory.ledger, batch_size, images, quorum
        self._epoch, self._find_failed = 0, failed_in
        self._next_part: Mapping[int, int] = part_failed  # of the first epoch that is opened
        self._part: Mapping[int, int] = {}

    @property
    def leads(self) -> bool:
        """See `Leases.leads`."""
        return True

    @property
    def seconds_without_batches(self) -> float:
        """See `Leases.seconds_without_batches`; its batches are all there until the epoch is over."""
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

    def tick(self) -> None:
        """See `Leases.tick`."""

    def moved(self) -> bool:
        """See `Leases.moved`."""
        return False

    def silences(self) -> dict[str, float]:
        """See `Leases.silences`."""
        return {}

    def settle(self, tick: Callable[[], None]) -> None:
        """See `Leases.settle`."""

    def resumable(self, states: np.ndarray, tick: Callable[[], None]) -> np.ndarray:
        """See `Leases.resumable`."""
        return states

    def leave(self) -> None:
        """See `Leases.leave`."""
