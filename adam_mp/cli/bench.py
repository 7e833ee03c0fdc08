"""`adam-mp bench`: training speed on this machine, by number of workers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from adam_mp.cli.options import Parser, add_common, add_settings, given_settings, parse
from adam_mp.errors import SettingsError, several, shown
from adam_mp.machine import usable_cores
from adam_mp.process.forking import fork_server
from adam_mp.process.output import standard_error, standard_output
from adam_mp.report.progress import notices_only
from adam_mp.report.speed import SpeedTable, draw_speed, speed_text, worker_counts
from adam_mp.training.benchmark import measure_speed, sgemm_gigaflops
from adam_mp.training.plan.plan import make_plan
from adam_mp.training.preloading import OF_A_RUN
from adam_mp.training.settings.combinations import OF_PARTITIONS
from adam_mp.training.settings.settings import FIELDS

_SETTINGS = (
    "model", "data", "augment", "batch_size", "optimizer", "lr", "momentum", "beta1", "beta2", "epsilon",
    "weight_decay", "seed", "data_servers", "memory_dir",
)  # fmt: skip


def run(arguments: Sequence[str]) -> int:
    """Measure training speed with 1, 2, 4, ... workers on this machine."""
    parser = Parser(
        prog="adam-mp bench",
        description="Measure how fast this machine trains, with 1, 2, 4, ... workers: images and connections per "
        "second, efficiency, the share of what numpy's matrix product reaches, and where the workers' time goes. "
        "Nothing is kept.",
    )
    parser.add_argument("--workers", metavar="N,N,...", help="numbers of workers (default: 1, 2, 4, ... all cores)")
    parser.add_argument("--seconds", metavar="S", type=float, default=3.0, help="time of one measurement (default: 3)")
    parser.add_argument("--repeats", metavar="N", type=int, default=3, help="measurements of each (default: 3)")
    parser.add_argument("--png", metavar="FILE", help="draw the result into this file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_settings(parser, _SETTINGS)
    add_common(parser)
    values = parse(parser, arguments)
    counts = _worker_counts(values.workers)
    if values.repeats < 1 or not values.seconds > 0:
        raise SettingsError("--repeats and --seconds must be above 0")
    # One epoch, without what a file of --config may say of several, of an evaluation, or of a model in parts.
    whole = {name: FIELDS[name].default for name in ("average", "partition", "listen", "partitions", *OF_PARTITIONS)}
    given = {**given_settings(values), **whole, "epochs": 1, "validation": 0.0, "cores": max(counts)}
    speeds = []
    with fork_server(OF_A_RUN):
        plan = make_plan(given, notices_only)
        try:
            for repeat in range(values.repeats):
                for workers in counts:
                    standard_error().write(
                        f"\rmeasuring {several(workers, 'worker')}, {repeat + 1} of {values.repeats} "
                    )
                    speeds.append(measure_speed(plan, workers, values.seconds, notices_only))
        finally:
            standard_error().write("\r" + " " * 40 + "\r")
    table = SpeedTable(plan.network.name, plan.settings.batch_size, sgemm_gigaflops(), tuple(speeds))
    try:
        standard_output().answer(json.dumps(table.as_dict()) if values.json else speed_text(table))
    finally:
        if values.png:
            draw_speed(table, Path(values.png))
    return 0


def _worker_counts(text: str | None) -> list[int]:
    if text is None:
        return list(worker_counts(usable_cores()))
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        counts = []
    if not counts or counts[0] < 1:
        raise SettingsError(f"--workers is {shown(text)}; expected numbers from 1, such as 1,2,4")
    return counts
