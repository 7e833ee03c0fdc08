"""What holds a run up, the data or the training, and which flag would help."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from adam_mp.memory.segment import megabytes
from adam_mp.training.plan.plan import RunPlan

STARVED = 0.1  # share of the workers' time spent waiting for data from which on data is called the bottleneck
_IDLE = 0.15  # share of the cores' time that nobody uses from which on another process would find room
_SHORTEST = 2.0  # seconds of an epoch that tell something
_AHEAD = 0.05  # of an epoch's images: they may be served for the next one when it ends
_FULL = 0.9  # of the images, in the cache: more memory would not change much


class ServingHints:
    """Says, once, what would help where the workers wait for data."""

    def __init__(self, plan: RunPlan, notice: Callable[[str], None]) -> None:
        self._plan, self._notice = plan, notice
        self._said = False
        self._deaths, self._without = 0, 0.0  # as of the last look

    def look(self, measured: Mapping[str, float], seconds: float, deaths: int, without: float) -> None:
        """Look at an epoch's counters, summed over all processes, of `seconds` of training.

        `deaths` counts, since the start, processes that died and changes of who makes the pictures: an epoch with one
        tells nothing of how fast data are served. `without` are the seconds, since the start, in which this machine had
        no batch to train: the workers waited for others then, and for no data server.
        """
        died, self._deaths = deaths > self._deaths, deaths
        here, self._without = without - self._without, without
        waited, busy = measured["waited_ns"] - here * 1e9 * self._plan.split.workers, measured["busy_ns"]
        if self._said or died or seconds < _SHORTEST or waited < STARVED * (waited + busy):
            return
        advice = self._advice(measured, seconds)
        self._notice(f"workers waited for data {100 * waited / (waited + busy):.0f}% of their time; {advice}")
        self._said = True

    def _advice(self, measured: Mapping[str, float], seconds: float) -> str:
        plan, more = self._plan, self._plan.split.data_servers + 1
        if plan.settings.data_from is not None:
            return "the machines of --data-from make too few: give them more cores, or name more of them"
        serving = measured["decode_ns"] + measured["augment_ns"]
        idle = 1 - (serving + measured["busy_ns"]) * 1e-9 / (seconds * plan.cores)
        if idle > _IDLE:
            return f"{100 * idle:.0f}% of the cores' time is free: --data-servers {more} would use it"
        if measured["decode_ns"] > measured["augment_ns"] and plan.costs.cached < _FULL:
            return (
                f"decoding takes most of the serving, and --cache holds {100 * plan.costs.cached:.0f}% of the images "
                f"in {megabytes(plan.data.cache_bytes)}: give it more"
            )
        found = measured["hits"] / max(measured["hits"] + measured["decoded"], 1)
        if measured["decode_ns"] > measured["augment_ns"] and found <= plan.costs.ready + _AHEAD:
            return "images are decoded for the first time; later epochs find them in the cache"
        return f"cores are busy: --data-servers {more} would take some from the workers"
