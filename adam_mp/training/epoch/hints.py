"""Hints: if workers wait for data, tell the user once what takes the time and which flag would help."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from adam_mp.memory.segment import megabytes
from adam_mp.training.folder.figures import Waits
from adam_mp.training.plan.run_plan import RunPlan

STARVED = 0.1  # data is the bottleneck if workers wait for it more than this share of their time
_IDLE = 0.15  # cores have room for another process if more than this share of their time is unused
_SHORTEST = 2.0  # seconds: a shorter epoch gives no hint
_AHEAD = 0.05  # share of an epoch's images that may be served already when the epoch before ends
_FULL = 0.9  # if the cache holds more than this share of the images, a larger cache would not change much


def bottleneck(waits: Waits) -> str:
    """Return what held a run up: "training", or what the workers waited for most, if that was much of their time."""
    longest, name = max((getattr(waits, name), name) for name in ("data", "leases", "exchange", "others"))
    return name if longest > STARVED else "training"


class ServingHints:
    """Tells the user once what would help if the workers wait for data; `notice` takes the line.

    `usable` is the number of cores that this process may use.
    """

    def __init__(self, plan: RunPlan, notice: Callable[[str], None], usable: int) -> None:
        self._plan, self._notice, self._usable = plan, notice, usable
        self._said = False
        self._disturbances = 0  # at the previous look

    def check(self, measured: Mapping[str, float], seconds: float, disturbances: int) -> None:
        """Look at the counters of an epoch of `seconds` of training, summed over all processes.

        `disturbances` counts, since the start, processes that died and changes of who makes the pictures. An epoch with
        a disturbance does not show how fast the data servers are. Waits for anything but data give no advice.
        """
        disturbed, self._disturbances = disturbances > self._disturbances, disturbances
        waited = Waits.of(measured).data
        if self._said or disturbed or seconds < _SHORTEST or waited < STARVED:
            return
        self._notice(f"workers waited for data {100 * waited:.0f}% of their time; {self._advice(measured, seconds)}")
        self._said = True

    def _advice(self, measured: Mapping[str, float], seconds: float) -> str:
        plan, more = self._plan, self._plan.split.data_servers + 1
        cores = self._usable
        may_be_more = more < min(plan.cores, cores)  # else no core is left for a worker
        if plan.settings.data_from is not None:
            return "the data servers of --data-from make too few pictures: give them more cores, or name more of them"
        serving = measured["decode_ns"] + measured["augment_ns"]
        idle = 1 - (serving + measured["busy_ns"]) * 1e-9 / (seconds * plan.cores)
        if plan.cores > cores:
            return f"more processes than cores hold each other up: --cores {cores} is what this machine has"
        if idle > _IDLE and may_be_more:
            return f"{100 * idle:.0f}% of the cores' time is free: --data-servers {more} would use it"
        if plan.data.dataset.draws:
            return f"items draw at random, so each epoch asks for them anew: --data-servers {more} may help"
        if measured["decode_ns"] > measured["augment_ns"] and plan.costs.cached < _FULL:
            return (
                f"decoding takes most of the serving, and --cache holds {100 * plan.costs.cached:.0f}% of the images "
                f"in {megabytes(plan.data.cache_bytes)}: give it more"
            )
        found = measured["hits"] / max(measured["hits"] + measured["decoded"], 1)
        if measured["decode_ns"] > measured["augment_ns"] and found <= plan.costs.ready + _AHEAD:
            return "images are decoded for the first time; later epochs find them in the cache"
        if not may_be_more:
            return "this machine has no core for another data server"
        return f"cores are busy: --data-servers {more} would take some from the workers"
