"""The counted figures of a run. A checkpoint keeps them as its `progress`; the run's summary is made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from adam_mp.memory.staleness import COLUMNS

# Counters of data servers, and of all processes, that a run sums up; names that end in _ns are nanoseconds.
SERVING = ("hits", "decoded", "decode_ns", "augmented", "augment_ns")
WAITS = ("waited_ns", "leases_ns", "exchange_ns", "held_ns")  # for data, leases, the exchange, other workers
_SUMMED = (*WAITS, "busy_ns", "staleness", "updates", "images", *SERVING)


@dataclasses.dataclass(frozen=True)
class WorkerFigures:
    """What one worker, or one group of partitions, did since the run was started or resumed, dead ones included.

    `share` is its part of all images trained on this machine. `waited_seconds` is time in which it waited for data,
    `held_seconds` for other workers, `leases_seconds` for leases, `exchange_seconds` for the exchange. `lead` is
    the most updates by which it was ahead of the slowest worker, counted with bounded staleness.
    """

    number: int
    images: int
    share: float
    images_per_second: float
    waited_seconds: float
    held_seconds: float
    lead: int
    leases_seconds: float = 0.0
    exchange_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Waits:
    """Fractions of the workers' time in which they waited for data, leases, the exchange or other workers."""

    data: float = 0.0
    leases: float = 0.0
    exchange: float = 0.0
    others: float = 0.0

    @classmethod
    def of(cls, measured: Mapping[str, float]) -> Waits:
        """Return the waits among counters, summed over the workers."""
        waits = [measured[name] for name in WAITS]
        spent = sum(waits) + measured["busy_ns"]
        return cls(*(wait / spent if spent else 0.0 for wait in waits))

    def as_dict(self) -> dict[str, float]:
        """Return the fractions under the names that records have for them."""
        return {f"{name}_wait_fraction": getattr(self, name) for name in ("data", "leases", "exchange", "others")}


@dataclasses.dataclass(frozen=True)
class Sums:
    """Numbers of images of an epoch. `failed` images are of trained batches, but could not be read.

    `trained` images are those of trained batches without the failed ones; `skipped` images are of skipped batches.
    """

    trained: int = 0
    skipped: int = 0
    failed: int = 0


@dataclasses.dataclass
class Figures:
    """The counted figures of a run's recorded epochs; `epoch_part` has what was measured of an epoch after them."""

    images_trained: int = 0
    images_skipped: int = 0
    images_failed: int = 0
    images: float = 0.0  # trained in `training_seconds` by all machines; the three above are of all machines too
    training_seconds: float = 0.0  # of this machine, as is all that follows
    seconds: float = 0.0
    waited_ns: float = 0.0
    leases_ns: float = 0.0
    exchange_ns: float = 0.0
    held_ns: float = 0.0
    busy_ns: float = 0.0
    hits: float = 0.0
    decoded: float = 0.0
    decode_ns: float = 0.0
    augmented: float = 0.0
    augment_ns: float = 0.0
    staleness: float = 0.0
    updates: float = 0.0
    epochs_done: int = 0
    best_epoch: int | None = None  # counted from 1, as users read it; all other epochs in a checkpoint from 0
    validation_accuracy: float | None = None
    last_validation_accuracy: float | None = None
    # Sums of an interrupted epoch's first part: the resumed run adds them to the rest, so the record covers all of it.
    epoch_part: dict[str, float] = dataclasses.field(default_factory=dict)
    part_failed: list[tuple[int, int]] = dataclasses.field(default_factory=list)  # its (batch, images not readable)
    rate_share: float = 1.0  # of the scheduled learning rate; half as much after each divergence
    rollbacks: int = 0
    averaged_epochs: int = 0  # in the average of --average last:N
    staleness_counts: list[int] = dataclasses.field(default_factory=lambda: [0] * COLUMNS)
    staleness_before: list[int] = dataclasses.field(default_factory=lambda: [0] * COLUMNS)  # when the epoch began

    def add(self, measured: Mapping[str, float]) -> None:
        """Add an epoch's counters, summed over all processes."""
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + measured[name])

    def count(self, sums: Sums) -> None:
        """Add the images that all machines trained in an epoch."""
        self.images_trained += sums.trained
        self.images_skipped += sums.skipped
        self.images_failed += sums.failed

    def end_epoch(self, following: int, sums: Sums, seconds: float, measured: Mapping[str, float]) -> None:
        """Add an epoch: its images, seconds of training and counters. `following` is the next epoch."""
        self.count(sums)
        self.training_seconds += seconds
        self.add(measured)
        self.epochs_done = following
        self.epoch_part, self.part_failed = {}, []
        self.staleness_before = self.staleness_counts

    def note_validation(self, epoch: int, accuracy: float | None) -> bool:
        """Note an epoch's validation accuracy; tell whether its weights are the ones to keep.

        Without any validation (`accuracy` None) they are those of the latest epoch.
        """
        known = self.validation_accuracy
        if accuracy is None and known is not None:
            return False  # another replica validates now
        if accuracy is not None:
            self.last_validation_accuracy = accuracy
            if known is not None and accuracy < known:
                return False
            self.validation_accuracy = accuracy
        self.best_epoch = epoch + 1
        return True

    def close_part(self, following: int) -> None:
        """Add what this machine did of an epoch that an interruption cut here and that other replicas ended.

        Images are not added: `count` gets those of all machines, this one's included.
        """
        part = {name: self.epoch_part.get(name, 0.0) for name in (*_SUMMED, "seconds")}
        self.end_epoch(following, Sums(), part["seconds"], part)

    def total(self, name: str) -> float:
        """Return a figure with its part in an epoch that an interruption cut."""
        return float(getattr(self, name)) + self.epoch_part.get(name, 0.0)
