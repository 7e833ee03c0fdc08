"""`adam-mp doctor`: what this machine offers, and what runs left behind on it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import psutil

from adam_mp.cli.options import Parser, add_common, parse
from adam_mp.machine import (
    ONE_THREAD,
    allowed_cores,
    cpu_name,
    cpu_quota,
    free_memory,
    l2_bytes,
    memory_limit,
    numa_nodes,
    usable_cores,
)
from adam_mp.memory.segment import LiveSegment, live_segments, megabytes
from adam_mp.process.child import is_child
from adam_mp.process.forking import forking_trouble
from adam_mp.process.output import standard_output
from adam_mp.transport.socket_files import remove_left_over

_DEADLINE = 5.0  # seconds within which a killed process should have ended


def run(arguments: Sequence[str]) -> int:
    """Show cores, vectors, memory, kernel cache and segments; with --sweep, kill children whose supervisor is dead."""
    parser = Parser(prog="adam-mp doctor", description="Show what this machine offers, and what runs left behind.")
    parser.add_argument(
        "--sweep", action="store_true",
        help="end children of runs that hold segments of a dead supervisor, and remove folders of its sockets",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_common(parser)
    values = parse(parser, arguments)
    segments = live_segments()
    swept, left = sweep(segments) if values.sweep else ([], {})
    folders = [str(path) for path in remove_left_over()] if values.sweep else []
    facts = examine(live_segments() if swept else segments)
    if values.json:
        standard_output().answer(json.dumps({**facts, "swept": swept, "folders": folders, "left": left}))
        return 0
    lines = describe(facts)
    if values.sweep:
        lines.append(("swept", ", ".join([*map(str, swept), *folders]) or "nothing to sweep"))
        lines += [("left alone", f"process {process} {why}") for process, why in left.items()]
    standard_output().answer("\n".join(f"{name:<16} {text}" for name, text in lines))
    return 0


def examine(segments: list[LiveSegment]) -> dict[str, Any]:
    """Return what the command shows, as plain values."""
    from adam_mp.kernels.compilation import cache_folder, cache_trouble, cached_kernels
    from adam_mp.kernels.vector import VECTOR_BYTES

    cached, kernels = cached_kernels()
    folder = cache_folder()
    quota, limit = cpu_quota(), memory_limit()
    return {
        "python": sys.version.split()[0],
        "cpu": cpu_name(),
        "cores": len(allowed_cores()),
        "quota": None if quota is None else quota.cores,
        "quota_source": None if quota is None else quota.source,
        "usable_cores": usable_cores(),
        "l2_bytes": l2_bytes(),
        "numa_nodes": numa_nodes(),
        "memory_free": free_memory(),
        "memory_total": psutil.virtual_memory().total,
        "memory_limit": None if limit is None else limit.limit,
        "memory_limit_source": None if limit is None else limit.source,
        "dev_shm_free": psutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else None,
        "vector_bits": 8 * VECTOR_BYTES,
        "forking_trouble": forking_trouble(),
        "threads": {name: os.environ.get(name, "unset") for name in ONE_THREAD},
        "kernel_cache": None if folder is None else str(folder),
        "kernel_trouble": cache_trouble(),
        "kernels_cached": cached,
        "kernels": kernels,
        "segments": [
            {"purpose": s.purpose, "owner": s.owner, "bytes": s.size, "holders": s.holders, "stale": s.stale}
            for s in segments
        ],
    }


def describe(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (name, text) of each line to show, from the result of `examine`."""
    quota, limit = "no quota", "no limit of a control group"
    if facts["quota"] is not None:
        quota = f"quota {facts['quota']:g} {'core' if facts['quota'] == 1 else 'cores'} ({facts['quota_source']})"
    if facts["memory_limit"] is not None:
        limit = f"limit {megabytes(facts['memory_limit'])} ({facts['memory_limit_source']})"
    shm = "none" if facts["dev_shm_free"] is None else megabytes(facts["dev_shm_free"])
    nodes = "; ".join(f"node {node}: cores {cores}" for node, cores in facts["numa_nodes"].items()) or "not told"
    live = [segment for segment in facts["segments"] if not segment["stale"]]
    stale = [segment for segment in facts["segments"] if segment["stale"]]
    advice = " (end their processes with: adam-mp doctor --sweep)" if stale else ""
    return [
        ("python", facts["python"]),
        ("processor", f"{facts['cpu']}, L2 {facts['l2_bytes'] >> 10} KB"),
        ("cores", f"{facts['usable_cores']} usable: {facts['cores']} allowed, {quota}"),
        ("NUMA", nodes),
        ("memory", f"{megabytes(facts['memory_free'])} free of {megabytes(facts['memory_total'])}, {limit}"),
        ("shared memory", f"anonymous, limited by memory only; /dev/shm, which is not used, has {shm} free"),
        ("vectors", f"{facts['vector_bits']} bits, {facts['vector_bits'] // 32} numbers an instruction"),
        (
            "kernel cache",
            facts["kernel_trouble"]
            or f"{facts['kernels_cached']} of {facts['kernels']} kernels compiled in {facts['kernel_cache']}",
        ),
        ("children", _how_children_start(facts["forking_trouble"])),
        ("live segments", ", ".join(map(_segment, live)) or "none"),
        ("stale segments", (", ".join(map(_segment, stale)) or "none") + advice),
    ]


def _how_children_start(trouble: str | None) -> str:
    if trouble is None:
        return "forked from a fork server that has loaded what they need"
    return f"fresh interpreters, which takes half a second each: {trouble}"


def _segment(segment: dict[str, Any]) -> str:
    holders = " ".join(map(str, segment["holders"]))
    return f"{segment['purpose']} of process {segment['owner']} ({megabytes(segment['bytes'])}, held by {holders})"


def sweep(segments: list[LiveSegment]) -> tuple[list[int], dict[int, str]]:
    """Kill processes that hold a segment of a dead supervisor, if they are children of runs.

    Returns (ids of the killed processes, id -> why it was left alone). A holder need not be a child of a run: anybody
    can make a file with the name of a segment, and hand it to a process that has nothing to do with adam_mp.
    """
    swept, left = [], {}
    users = {holder: segment.user for segment in segments if segment.stale for holder in segment.holders}
    for number, user in sorted(users.items()):
        try:
            process = psutil.Process(number)
            if not is_child(process.cmdline()):
                left[number] = "is no child of a run of this version of adam_mp"
            elif process.uids().real != user:
                left[number] = "belongs to another user than the segment that it holds"
            else:
                process.kill()
                swept.append(number)
                process.wait(_DEADLINE)
        except psutil.AccessDenied:
            left[number] = "is not yours to end"
        except psutil.NoSuchProcess:
            continue  # the process has ended by itself meanwhile
        except psutil.TimeoutExpired:
            left[number] = f"was killed, and has not ended after {_DEADLINE:g} s"
    return swept, left
