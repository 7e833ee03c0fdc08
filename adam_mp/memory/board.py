"""The run's notice board: the supervisor's order for all workers, and each process's progress counters.

One writer a word. The order is `sequence << 8 | kind`; a worker acknowledges a sequence once it acts on it (so an
acknowledged IDLE means that it touches neither weights nor leases). Counters are read by the supervisor alone, but for
the `clock`, which the other workers read where staleness is bounded.

A word on which something else depends is stored with `publish` after what it stands for: `ready`, `acknowledged`,
`faults` (after `fault_epoch` and `fault_step`). Whoever reads a row sees with such a word all that was written before.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from adam_mp.kernels.atomic import exchange, observe, observe_all, publish
from adam_mp.memory.segment import Segment

IDLE, TRAIN, VALIDATE, TEST, STOP = range(5)
ELSEWHERE, HERE = 1, 2  # who makes a data server's pictures, where other machines are to
_LINE = 8
_ROW = 4 * _LINE
_MOST_LOSS = 1000.0  # of an image, as far as it is counted
_FIELDS = (
    "ready", "acknowledged", "heartbeat", "images", "updates", "staleness", "waited_ns", "busy_ns",
    "loss", "faults", "fault_epoch", "fault_step", "augmented", "forward_ns", "backward_ns", "update_ns",
    "hits", "decoded", "decode_ns", "augment_ns", "bad", "decoding", "held_ns", "clock", "lead",
    "made_by",
)  # fmt: skip
_INDEX = {name: position for position, name in enumerate(_FIELDS)}


@dataclasses.dataclass(frozen=True)
class Progress:
    """One process's counters since it started; times in nanoseconds, `loss` the sum over images trained.

    A worker's `busy_ns` is all its time with a batch; forward, backward and update are the large parts of it. `hits`
    are images found in the cache, `bad` samples that could not be had; `decoding` is one more than the number of the
    sample that is being decoded, or 0. `waited_ns` is time without data, `held_ns` time with data but kept back for
    other workers; `clock` and `lead`, the most updates it was ahead of the slowest, are those of bounded staleness.
    `made_by` is ELSEWHERE or HERE where other machines are to make a data server's pictures, else 0.
    """

    ready: int
    acknowledged: int
    heartbeat: int
    images: int
    updates: int
    staleness: int
    waited_ns: int
    busy_ns: int
    loss: float
    faults: int
    fault_epoch: int
    fault_step: int
    augmented: int
    forward_ns: int
    backward_ns: int
    update_ns: int
    hits: int
    decoded: int
    decode_ns: int
    augment_ns: int
    bad: int
    decoding: int
    held_ns: int
    clock: int
    lead: int
    made_by: int


class Counters:
    """The row of one process, which alone writes it: `add` and its like for what is only counted, else `publish`."""

    def __init__(self, row: np.ndarray) -> None:
        self._row = row
        self._reals = row.view(np.float64)

    def add(self, name: str, amount: int) -> None:
        """Add to a counter."""
        self._row[_INDEX[name]] += amount

    def keep_largest(self, name: str, value: int) -> None:
        """Note `value` if it is the largest up to now."""
        self._row[_INDEX[name]] = max(self._row[_INDEX[name]], value)

    def add_loss(self, amount: float, images: int) -> None:
        """Add the loss of so many images to the sum, kept as a float64 in the same row; at most 1000 an image.

        Without a bound the huge loss of one diverging batch would hide all later losses in the sum's rounding.
        """
        self._reals[_INDEX["loss"]] += min(amount, _MOST_LOSS * images)

    def publish(self, name: str, value: int) -> None:
        """Store a word after all earlier writes."""
        publish(self._row, _INDEX[name], value)

    def exchange(self, name: str, value: int) -> None:
        """Store a word before this process looks at the words of others, as `kernels.atomic.exchange` does."""
        exchange(self._row, _INDEX[name], value)

    def observe(self, name: str) -> int:
        """Load a word, and see all that was written before it was published."""
        return int(observe(self._row, _INDEX[name]))

    def clear(self) -> None:
        """Zero the row, for a successor of the process that wrote it."""
        self._row[:] = 0

    def read(self) -> Progress:
        """Return the counters as of now, and see all that was written before those that were published."""
        seen = np.empty(len(_FIELDS), np.int64)
        observe_all(self._row[: len(_FIELDS)], seen)
        values: dict[str, Any] = dict(zip(_FIELDS, seen.tolist(), strict=True))
        values["loss"] = float(seen.view(np.float64)[_INDEX["loss"]])
        return Progress(**values)


class Order(NamedTuple):
    """The supervisor's standing order: IDLE, TRAIN, ... by its number; each order has the next `sequence`."""

    sequence: int
    kind: int


class Board:
    """A view of a board for `processes` rows at `offset` bytes of a segment."""

    def __init__(self, segment: Segment, offset: int, processes: int) -> None:
        self._order = segment.array(np.int64, (_LINE,), offset)
        self._rate = self._order[1:].view(np.float64)
        rows = segment.array(np.int64, (processes, _ROW), offset + 8 * _LINE)
        self.counters = [Counters(row) for row in rows]

    @staticmethod
    def bytes_needed(processes: int) -> int:
        """Return the bytes a board takes, a multiple of 64."""
        return 8 * (_LINE + processes * _ROW)

    @property
    def rate_share(self) -> float:
        """What part of the scheduled learning rate is used, 1 unless the run diverged."""
        return float(self._rate[0]) or 1.0

    @rate_share.setter
    def rate_share(self, share: float) -> None:
        self._rate[0] = share

    def give_order(self, kind: int) -> int:
        """Publish a new order; return its sequence number. Supervisor only."""
        sequence = (int(self._order[0]) >> 8) + 1
        publish(self._order, 0, sequence << 8 | kind)
        return sequence

    def order(self) -> Order:
        """Return the standing order."""
        word = int(observe(self._order, 0))
        return Order(word >> 8, word & 255)
