"""The account of a run: its figures so far, and the account of the epoch that is being trained."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from adam_mp.training.epoch.accounts import Counters, EpochAccount
from adam_mp.training.folder.figures import SERVING, Figures, Sums


class RunAccount:
    """The figures of a run and the account of its present epoch.

    `progress` are the figures in the checkpoint from which the run goes on, None for a new run. `totals` and
    `staleness` are those of `EpochAccount`, since this supervisor began.
    """

    def __init__(
        self, progress: Mapping[str, Any] | None, totals: Callable[[], Counters], staleness: Callable[[], np.ndarray]
    ) -> None:
        self.figures = Figures(**progress) if progress is not None else Figures()
        self.seconds_here = 0.0  # of training since this supervisor began, that of given-up epochs included
        self._totals, self._staleness = totals, staleness
        self._began = time.monotonic() - self.figures.seconds
        self._stale_before = np.array(self.figures.staleness_counts)
        self._served: Counters = dict.fromkeys(SERVING, 0.0)  # counters at the last epoch's end
        self._epoch: EpochAccount | None = None
        self._measured: dict[str, float] = {}  # what counters say of the epoch that is closed

    @property
    def epoch(self) -> EpochAccount:
        """The account of the epoch that is being trained, or is closed and not recorded yet."""
        assert self._epoch is not None, "no epoch is open"
        return self._epoch

    def elapsed(self) -> float:
        """Return the seconds of the run so far, the parts before a resume included."""
        return time.monotonic() - self._began

    def begin_epoch(self) -> None:
        """Open the account of an epoch; if an interruption cut the epoch, with its first part."""
        figures = self.figures
        self._epoch = EpochAccount(
            self._totals, self._stale_counts, figures.epoch_part, self._served, np.array(figures.staleness_before)
        )

    def drop_epoch(self) -> None:
        """Close the account of an epoch that is recorded or given up; either way, its seconds were spent here."""
        if self._epoch is not None:
            self.seconds_here += self._epoch.here
            self._epoch = None

    def read_counters(self) -> None:
        """Read the counters of the epoch that is closed. Only once: data servers already count for the next one."""
        self._served = self._totals()
        self._measured = self.epoch.measured(self._served)

    def end_epoch(self, following: int, sums: Sums) -> Mapping[str, float]:
        """Add the epoch to the figures, after `read_counters`; `following` is the next. Return what was measured."""
        self.figures.staleness_counts = self._stale_counts().tolist()
        self.figures.end_epoch(following, sums, self.epoch.seconds, self._measured)
        self.figures.seconds = self.elapsed()
        return self._measured

    def count_missed(self, missed: Sequence[tuple[int, Sums]], notice: Callable[[str], None]) -> None:
        """Count the images of epochs that other replicas began and ended while this was busy with an earlier one."""
        for epoch, sums in missed:
            self.figures.count(sums)
            notice(
                f"epoch {epoch + 1} ended while this replica was away, or before it went back to its checkpoint: its "
                "images count, and it is not validated"
            )

    def keep_part(self, failed: list[tuple[int, int]]) -> None:
        """Put the epoch's part up to now into the figures, because the run is interrupted within the epoch.

        `failed` are pairs of a trained batch and how many of its images could not be read.
        """
        self.figures.epoch_part, self.figures.part_failed = self.epoch.as_part(), failed

    def with_part(self, failed: list[tuple[int, int]]) -> Figures:
        """Return a copy of the figures with the epoch's part up to now, for a checkpoint; the run goes on."""
        part = self.epoch.as_part()
        return dataclasses.replace(self.up_to_now(), epoch_part=part, part_failed=failed)

    def up_to_now(self) -> Figures:
        """Bring seconds and staleness of the figures up to now, and return the figures."""
        self.figures.seconds = self.elapsed()
        self.figures.staleness_counts = self._stale_counts().tolist()
        return self.figures

    def go_back(self, progress: Mapping[str, Any], rate_share: float, rollbacks: int) -> None:
        """Replace the figures by the `progress` of an earlier checkpoint; only the seconds of the run go on."""
        kept = Figures(**progress)
        self.figures = dataclasses.replace(kept, rate_share=rate_share, rollbacks=rollbacks, seconds=self.elapsed())
        self._stale_before = np.array(kept.staleness_counts) - self._staleness()

    def begin_again(self, totals: Counters) -> None:
        """After `go_back`: what data servers have counted by now (`totals`) belongs to no epoch."""
        self._served = totals

    def _stale_counts(self) -> np.ndarray:
        """Return the histogram of staleness since the run began."""
        counts: np.ndarray = self._stale_before + self._staleness()
        return counts
