"""The account of an epoch: what the processes' counters say of it, with its part from before an interruption."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from adam_mp.memory.staleness import labelled
from adam_mp.training.folder.figures import SERVING, Waits
from adam_mp.training.settings.events import EpochEnded, EpochProgress

Counters = Mapping[str, float]
_RECENT = 10.0  # seconds over which rates are reported
_FEWEST_UPDATES = 5  # over which rates are reported at least, where updates take long


@dataclasses.dataclass(frozen=True)
class _Look:
    """The epoch as it was at a `time`: images `done` by all machines, and what this machine's counters `measured`."""

    time: float
    done: int
    measured: Counters


class EpochAccount:
    """Counts an epoch from the moment in which it begins, or is resumed.

    `totals` returns the sums of all processes' counters since the start. `images` counts those of all machines,
    `images_here` those of this one; all other sums are of this machine. `staleness` returns the histogram since the run
    began. `part` is what was measured of the epoch before an interruption. `served` are the sums at the previous
    epoch's end: data servers work ahead, so what they counted since then is of this epoch. `stale` is the histogram at
    that end.
    """

    def __init__(
        self, totals: Callable[[], Counters], staleness: Callable[[], np.ndarray], part: Counters, served: Counters,
        stale: np.ndarray,
    ) -> None:  # fmt: skip
        self._totals, self._staleness, self._part, self._stale = totals, staleness, part, stale
        self._began, self._before = time.monotonic(), totals()
        self._before = {**self._before, **{name: served[name] for name in SERVING}}
        self._ended: float | None = None
        self._looks: collections.deque[_Look] = collections.deque()  # the last seconds' looks, and one before them

    def end(self) -> None:
        """Stop the clock: the epoch's training is over."""
        self._ended = time.monotonic()

    @property
    def here(self) -> float:
        """Seconds of training in this process since the account was opened."""
        return (self._ended or time.monotonic()) - self._began

    @property
    def seconds(self) -> float:
        """Seconds of training of the epoch, those before an interruption included."""
        return self.here + self._part.get("seconds", 0.0)

    def measured(self, totals: Counters | None = None) -> dict[str, float]:
        """Return the counters' sums of the epoch up to now, or up to the moment in which `totals` were read."""
        totals = totals or self._totals()
        return {name: totals[name] - self._before[name] + self._part.get(name, 0.0) for name in totals}

    def as_part(self) -> dict[str, float]:
        """Return what is measured up to now, as the `part` of the account that will count the epoch's rest."""
        return {**self.measured(), "seconds": self.seconds}

    def progress(self, epoch: int, epochs: int, done: int, images: int, connections: int) -> EpochProgress:
        """Return how far the epoch is: `done` of `images`; `connections` are those of one image.

        Rates are those of the last seconds. An average over the whole epoch would still show images per second, and an
        end to come, long after training has stopped.
        """
        measured, looks = self.measured(), self._looks
        if not looks:
            part = {name: self._part.get(name, 0.0) for name in measured}
            looks.append(_Look(self._began, done, part))
        looks.append(_Look(time.monotonic(), done, measured))
        updates = measured["updates"] - self._part.get("updates", 0.0)
        recently = max(_RECENT, _FEWEST_UPDATES * self.here / max(updates, 1))
        while looks[-1].time - looks[1].time >= recently:
            looks.popleft()
        first, last = looks[0], looks[-1]
        seconds = max(last.time - first.time, 1e-9)
        recent = {name: measured[name] - first.measured[name] for name in measured}
        rate = recent["images"] / seconds
        done_recently = last.done - first.done
        return EpochProgress(
            epoch=epoch + 1,
            epochs=epochs,
            done=done,
            images=images,
            seconds=self.here,
            images_per_second=rate,
            connections_per_second=rate * connections,
            loss=measured["loss"] / max(measured["images_here"], 1),
            wait_fraction=sum(dataclasses.astuple(Waits.of(recent))),
            seconds_left=(images - done) * seconds / done_recently if done_recently > 0 else None,
        )

    def record(self, measured: Counters, connections: int, **known: Any) -> EpochEnded:
        """Return the record of the epoch, which has ended; `known` are the fields that do not come from counters."""
        rate = measured["images"] / self.seconds
        waits: dict[str, Any] = {**Waits.of(measured).as_dict()}
        return EpochEnded(
            seconds=self.seconds,
            images_decoded=int(measured["decoded"]),
            cache_hits=int(measured["hits"]),
            loss=measured["loss"] / max(measured["images_here"], 1),
            images_per_second=rate,
            connections_per_second=rate * connections,
            **waits,
            staleness_mean=measured["staleness"] / max(measured["updates"], 1),
            staleness=labelled(self._staleness() - self._stale),
            **known,
        )
