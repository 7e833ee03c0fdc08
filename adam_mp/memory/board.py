"""The run's notice board: the supervisor's order for all workers, and each process's progress counters.

Each word has one writer. The order is one word, `sequence << 8 | kind`. A worker writes the sequence into its
`acknowledged` once it acts on the order; so an acknowledged IDLE means that this worker touches neither weights nor
leases. The supervisor alone reads the counters, except `clock`: with bounded staleness the other workers read it too.

A process stores a word that announces other writes with `publish`, after those writes: `ready`, `acknowledged`,
`faults` (after `fault_epoch` and `fault_step`). A reader that sees the word also sees the writes before it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from adam_mp.kernels.atomic import exchange, observe, observe_all, publish
from adam_mp.memory.segment import Segment

IDLE, TRAIN, VALIDATE, TEST, STOP = range(5)
LACKS = ("waited_ns", "leases_ns", "exchange_ns", "held_ns")  # what a worker without a batch waits for: `Board.lack`
DATA, LEASES, EXCHANGE, OTHERS = range(4)
ELSEWHERE, HERE = 1, 2  # `made_by`: other machines (--data-from) make a data server's pictures, or it does so itself
_LINE = 8
_ROW = 4 * _LINE
_MOST_LOSS = 1000.0  # of one image; a larger loss is counted as this
_FIELDS = (
    "ready", "acknowledged", "heartbeat", "images", "updates", "staleness", "waited_ns", "busy_ns",
    "loss", "faults", "fault_epoch", "fault_step", "augmented", "forward_ns", "backward_ns", "update_ns",
    "hits", "decoded", "decode_ns", "augment_ns", "bad", "decoding", "held_ns", "clock", "lead",
    "made_by", "leases_ns", "exchange_ns",
)  # fmt: skip
_INDEX = {name: position for position, name in enumerate(_FIELDS)}


@dataclasses.dataclass(frozen=True)
class Progress:
    """One process's counters since it started; times are in nanoseconds.

    Of every process: `ready` is 1 once it has started, and `heartbeat` grows with each piece of work.

    Of a worker: `acknowledged` is the sequence of the newest order that it acts on (the synchronizer has this word
    too). `images` and `updates` count the images that it trained and the updates that it made. `loss` is the sum over
    the images trained. `staleness` is the sum over the worker's updates.

    `busy_ns` is all of a worker's time with a batch; `forward_ns`, `backward_ns` and `update_ns` are the large parts of
    it. Its waits are of four kinds: `waited_ns` for data (a batch of this machine that no data server has made yet),
    `leases_ns` for batches that other machines have or that the coordinator has not leased yet, `exchange_ns` for the
    exchange with the parameter servers, `held_ns` for other workers.

    `faults` counts the worker's losses that were NaN or infinite; `fault_epoch` and `fault_step` name the last. `clock`
    and `lead` belong to bounded staleness: the worker's clock (see `training.worker.bounded`), and the most updates
    that it was ahead of the slowest worker.

    `augmented` are the pictures that a data server made. `hits` are the images that a process found in the cache,
    `decoded` those that it decoded, `bad` the samples that it could not read or decode. `decode_ns` and `augment_ns`
    are the times of decoding, and of augmenting and mixing. `decoding` is one more than the number of the sample that
    the process decodes now, or 0. `made_by` is 0 at first. With --data-from it becomes HERE when no other machine
    answers and the data server makes its pictures itself, and ELSEWHERE when another machine makes them again.
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
    leases_ns: int
    exchange_ns: int


class Counters:
    """The row of one process, which alone writes it.

    `add`, `keep_largest` and `add_loss` are for plain counting; `publish` and `exchange` also order the word among the
    process's other reads and writes.
    """

    def __init__(self, row: np.ndarray) -> None:
        self._row = row
        self._reals = row.view(np.float64)

    def add(self, name: str, amount: int) -> None:
        """Add to a counter."""
        self._row[_INDEX[name]] += amount

    def keep_largest(self, name: str, value: int) -> None:
        """Store `value` if it is larger than the counter."""
        self._row[_INDEX[name]] = max(self._row[_INDEX[name]], value)

    def add_loss(self, amount: float, images: int) -> None:
        """Add `amount`, the summed loss of `images` images, to the float64 in the same row; at most 1000 an image.

        Without the limit, one diverging batch could make the sum so large that rounding swallows all later losses.
        """
        self._reals[_INDEX["loss"]] += min(amount, _MOST_LOSS * images)

    def publish(self, name: str, value: int) -> None:
        """Store a word after all earlier writes."""
        publish(self._row, _INDEX[name], value)

    def exchange(self, name: str, value: int) -> None:
        """Store a word before all later reads of this process; see `kernels.atomic.exchange`."""
        exchange(self._row, _INDEX[name], value)

    def observe(self, name: str) -> int:
        """Return a word; the caller then also sees all that was written before the word was published."""
        return int(observe(self._row, _INDEX[name]))

    def clear(self) -> None:
        """Zero the row for the successor of the process that wrote it, which has ended."""
        self._row[:] = 0

    def read(self) -> Progress:
        """Return the counters as of now; the caller then also sees all that was written before a published one."""
        seen = np.empty(len(_FIELDS), np.int64)
        observe_all(self._row[: len(_FIELDS)], seen)
        values: dict[str, Any] = dict(zip(_FIELDS, seen.tolist(), strict=True))
        values["loss"] = float(seen.view(np.float64)[_INDEX["loss"]])
        return Progress(**values)


class Order(NamedTuple):
    """The supervisor's order in force: `kind` is IDLE, TRAIN and so on; each order has the next `sequence`."""

    sequence: int
    kind: int


class Board:
    """A view of a board with `processes` rows of counters at `offset` bytes of a segment."""

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
    def lack(self) -> int:
        """What a worker waits for if it finds no batch: DATA, LEASES, EXCHANGE or OTHERS. The supervisor sets it."""
        return int(self._order[2])

    @lack.setter
    def lack(self, kind: int) -> None:
        self._order[2] = kind

    @property
    def held_up(self) -> bool:
        """Whether workers may begin no batch, because a parameter server is silent. The synchronizer sets it."""
        return bool(self._order[3])

    @held_up.setter
    def held_up(self, held_up: bool) -> None:
        self._order[3] = held_up

    @property
    def rate_share(self) -> float:
        """Which share of the scheduled learning rate workers use: 1 unless the run diverged. The supervisor sets it."""
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
        """Return the order in force."""
        word = int(observe(self._order, 0))
        return Order(word >> 8, word & 255)
