"""A run of many machines in network namespaces, each with an address of its own, under faults: python tools/drill.py.

Needs root and `ip` (iproute2). Three parameter servers, one of them without snapshots, two replicas and a
data server, with keys, train MNIST; while they do, parts are killed and started again, the network is cut and healed,
broken frames are thrown at the servers, another user knocks. One replica is cut off while the run ends. What must hold
is checked at the end, and the table of what was done and seen is printed.

`--copies 3` drills nine machines instead: four servers with copies of all weights, three replicas, two data servers.
Victims (`--victims`) are killed, stopped and cut off in turn, each for longer than the others wait before they replace
it: the server that is primary of most bucket groups, the coordinator, a replica, a data server, or parts by their name.

`--copies 3 --etcd 3` adds three members of etcd, which elect the coordinator, on machines of their own. They are
victims too: their leader (`etcd`), and so many that they can decide nothing (`etcd majority`). Needs openssl.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from adam_mp.kernels.compilation import compile_kernels
from tools.drilling.faults import FAULTS, LAST, Fault, in_turn
from tools.drilling.machines import DrillError, Machines
from tools.drilling.run import Run
from tools.drilling.shape import COPIED, PLAIN, Shape
from tools.drilling.victims import check_victim

IMAGES = 57_000  # of an epoch: what --validation leaves of MNIST
VICTIMS = ("server", "coordinator", "replica", "data")
OF_ETCD = ("etcd", "etcd majority")


def drill(
    run: Run, faults: Sequence[Fault], images: int, tell: Callable[[str], None], last: Fault | None = None
) -> dict[str, Any]:  # fmt: skip
    """Begin the run, do it all the `faults`, `images` trained after each, and wait for its end; return the summary.

    `last` is done to it as it ends.
    """
    run.begin()
    tell(f"{run.goes_on(1):6.1f} s   until the first images were trained")
    for fault in faults:
        before = run.trained_here()
        began = time.monotonic()
        struck = fault.deed(run)
        during = sum(run.trained_here().values()) - sum(before.values())
        seconds = time.monotonic() - began
        if not during and not fault.is_felt:
            raise DrillError(f"{fault.words} ({', '.join(struck)}): no image was trained meanwhile")
        after = run.goes_on(images)
        found = "" if all(name in fault.words for name in struck) else f" ({', '.join(struck)})"
        line = f"{fault.words}{found}: {during:,} images meanwhile, {images:,} more {after:.1f} s after it"
        if run.shape.copies > 1:
            line += f", all copies {after + run.becomes_whole():.1f} s after it"
        tell(f"{seconds:6.1f} s   {line}")
    state = run.status()
    if state["phase"] == "done":
        raise DrillError("the run was over before all faults; give it more --epochs")
    if last is not None:
        last.deed(run)
    healed = time.monotonic()
    summary = run.finish(1000)
    if last is not None:
        tell(f"         {last.words}: all parts ended {time.monotonic() - healed:.1f} s after it")
    summary["twice"] = sum(entry["twice"] for entry in state["finished"])
    return summary


def main() -> int:
    """Run the drill that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--copies", type=int, default=1, choices=(1, COPIED.copies))
    parser.add_argument("--etcd", type=int, default=0, metavar="N", help="elect the coordinator in N members of etcd")
    parser.add_argument("--victims", help="who is struck with --copies, in turn, as in: server,coordinator,replica 1")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--images", type=int, default=5000, help="images trained between two faults")
    parser.add_argument("--accuracy", type=float, default=0.99, help="the least test accuracy")
    parser.add_argument("--model", default="mnist", help="the network")
    parser.add_argument("--keep", type=Path, help="a folder for the logs, which are thrown away otherwise")
    values = parser.parse_args()
    if values.copies == 1 and (values.etcd or values.victims):
        parser.error("--etcd and --victims are for a run with --copies 3")
    folder = Path(tempfile.mkdtemp(prefix="drill-"))
    try:
        shape, faults = _choose(values.copies, values.etcd, values.victims)
        compile_kernels()
        more = ("--model", values.model)
        with Machines(shape.desk) as machines, Run(machines, folder, values.epochs, more, shape) as run:
            summary = drill(run, faults, values.images, lambda line: print(line, flush=True), LAST)
        figures = ("test_accuracy", "images_trained", "updates", "staleness_mean", "seconds", "twice")
        print({name: summary[name] for name in figures})
        if summary["images_trained"] != values.epochs * IMAGES:
            raise DrillError(f"{summary['images_trained']} images are counted; expected {values.epochs * IMAGES}")
        if values.copies > 1 and summary["twice"]:
            raise DrillError(f"{summary['twice']} batches were trained by two replicas each")
        if summary["test_accuracy"] < values.accuracy:
            raise DrillError(f"test accuracy {summary['test_accuracy']}; expected {values.accuracy} or more")
    except DrillError as error:
        print(f"did not hold: {error}", file=sys.stderr)
        return 1
    finally:
        if values.keep is not None:
            shutil.copytree(folder, values.keep, dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _choose(copies: int, members: int, victims: str | None) -> tuple[Shape, tuple[Fault, ...]]:
    """Return the parts of the run, and what is done to them."""
    if copies == 1:
        return PLAIN, FAULTS
    shape = COPIED.with_etcd(members)
    chosen = victims.split(",") if victims else [*VICTIMS, *(OF_ETCD if members else ())]
    for victim in chosen:
        check_victim(shape, victim)
    return shape, tuple(in_turn(chosen))


if __name__ == "__main__":
    sys.exit(main())
