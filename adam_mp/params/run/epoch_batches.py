"""The batches of an epoch as the coordinator sees them: which are free, leased, trained, and by whom.

The states are three of those that a replica's ledger has; a batch is LEASED to a replica here, to a worker there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from adam_mp.memory.ledger import FREE, LEASED, TRAINED, images_in

_MOST_GRANTED = 4096  # batches in one answer


class EpochBatches:
    """`count` batches of `batch_size` images, of which the last has fewer if `images` says so.

    Members are known by their identities. `twice` counts batches that two of them trained; `failed` are
    the images of each trained batch that could not be had, where there are any.
    """

    def __init__(self, count: int = 0, batch_size: int = 0, images: int = 0) -> None:
        self._size, self._images = batch_size, images
        self.states: np.ndarray = np.full(count, FREE, np.uint8)
        self.holders: np.ndarray = np.zeros(count, np.uint64)
        self.twice = 0
        self.failed: dict[int, int] = {}

    def images_in(self, state: int) -> int:
        """Return how many images the batches in `state` hold."""
        return images_in(self.states, state, self._size, self._images)

    def done(self) -> str:
        """Return which are trained, a bit each, in hexadecimal."""
        return np.packbits(self.states == TRAINED).tobytes().hex()

    def restore(self, done: str, failed: Mapping[int, int]) -> None:
        """Note as trained what `done` says, nobody knows by whom, and what `failed` of it."""
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(done), np.uint8))[: self.states.size]
        self.states[bits == 1] = TRAINED
        self.failed = dict(failed)

    def note_trained(self, member: int, batches: Sequence[int], failed: Mapping[int, int]) -> int:
        """Count batches as trained, whoever holds them by now; return how many images are new.

        `failed` are the images of each that could not be had: those of who trained it first count.
        One that another trained too is counted in `twice`. Who trained what was restored is not known; the first that
        names it is taken for the one.
        """
        before, numbers = self.images_in(TRAINED), np.unique(np.array(batches, np.int64))
        others = ~np.isin(self.holders[numbers], (0, member))
        self.twice += int(np.count_nonzero((self.states[numbers] == TRAINED) & others))
        new = {batch for batch in failed if self.states[batch] != TRAINED}
        self.states[numbers], self.holders[numbers] = TRAINED, member
        self.failed.update({batch: failed[batch] for batch in new if self.states[batch] == TRAINED})
        return self.images_in(TRAINED) - before

    def grant(self, member: int, wanted: int, members: int) -> list[int]:
        """Lease free batches: as many as are wanted, but never more than a fair part, one of `members`, of those."""
        free = np.flatnonzero(self.states == FREE)
        fair = -(-len(free) // max(1, members))
        granted = free[: min(wanted, fair, _MOST_GRANTED)]
        self.states[granted], self.holders[granted] = LEASED, member
        return [int(batch) for batch in granted]

    def take(self, member: int, batches: Sequence[int]) -> None:
        """Lease these batches, where they are free."""
        free = [batch for batch in batches if self.states[batch] == FREE]
        self.states[free], self.holders[free] = LEASED, member

    def free(self, member: int) -> None:
        """Let go what a member leased."""
        self.states[(self.states == LEASED) & (self.holders == np.uint64(member))] = FREE
