"""Parameter servers with copies: how soon another takes the place of one that dies, and whether updates get lost.

    python -m benchmarks.failover                     all rows, about an hour
    python -m benchmarks.failover --only kill
    python -m benchmarks.failover --audit 500         so many failovers in a row in each mode, about 35 minutes

Servers have senders that push whole numbers all the time (`loaded_servers.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.cut_cables import MACHINES
from benchmarks.goals import HEADER, Row, ratio_row, run_groups
from benchmarks.loaded_servers import SENDERS, Run
from benchmarks.page import machine_line, read_data, table, write_data
from benchmarks.timing import spread
from tools.drilling.machines import Machines
from tools.etcd_members import BINARIES, EtcdCluster

_AUDIT = "failover_audit.json"
_TRIALS, _ROUNDS = 40, 5
_MEMBERS, _MINUTE, _WITHOUT, _WITH_LEADER = 3, 60.0, 3, 10
_BEFORE_SILENCE = 10_000  # images
_QUICK = ("--heartbeat-interval", "50", "--election-timeout", "500")
_NO_ETCD = Row("with a coordinator that is elected in etcd", "", "", None, figures="etcd is not installed")
_TRAIN = (sys.executable, "-m", "adam_mp", "train", "--model", "lenet", "--servers", "4", "--replicas", "2",
          "--cores", "2", "--quiet")  # fmt: skip


def killed(commit: str, trials: int, seed: int = 1) -> tuple[list[float], int, int]:
    """Kill primaries so many times; return seconds to the new answers, wrong numbers, and rounds of senders."""
    chance, times = random.Random(seed), list[float]()
    with Run(commit) as run:
        for trial in range(trials):
            place = run.victim(chance)
            times += run.signal(place, signal.SIGKILL)
            run.servers.restart(place)
            if trial % 50 == 49:
                print(f"  {trial + 1} failovers, median {statistics.median(times):.3f} s", flush=True)
        run.settle()
        return sorted(times), run.audit(), run.rounds()


def stopped(commit: str, trials: int) -> tuple[list[float], int]:
    """Stop primaries for three seconds so many times; return seconds to the new answers, and wrong numbers."""
    chance, times = random.Random(2), list[float]()
    with Run(commit) as run:
        for _ in range(trials):
            place = run.victim(chance)
            times += run.signal(place, signal.SIGSTOP)
            time.sleep(3.0)
            run.servers.processes[place].send_signal(signal.SIGCONT)
        run.settle()
        return sorted(times), run.audit()


def kill_rows() -> Iterator[Row]:
    """Kill -9 of a primary, in both modes."""
    for commit in ("copied", "all"):
        times, wrong, rounds = killed(commit, _TRIALS)
        yield from _time_rows(f"kill -9 of a primary to the first answer of the new one, --commit {commit}", times)
        yield Row(
            f"numbers of the weights that are wrong after {_TRIALS} failovers, --commit {commit}", "", "0", wrong,
            met=wrong == 0, figures=f"{rounds} rounds of {SENDERS} senders",
        )  # fmt: skip


def _time_rows(what: str, times: list[float]) -> Iterator[Row]:
    middle, late = statistics.median(times), times[min(len(times) - 1, round(0.99 * len(times)))]
    yield Row(
        f"{what}, median", "", "< 0.1 s", middle, times[len(times) // 4], times[3 * len(times) // 4], middle < 0.1
    )
    yield Row(f"{what}, 99 in 100", "", "< 0.3 s", late, met=late < 0.3, figures=f"{len(times)} groups")


def stop_rows() -> Iterator[Row]:
    """SIGSTOP of a primary, in both modes."""
    for commit in ("copied", "all"):
        times, wrong = stopped(commit, 10)
        yield Row(
            f"SIGSTOP of a primary to the first answer of the new one, --commit {commit}, longest", "", "< 1 s",
            times[-1], met=times[-1] < 1, figures=f"median {statistics.median(times):.2f} s",
        )  # fmt: skip
        yield Row(f"numbers that are wrong after it, --commit {commit}", "", "0", wrong, met=wrong == 0)


def cut_rows() -> Iterator[Row]:
    """The cable of a primary's machine cut, in both modes; needs root."""
    if not Machines.can_be_made():
        yield Row("cable of a primary's machine cut", "", "< 1 s", None, figures="needs root, and `ip` with namespaces")
        return
    for commit in ("copied", "all"):
        with Machines(MACHINES) as machines:
            # A process of its own: the sockets of this one are in the namespace where it began.
            space = machines.space(MACHINES)
            command = ["ip", "netns", "exec", space, sys.executable, "-m", "benchmarks.cut_cables", commit]
            told = subprocess.run([*command, machines.prefix], stdout=subprocess.PIPE, check=True, timeout=600).stdout
        found = json.loads(told)
        times = sorted(found["seconds"])
        yield Row(
            f"cable of a primary's machine cut to the first answer of the new one, --commit {commit}, longest", "",
            "< 1 s", times[-1], met=times[-1] < 1,
            figures=f"median {statistics.median(times):.2f} s of {len(times)} groups; machines are network namespaces",
        )  # fmt: skip
        wrong = found["wrong"]
        yield Row(f"numbers that are wrong after it, --commit {commit}", "", "0", wrong, met=wrong == 0)


def stopped_etcd_rows() -> Iterator[Row]:
    """A minute without etcd, in both modes."""
    if not BINARIES:
        yield _NO_ETCD
        return
    for commit in ("copied", "all"):
        shares, (around, without), wrong = without_etcd(commit)
        low, middle, high = spread([100 * share for share in shares])
        yield Row(
            f"exchanges in a minute in which etcd is stopped, of the halves before and after it, --commit {commit}", "",
            "98%", middle, low, high, middle >= 98,
            f"{around} and {without} rounds of {SENDERS} senders in {_WITHOUT} minutes each",
        )  # fmt: skip
        yield Row(f"numbers that are wrong after it, --commit {commit}", "", "0", wrong, met=wrong == 0)


def leader_rows() -> Iterator[Row]:
    """Kill -9 of a primary and of etcd's leader, in both modes, with two ways to set etcd up."""
    if not BINARIES:
        yield _NO_ETCD
        return
    for setting, more in {"as it comes": (), " ".join(_QUICK): _QUICK}.items():
        for commit in ("copied", "all"):
            times, wrong = killed_with_leader(commit, _WITH_LEADER, more)
            yield Row(
                f"kill -9 of a primary and etcd's leader to the first answer of the next, etcd {setting}, --commit "
                f"{commit}, longest", "", "< 2 s", times[-1], met=times[-1] < 2,
                figures=f"median {statistics.median(times):.2f} s of {_WITH_LEADER} failovers",
            )  # fmt: skip
            yield Row(f"numbers that are wrong after them, --commit {commit}", "", "0", wrong, met=wrong == 0)


def without_etcd(commit: str) -> tuple[list[float], list[int], int]:
    """Stop all of etcd for a minute, so many times, with a minute between.

    Return for each time rounds of senders in it as a share of those in the half minutes before and after it, ascending;
    all rounds with etcd and without; and how many numbers are wrong at the end.
    """
    shares, totals = list[float](), [0, 0]
    with _three_members() as cluster, Run(commit, cluster.controller) as run:
        for _ in range(_WITHOUT):
            around = _rounds(run, _MINUTE / 2)
            for member in range(_MEMBERS):
                cluster.stop(member, signal.SIGSTOP)
            without = _rounds(run, _MINUTE)
            for member in range(_MEMBERS):
                cluster.stop(member, signal.SIGCONT)
            run.settle()
            around += _rounds(run, _MINUTE / 2)
            shares.append(without / around)
            totals = [totals[0] + around, totals[1] + without]
        return sorted(shares), totals, run.audit()


def _rounds(run: Run, seconds: float) -> int:
    first = run.rounds()
    time.sleep(seconds)
    return run.rounds() - first


def killed_with_leader(commit: str, trials: int, more: Sequence[str]) -> tuple[list[float], int]:
    """Kill primaries and with each the leader of etcd; return seconds to the new answers, and wrong numbers.

    `more` are flags of etcd's members.
    """
    chance, times = random.Random(3), list[float]()
    with _three_members(more) as cluster, Run(commit, cluster.controller) as run:
        for _ in range(trials):
            place, member = run.victim(chance), cluster.leader()
            if member is None:
                raise SystemExit("etcd has no leader")
            cluster.stop(member)
            times += run.signal(place, signal.SIGKILL, 60.0)
            run.servers.restart(place)
            cluster.start(member)
            run.settle()
            cluster.wait()
        return sorted(times), run.audit()


@contextlib.contextmanager
def _three_members(more: Sequence[str] = ()) -> Iterator[EtcdCluster]:
    with tempfile.TemporaryDirectory() as folder, EtcdCluster(Path(folder), _MEMBERS, more=more) as cluster:
        yield cluster


def training_rows() -> Iterator[Row]:
    """Whole runs of LeNet with four servers and two replicas: three copies in both modes, beside one."""
    ways = {"one copy": (), "three": ("--copies", "3"), "three, --commit all": ("--copies", "3", "--commit", "all")}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    copied: dict[str, int] = {}
    for _ in range(_ROUNDS):
        for way, arguments in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                rate, copied[way] = _train(Path(folder) / "run", arguments)
                rates[way].append(rate)
    for way in list(ways)[1:]:
        ratios = sorted(ours / one for ours, one in zip(rates[way], rates["one copy"], strict=True))
        told = f"{statistics.median(rates['one copy']):,.0f} and {statistics.median(rates[way]):,.0f} images/s"
        sent = f"{copied[way] / 1e6:,.0f} MB between servers in an epoch"
        yield ratio_row(
            f"MNIST LeNet, 4 servers, 2 replicas, copies: {way}", "one copy", 0.9, ratios, f"{told}; {sent}"
        )


def minute_rows() -> Iterator[Row]:
    """A run of LeNet in which a server is killed: images in the minute after that, beside the minute before."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        process = subprocess.Popen([*_TRAIN, "--epochs", "100", "--copies", "3", "--run-dir", str(folder)],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            while not (folder / "server-1" / "address").exists():
                time.sleep(0.1)
            time.sleep(20.0)
            counts = [_trained(folder)]
            time.sleep(60.0)
            counts.append(_trained(folder))
            os.kill(_server(process.pid, 1), signal.SIGKILL)
            time.sleep(60.0)
            counts.append(_trained(folder))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(20)
    before, after = counts[1] - counts[0], counts[2] - counts[1]
    yield Row(
        "images/s in the minute after a kill -9 of a server, of the minute before", "", "98%", 100 * after / before,
        met=after >= 0.98 * before, figures=f"{before / 60:,.0f} and {after / 60:,.0f}",
    )  # fmt: skip


def silence_rows() -> Iterator[Row]:
    """Runs of LeNet with two servers and no copies, one of which is stopped for a while, beside runs without."""
    for seconds in (10, 30):
        lost, pairs = [], []
        for seed in range(1, _ROUNDS + 1):
            calm, hushed = _validated(0, seed), _validated(seconds, seed)
            lost.append(100 * (calm - hushed))
            pairs.append(f"{100 * calm:.2f} and {100 * hushed:.2f}%")
        low, middle, high = spread(sorted(lost))
        yield Row(
            f"validation after an epoch in which one of 2 servers is stopped for {seconds} s: points lost",
            "runs without", "0.3 points", middle, low, high, middle <= 0.3, "; ".join(pairs),
        )  # fmt: skip


def _validated(silent: float, seed: int) -> float:
    """Train two epochs; return the validation accuracy after the first, in which a server is stopped for `silent` s."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        process = subprocess.Popen([*_TRAIN, "--servers", "2", "--epochs", "2", "--seed", str(seed),
                                    "--run-dir", str(folder)], stdout=subprocess.DEVNULL)  # fmt: skip
        try:
            while silent and process.poll() is None:
                with contextlib.suppress(Exception):
                    if _trained(folder) > _BEFORE_SILENCE:
                        break
            if silent:
                server = _server(process.pid, 1)
                os.kill(server, signal.SIGSTOP)
                time.sleep(silent)
                os.kill(server, signal.SIGCONT)
            if process.wait(600):
                raise SystemExit(f"a run ended with exit code {process.returncode}")
        finally:
            process.kill()
            process.wait(20)
        row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
        return float(row["validation_accuracy"])


def _server(parent: int, number: int) -> int:
    """Return the process id of a run's parameter server."""
    name = f"parameter server {number}"
    return next(child.pid for child in psutil.Process(parent).children() if child.cmdline()[-1] == name)


def _train(folder: Path, arguments: tuple[str, ...]) -> tuple[float, int]:
    """Train; return images a second after the first epoch, and bytes of copies that all servers sent an epoch."""
    epochs, sent = 3, 0
    process = subprocess.Popen([*_TRAIN, "--epochs", str(epochs), "--run-dir", str(folder), *arguments],
                               stdout=subprocess.DEVNULL)  # fmt: skip
    while process.poll() is None:
        with contextlib.suppress(Exception):
            sent = max(sent, sum(member.get("copied_bytes", 0) for member in _state(folder)["members"]))
        time.sleep(1.0)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rate = statistics.median(row["images_trained"] / (row["seconds"] + row["validation_seconds"]) for row in rows[1:])
    return rate, sent // epochs


def _trained(folder: Path) -> int:
    state = _state(folder)
    return int(state["images"] * (state["epoch"] - 1) + state["trained"])


def _state(folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "adam_mp", "status", str(folder), "--json"]
    state: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)
    return state


def write_audit(failovers: int) -> None:
    """Kill so many primaries in each mode under load, and note what was found for the page."""
    rows = []
    for commit in ("copied", "all"):
        times, wrong, rounds = killed(commit, failovers)
        late = times[round(0.99 * (len(times) - 1))]
        rows.append(
            Row(
                f"numbers of the weights that are wrong after {failovers} failovers, --commit {commit}", "", "0", wrong,
                met=wrong == 0, figures=f"{rounds} rounds of {SENDERS} senders; first answers after "
                f"{statistics.median(times):.2f} s, 99 in 100 within {late:.2f} s",
            )
        )  # fmt: skip
        print("  ".join(rows[-1].cells()), flush=True)
    write_data(_AUDIT, {"machine": machine_line(), "rows": [dataclasses.asdict(row) for row in rows]})


def last_audit() -> str:
    """Return the last audit as a part of the page."""
    kept = read_data(_AUDIT)
    rows = [Row(**values).cells() for values in kept["rows"]]
    return f"## The longest audit\n\n`--audit` writes this table. {kept['machine']}\n\n{table(HEADER, rows)}\n"


GROUPS = {
    "kill": kill_rows,
    "stop": stop_rows,
    "cut": cut_rows,
    "etcd": stopped_etcd_rows,
    "leader": leader_rows,
    "training": training_rows,
    "minute": minute_rows,
    "silence": silence_rows,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--audit", type=int)
    failovers = parser.parse_known_args()[0].audit
    if failovers is None:
        run_groups(__doc__, GROUPS, "failover", "Parameter servers with copies: failover", last_audit)
    else:
        write_audit(failovers)
