"""Who has which batch of the epoch: every batch is leased to one process at a time and counted once.

One int64 word a batch holds `round << 20 | holder << 4 | state`. It moves by compare-and-swap only:

    FREE -> HELD by a data server -> LEASED by a worker -> TRAINED
    FREE or HELD -> SKIPPED (the supervisor ends the epoch, or gives it up to go back to the last good state)
    LEASED -> SKIPPED (the same, once all workers are idle)
    ELSEWHERE -> FREE (the coordinator, which may grant it to any replica, granted it to this one)

The supervisor frees the batches of a process that died. Such a batch may still be in a ring; then `lease` refuses it,
so no batch is trained twice. The *round* is the epoch's number. It is part of the word, so a process that slept through
the end of an epoch cannot change a batch of the next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from adam_mp.kernels.atomic import (
    claim_first,
    claim_listed,
    compare_and_swap,
    observe,
    observe_all,
    publish,
    replace_all,
)
from adam_mp.memory.segment import Segment

FREE, HELD, LEASED, TRAINED, SKIPPED, ELSEWHERE = range(6)
_LINE = 8
_ROUND, _COUNT, _CURSOR = 0, _LINE, 2 * _LINE
_HEADER_WORDS = 3 * _LINE


def images_in(states: np.ndarray, state: int, batch_size: int, images: int) -> int:
    """Return how many images the batches in `state` hold.

    Each has `batch_size` images; only the last batch of the epoch, which has `images` images in all, may have fewer.
    """
    chosen = states == state
    count = int(np.count_nonzero(chosen)) * batch_size
    if chosen.size and chosen[-1]:
        count -= chosen.size * batch_size - images
    return count


@dataclasses.dataclass(frozen=True)
class LedgerStatistics:
    """How many batches are in which state."""

    free: int
    held: int
    leased: int
    trained: int
    skipped: int
    elsewhere: int


class Ledger:
    """A view of a ledger for up to `capacity` batches at `offset` bytes of a segment."""

    def __init__(self, segment: Segment, offset: int, capacity: int) -> None:
        self._header = segment.array(np.int64, (_HEADER_WORDS,), offset)
        self._words = segment.array(np.int64, (capacity,), offset + 8 * _HEADER_WORDS)

    @staticmethod
    def bytes_needed(capacity: int) -> int:
        """Return the bytes a ledger takes, a multiple of 64."""
        return 8 * (_HEADER_WORDS + -(-capacity // _LINE) * _LINE)

    # The supervisor's side.

    def open(self, round_number: int, states: np.ndarray) -> None:
        """Begin a round with the given states [batches], such as FREE, or TRAINED on resume. Supervisor only.

        The words are written before the round is published, so a process that reads the new round finds the new words.
        """
        publish(self._header, _ROUND, -1)
        self._words[: states.size] = (round_number << 20) | states.astype(np.int64)
        self._header[_COUNT] = states.size
        self._header[_CURSOR] = 0
        publish(self._header, _ROUND, round_number)

    def admit(self, batches: Iterable[int]) -> int:
        """Free batches that were ELSEWHERE; return how many. Supervisor only."""
        elsewhere, free = self._word(ELSEWHERE, 0), self._word(FREE, 0)
        admitted = sum(bool(compare_and_swap(self._words, batch, elsewhere, free)) for batch in batches)
        self._header[_CURSOR] = 0
        return admitted

    def close_round(self, idle: bool = False) -> int:
        """Skip the FREE and HELD batches; return how many batches were skipped. Supervisor only.

        With `idle`, all workers have acknowledged IDLE: then LEASED batches are skipped too. A worker that makes
        synchronous steps may have leased one, and wait for workers that have no batch left.
        """
        words, skipped = self._current_words(), 0
        while True:
            seen = _seen(words)  # one copy for all that follows: workers go on, and a word may become TRAINED meanwhile
            left = np.unique(seen[np.isin(seen & 15, (FREE, HELD, LEASED) if idle else (FREE, HELD))])
            if not left.size:
                return skipped
            for word in left:
                skipped += replace_all(words, word, (word & ~0xFFFFF) | SKIPPED)

    def take_back(self, state: int, holder: int) -> int:
        """Free the batches that the dead process `holder` had in `state`, HELD or LEASED; return how many.

        Supervisor only.
        """
        freed = int(replace_all(self._current_words(), self._word(state, holder), self._word(FREE, 0)))
        self._header[_CURSOR] = 0
        return freed

    def give_back(self, round_number: int, batch: int, server: int) -> bool:
        """Free one batch that data server `server` holds; False if it does not hold the batch any more.

        For the supervisor, the data server itself, and the worker in whose ring the batch is.
        """
        base = round_number << 20
        freed = bool(compare_and_swap(self._words, batch, base | server << 4 | HELD, base | FREE))
        self._header[_CURSOR] = 0
        return freed

    # The data servers' and workers' side.

    @property
    def round(self) -> int:
        """The round that is open, -1 between rounds."""
        return int(observe(self._header, _ROUND))

    def claim(self, round_number: int, holder: int) -> int | None:
        """Take the first free batch of the round; None when there is none now."""
        free, held = (round_number << 20) | FREE, (round_number << 20) | holder << 4 | HELD
        words = self._current_words()
        found = claim_first(words, self._header[_CURSOR], free, held)
        if found < 0:
            # The cursor is a hint that several processes write. Batches that were freed again may be before it.
            found = claim_first(words, 0, free, held)
        if found < 0:
            return None
        self._header[_CURSOR] = found + 1
        return int(found)

    def claim_of(self, round_number: int, holder: int, batches: np.ndarray) -> int | None:
        """Take the first of `batches`, in the order given, that is free in the round; None when there is none now."""
        free, held = (round_number << 20) | FREE, (round_number << 20) | holder << 4 | HELD
        found = claim_listed(self._current_words(), np.ascontiguousarray(batches), free, held)
        return None if found < 0 else int(found)

    def lease(self, round_number: int, batch: int, server: int, worker: int) -> bool:
        """Lease a batch held by data server `server` to `worker`; False if the batch was freed or skipped meanwhile."""
        base = round_number << 20
        return bool(compare_and_swap(self._words, batch, base | server << 4 | HELD, base | worker << 4 | LEASED))

    def finish(self, round_number: int, batch: int, worker: int) -> bool:
        """Mark a batch leased by `worker` as trained; False if it was freed or skipped meanwhile."""
        base = round_number << 20
        return bool(compare_and_swap(self._words, batch, base | worker << 4 | LEASED, base | TRAINED))

    def claim_lease(self, round_number: int, worker: int) -> int | None:
        """Lease the first free batch to `worker`, with no data server between (evaluation); None when there is none."""
        base = round_number << 20
        found = claim_first(self._current_words(), 0, base | FREE, base | worker << 4 | LEASED)
        return None if found < 0 else int(found)

    # For anyone.

    def holds(self, round_number: int, batch: int, server: int) -> bool:
        """Tell whether data server `server` holds that batch of that round."""
        return int(observe(self._words, batch)) == round_number << 20 | server << 4 | HELD

    def is_free(self, round_number: int, batch: int) -> bool:
        """Tell whether that batch of that round is free."""
        return int(observe(self._words, batch)) == round_number << 20 | FREE

    def held_by(self, round_number: int, batch: int) -> int | None:
        """Return the data server that holds that batch of that round; None if none does."""
        word = int(observe(self._words, batch))
        return (word >> 4) & 0xFFFF if word & ~0xFFFF0 == round_number << 20 | HELD else None

    def states(self) -> np.ndarray:
        """Return a copy of the states, uint8 [batches]. A reader that sees TRAINED sees the batch's update too."""
        return (_seen(self._current_words()) & 15).astype(np.uint8)

    def statistics(self) -> LedgerStatistics:
        """Return how many batches are in which state now."""
        return LedgerStatistics(*np.bincount(self.states(), minlength=6)[:6].tolist())

    def _current_words(self) -> np.ndarray:
        return self._words[: int(self._header[_COUNT])]

    def _word(self, state: int, holder: int) -> int:
        return self.round << 20 | holder << 4 | state


def _seen(words: np.ndarray) -> np.ndarray:
    seen = np.empty_like(words)
    observe_all(words, seen)
    return seen
