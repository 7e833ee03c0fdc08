"""The account of a run: its figures so far, and that of the epoch that is being trained."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from adam_mp.training.epoch.accounts import Counters, EpochAccount
from adam_mp.training.folder.figures import SERVING, Figures, Sums


class RunAccount:
    """Figures of a run and of its present epoch.

    `progress` are the figures that a checkpoint has, if the run goes on from one. `totals` and `staleness` are those of
    `EpochAccount`, since this process began.
    """

    def __init__(
        self, progress: Mapping[str, Any] | None, totals: Callable[[], Counters], staleness: Callable[[], np.ndarray]
    ) -> None:
        self.figures = Figures(**progress) if progress is not None else Figures()
        self.seconds_here = 0.0  # of training since this process began, what was undone included
        self._totals, self._staleness = totals, staleness
        self._began = time.monotonic() - self.figures.seconds
        self._stale_before = np.array(self.figures.staleness_counts)
        self._served: Counters = dict.fromkeys(SERVING, 0.0)  # counters at the last epoch's end
        self._epoch: EpochAccount | None = None
        self._measured: dict[str, float] = {}  # of the epoch that is closed

    @property
    def epoch(self) -> EpochAccount:
        """The account of the epoch that is being trained, or closed."""
        assert self._epoch is not None, "no epoch is open"
        return self._epoch

    def elapsed(self) -> float:
        """Return the seconds of the run so far, the parts before a resume included."""
        return time.monotonic() - self._began

    def begin_epoch(self) -> None:
        """Open the account of an epoch, which may have a part before an interruption."""
        figures = self.figures
        self._epoch = EpochAccount(
            self._totals, self._stale_counts, figures.epoch_part, self._served, np.array(figures.staleness_before)
        )

    def drop_epoch(self) -> None:
        """The epoch is over, or given up: its seconds were spent here, whatever they count for."""
        if self._epoch is not None:
            self.seconds_here += self._epoch.here
            self._epoch = None

    def read_counters(self) -> None:
        """Read what the epoch that is closed has counted, once: data servers go on, for the next."""
        self._served = self._totals()
        self._measured = self.epoch.measured(self._served)

    def end_epoch(self, following: int, sums: Sums) -> Mapping[str, float]:
        """Add the epoch whose counters are read; `following` is the next. Return what it measured."""
        self.figures.staleness_counts = self._stale_counts().tolist()
        self.figures.end_epoch(following, sums, self.epoch.seconds, self._measured)
        self.figures.seconds = self.elapsed()
        return self._measured

    def count_missed(self, missed: Sequence[tuple[int, Sums]], notice: Callable[[str], None]) -> None:
        """Count the epochs that other replicas trained to their end while this one was busy with the last."""
        for epoch, sums in missed:
            self.figures.count(sums)
            notice(f"epoch {epoch + 1} was trained by other replicas while this one was away; not validated")

    def keep_part(self, failed: list[tuple[int, int]]) -> None:
        """Have the epoch's part in the figures: the run ends within it.

        `failed` are pairs of a trained batch and its images that could not be had.
        """
        self.figures.epoch_part, self.figures.part_failed = self.epoch.as_part(), failed

    def with_part(self, failed: list[tuple[int, int]]) -> Figures:
        """Return the figures with the epoch's part up to now, for a checkpoint; the run goes on."""
        part = self.epoch.as_part()
        return dataclasses.replace(self.up_to_now(), epoch_part=part, part_failed=failed)

    def up_to_now(self) -> Figures:
        """Return the figures, brought up to now."""
        self.figures.seconds = self.elapsed()
        self.figures.staleness_counts = self._stale_counts().tolist()
        return self.figures

    def go_back(self, progress: Mapping[str, Any], rate_share: float, rollbacks: int) -> None:
        """Forget what was counted since a checkpoint that has this `progress`, but for the time."""
        kept = Figures(**progress)
        self.figures = dataclasses.replace(kept, rate_share=rate_share, rollbacks=rollbacks, seconds=self.elapsed())
        self._stale_before = np.array(kept.staleness_counts) - self._staleness()

    def begin_again(self, totals: Counters) -> None:
        """After going back: what is counted by now belongs to no epoch."""
        self._served = totals

    def _stale_counts(self) -> np.ndarray:
        """Return the histogram of staleness since the run began."""
        counts: np.ndarray = self._stale_before + self._staleness()
        return counts
