"""The batches of an epoch as the coordinator sees them: which are free, leased or trained, and by which replica.

The states FREE, LEASED and TRAINED are those of a ledger. Here a batch is LEASED to a replica; in the replica's own
ledger it is LEASED to a worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from adam_mp.memory.ledger import FREE, LEASED, TRAINED, images_in

_MOST_GRANTED = 4096  # batches in one answer


class EpochBatches:
    """`count` batches of `batch_size` images, `images` in all: the last batch may have fewer.

    `member` is always a replica's identity. `twice` counts batches that two replicas trained. `failed` maps a trained
    batch to how many of its images could not be read; batches without such images are left out.
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
        """Return which batches are trained: one bit a batch, in hexadecimal."""
        return np.packbits(self.states == TRAINED).tobytes().hex()

    def restore(self, done: str, failed: Mapping[int, int]) -> None:
        """Take over `done` and `failed` of a snapshot. Which replica trained a batch is not in it: its holder is 0."""
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(done), np.uint8))[: self.states.size]
        self.states[bits == 1] = TRAINED
        self.failed = dict(failed)

    def note_trained(self, member: int, batches: Sequence[int], failed: Mapping[int, int]) -> int:
        """Mark batches as trained by `member`, whoever holds them now; return how many images were not trained before.

        `failed` maps batches to images that could not be read; if two replicas trained a batch, the first one's count
        stays. A batch that another replica has trained is counted in `twice`. A batch of a restored snapshot has no
        known trainer (holder 0): the first replica that names it becomes its trainer.
        """
        before, numbers = self.images_in(TRAINED), np.unique(np.array(batches, np.int64))
        others = ~np.isin(self.holders[numbers], (0, member))
        self.twice += int(np.count_nonzero((self.states[numbers] == TRAINED) & others))
        new = {batch for batch in failed if self.states[batch] != TRAINED}
        self.states[numbers], self.holders[numbers] = TRAINED, member
        self.failed.update({batch: failed[batch] for batch in new if self.states[batch] == TRAINED})
        return self.images_in(TRAINED) - before

    def grant(self, member: int, wanted: int, members: int) -> list[int]:
        """Lease free batches to a member: `wanted`, but at most its fair part, the free ones divided by `members`."""
        free = np.flatnonzero(self.states == FREE)
        fair = -(-len(free) // max(1, members))
        granted = free[: min(wanted, fair, _MOST_GRANTED)]
        self.states[granted], self.holders[granted] = LEASED, member
        return [int(batch) for batch in granted]

    def take(self, member: int, batches: Sequence[int]) -> None:
        """Lease those of `batches` that are free."""
        free = [batch for batch in batches if self.states[batch] == FREE]
        self.states[free], self.holders[free] = LEASED, member

    def free(self, member: int) -> None:
        """Free the batches that are leased to a member."""
        self.states[(self.states == LEASED) & (self.holders == np.uint64(member))] = FREE
