"""Cuts the cables of primaries' machines, for benchmarks/failover.py, which starts it in the last machine's namespace.

    python -m benchmarks.cut_cables COMMIT PREFIX

prints {"seconds": [to the first answer of each new primary, ...], "wrong": numbers of the weights that are wrong}.
"""

from __future__ import annotations

import functools
import json
import random
import sys
import time

from benchmarks.loaded_servers import Run
from tools.drilling.machines import Machines

_TRIALS, _SECONDS = 10, 3.0
MACHINES = 5  # four servers, and one for the senders


def main() -> None:
    """Do it."""
    commit, prefix = sys.argv[1:]
    machines, chance, times = Machines(MACHINES, prefix), random.Random(4), list[float]()
    with Run(commit, machines=machines) as run:
        for _ in range(_TRIALS):
            place = run.victim(chance)
            times += run.fail(place, functools.partial(machines.cut, place + 1))
            time.sleep(_SECONDS)
            machines.heal(place + 1)
        run.settle()
        print(json.dumps({"seconds": times, "wrong": run.audit()}))


if __name__ == "__main__":
    main()
