"""How fast a run starts, and a process's successor, with children forked and with fresh interpreters.

    python -m benchmarks.startup              all rows, about three minutes
    python -m benchmarks.startup --only first

Both ways take turns. Kernels are compiled before; a run on MNIST with two cores, the network and batch of the defaults.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from adam_mp.kernels.compilation import compile_kernels
from benchmarks.goals import Row, ratio_row, run_groups
from benchmarks.timing import spread

_ROUNDS = 7
_COMMAND = (sys.executable, "-m", "adam_mp")
_FRESH, _FORKED = "fresh interpreters", "forked"
# What `adam-mp train` does, with a look at the workers' counters whenever the supervisor looks after them.
_RUN = """
import contextlib, json, os, re, signal, sys, time
from adam_mp.cli import train
from adam_mp.training.preloading import OF_A_RUN
way, folder, deed = sys.argv[1:]
fork_server = train.fork_server
if way == "fresh interpreters":
    from adam_mp.process import forking
    forking.fork_server = fork_server = lambda *_: contextlib.nullcontext()
with fork_server(OF_A_RUN):
    from adam_mp.api import train_with
    from adam_mp.training.crew.crew import Crew
    step_of_crew, killed, began = Crew.step, 0.0, 0.0
    def end(found):
        print(json.dumps(found), flush=True)
        os._exit(0)
    def memory(process):
        text = open(f"/proc/{process}/smaps_rollup").read()
        return {name: 1024 * int(re.search(rf"^{name}: +(\\d+)", text, re.MULTILINE)[1])
                for name in ("Pss_Anon", "Private_Dirty")}
    def step(crew):
        global killed, began
        step_of_crew(crew)
        now, rows = time.monotonic(), crew.rows()
        trained = [row.images for row in rows[:2]]
        if deed == "first" and any(trained):
            end({})
        began = began or (now if all(trained) else 0.0)
        if not began or now < began + 1.0:
            return
        if deed == "memory":
            end([memory(crew.pids()[f"worker {number}"]) for number in range(2)])
        if not killed:
            killed = now
            os.kill(crew.pids()["worker 0"], signal.SIGKILL)
        elif trained[0] and crew.members[0].child.started > killed:
            end({"seconds": now - killed})
    Crew.step = step
    train_with([], {"cores": 2, "epochs": 50, "run_dir": folder + "/run"})
"""


def _run(way: str, deed: str) -> tuple[float, Any]:
    """Start a run and wait for what it tells; return the seconds until then, and that."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _RUN, way, folder, deed], capture_output=True, text=True, timeout=120, check=True
        )
        return time.perf_counter() - start, json.loads(done.stdout.splitlines()[-1])


def first_rows() -> Iterator[Row]:
    """From the command to the first trained batch."""
    taken: dict[str, list[float]] = {_FORKED: [], _FRESH: []}
    for _ in range(_ROUNDS):
        for way, seconds in taken.items():
            seconds.append(_run(way, "first")[0])
    yield from _time_rows("from the command to the first trained batch", 1.0, taken)


def successor_rows() -> Iterator[Row]:
    """From a worker's death to the first batch of its successor."""
    taken: dict[str, list[float]] = {_FORKED: [], _FRESH: []}
    for _ in range(_ROUNDS):
        for way, seconds in taken.items():
            seconds.append(_run(way, "successor")[1]["seconds"])
    yield from _time_rows("from a worker's death to its successor's first batch", 0.2, taken)


def _time_rows(what: str, goal: float, taken: dict[str, list[float]]) -> Iterator[Row]:
    low, middle, high = spread(sorted(taken[_FORKED]))
    yield Row(what, "", f"< {goal:g} s", middle, low, high, middle < goal)
    ratios = sorted(fresh / forked for fresh, forked in zip(taken[_FRESH], taken[_FORKED], strict=True))
    yield ratio_row(what, _FRESH, 0, ratios, f"theirs {statistics.median(taken[_FRESH]):.2f} s")


def memory_rows() -> Iterator[Row]:
    """What a worker has of anonymous memory, its share of what it has in common with others included."""
    sizes = {way: [each for _ in range(3) for each in _run(way, "memory")[1]] for way in (_FORKED, _FRESH)}
    share = {way: statistics.median(each["Pss_Anon"] for each in found) / 2**20 for way, found in sizes.items()}
    alone = {way: statistics.median(each["Private_Dirty"] for each in found) / 2**20 for way, found in sizes.items()}
    yield Row(
        "memory of a worker that it has alone", "", "< 30 MB", alone[_FORKED], met=alone[_FORKED] < 30,
        figures=f"with its share of what is forked {share[_FORKED]:.0f} MB; {_FRESH} {alone[_FRESH]:.0f} MB",
    )  # fmt: skip


def command_rows() -> Iterator[Row]:
    """Commands that do little: help, a key file, a model's layers, a run's state."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = "[adam_mp.Flatten(), adam_mp.Dense(), adam_mp.Softmax()]"
        made = f"import adam_mp; adam_mp.train({network}, quiet=True, epochs=1, run_dir={name + '/run'!r})"
        subprocess.run([sys.executable, "-c", made], check=True, timeout=120)
        server = subprocess.Popen(
            [*_COMMAND, "serve-params", "--listen", "127.0.0.1:0", "--address-file", str(folder / "address")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait_for(folder / "address")
            yield _command_row("--help", 0.1)
            yield _command_row("keygen", 0.3, lambda turn: [str(folder / f"{turn}.key")])
            yield _command_row("inspect", 0.3, lambda _: [str(folder / "run")])
            yield _command_row("status", 0.3, lambda _: [(folder / "address").read_text().strip()])
        finally:
            server.terminate()
            server.wait(10)


def _wait_for(file: Path) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{file} was not written")
        time.sleep(0.02)


def _command_row(command: str, goal: float, arguments: Callable[[int], list[str]] = lambda _: []) -> Row:
    taken = []
    for turn in range(2 * _ROUNDS):
        start = time.perf_counter()
        # With a timeout, subprocess looks only every 50 ms whether the command has ended; its output ends at once.
        subprocess.run([*_COMMAND, command, *arguments(turn)], stdout=subprocess.PIPE, timeout=60, check=True)
        taken.append(time.perf_counter() - start)
    low, middle, high = spread(sorted(taken))
    return Row(f"adam-mp {command}", "", f"< {goal:g} s", middle, low, high, middle < goal)


GROUPS = {"first": first_rows, "successor": successor_rows, "memory": memory_rows, "commands": command_rows}


if __name__ == "__main__":
    compile_kernels()
    run_groups(__doc__, GROUPS, "startup", "Starting a run, and a successor")
