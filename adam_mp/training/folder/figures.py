"""The counted figures of a run: what a checkpoint keeps as `progress`, and the summary is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from adam_mp.memory.staleness import COLUMNS

# Of the processes' counters, those that a run sums up, in nanoseconds where the name says so; and of these, serving's.
SERVING = ("hits", "decoded", "decode_ns", "augmented", "augment_ns")
_SUMMED = ("waited_ns", "busy_ns", "staleness", "updates", "images", *SERVING)


@dataclasses.dataclass(frozen=True)
class WorkerFigures:
    """What one worker's place did since the run was started or resumed, its dead processes included.

    `share` is of all images trained here; `held_seconds` is time kept back for other workers, `lead` the most updates
    that it was ahead of the slowest (counted where staleness is bounded).
    """

    number: int
    images: int
    share: float
    images_per_second: float
    waited_seconds: float
    held_seconds: float
    lead: int


@dataclasses.dataclass(frozen=True)
class Sums:
    """Images of an epoch. `failed` are those of trained batches that could not be had, so that nobody trained them."""

    trained: int = 0
    skipped: int = 0
    failed: int = 0


@dataclasses.dataclass
class Figures:
    """The counted figures of a run so far."""

    images_trained: int = 0
    images_skipped: int = 0
    images_failed: int = 0
    images: float = 0.0  # trained in `training_seconds`; of all machines, as the above
    training_seconds: float = 0.0  # of this machine, as all that follows
    seconds: float = 0.0
    waited_ns: float = 0.0
    busy_ns: float = 0.0
    hits: float = 0.0
    decoded: float = 0.0
    decode_ns: float = 0.0
    augmented: float = 0.0
    augment_ns: float = 0.0
    staleness: float = 0.0
    updates: float = 0.0
    epochs_done: int = 0
    best_epoch: int | None = None
    validation_accuracy: float | None = None
    last_validation_accuracy: float | None = None
    # Of the epoch that an interruption cut: its share of the figures above, so that its record covers both parts.
    epoch_part: dict[str, float] = dataclasses.field(default_factory=dict)
    part_failed: list[tuple[int, int]] = dataclasses.field(default_factory=list)  # its batches' images not to be had
    rate_share: float = 1.0  # of the scheduled learning rate, less after each divergence
    rollbacks: int = 0
    staleness_counts: list[int] = dataclasses.field(default_factory=lambda: [0] * COLUMNS)
    staleness_before: list[int] = dataclasses.field(default_factory=lambda: [0] * COLUMNS)  # as the epoch began

    def add(self, measured: Mapping[str, float]) -> None:
        """Add an epoch's counters, summed over all processes."""
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + measured[name])

    def count(self, sums: Sums) -> None:
        """Add the images of an epoch, by all machines."""
        self.images_trained += sums.trained
        self.images_skipped += sums.skipped
        self.images_failed += sums.failed

    def end_epoch(self, following: int, sums: Sums, seconds: float, measured: Mapping[str, float]) -> None:
        """Add an epoch of so many images and `seconds`; `following` is the next one."""
        self.count(sums)
        self.training_seconds += seconds
        self.add(measured)
        self.epochs_done = following
        self.epoch_part, self.part_failed = {}, []
        self.staleness_before = self.staleness_counts

    def note_validation(self, epoch: int, accuracy: float | None) -> bool:
        """Note what an epoch's weights are worth; tell whether they are the ones to keep (unknown, the latest are)."""
        known = self.validation_accuracy
        if accuracy is None and known is not None:
            return False  # others validate now
        if accuracy is not None:
            self.last_validation_accuracy = accuracy
            if known is not None and accuracy < known:
                return False
            self.validation_accuracy = accuracy
        self.best_epoch = epoch + 1
        return True

    def close_part(self, following: int) -> None:
        """Add what was done here of an epoch that an interruption cut, and that others ended."""
        part = {name: self.epoch_part.get(name, 0.0) for name in (*_SUMMED, "seconds")}
        self.end_epoch(following, Sums(), part["seconds"], part)

    def total(self, name: str) -> float:
        """Return a figure with the share of an epoch that an interruption cut."""
        return float(getattr(self, name)) + self.epoch_part.get(name, 0.0)


def wait_fraction(waited_ns: float, busy_ns: float) -> float:
    """Return the share of the workers' time that went into waiting for data."""
    return waited_ns / (waited_ns + busy_ns) if waited_ns + busy_ns else 0.0
