"""A run on many machines: its parts are started, watched from the desk, and waited for."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.drilling.etcd import RunsEtcd
from tools.drilling.machines import PATIENCE, DrillError
from tools.drilling.parts import Part
from tools.drilling.shape import PLAIN, Shape

ADAM_MP = (sys.executable, "-m", "adam_mp")
_SILENT = 5.0  # seconds that a server has to answer before another is asked who is the coordinator


class Run:
    """The parts of a run, each on the machine that its shape says; `more` are settings of its replicas.

    `machines` are Machines, or a PacketSwitch.
    """

    def __init__(
        self, machines: Any, folder: Path, epochs: int, more: Sequence[str] = (), shape: Shape = PLAIN
    ) -> None:  # fmt: skip
        self.machines, self.folder, self.epochs, self.more, self.shape = machines, folder, epochs, more, shape
        self.parts: dict[str, Part] = {}
        self.ended: list[Part] = []  # those that were killed
        self.watch: Part | None = None
        self.key = folder / "key"
        subprocess.run([*ADAM_MP, "keygen", str(self.key)], check=True, capture_output=True)
        members = shape.of("etcd")
        hosts = [machines.address(shape.machine(name)) for name in members]
        self.etcd = RunsEtcd(folder, members, hosts, machines.space(shape.desk)) if members else None
        self._asked = 0  # how often the desk had to ask anew
        self._trained_here: dict[int, int] = {}

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: Any) -> None:
        for part in (*self.parts.values(), *([self.watch] if self.watch else [])):
            if part.alive():
                part.send(signal.SIGCONT)
                part.kill()

    def start(self, name: str) -> None:
        """Start a part, or start it again."""
        if name in self.parts:
            self.ended.append(self.parts[name])
        space = self.machines.space(self.shape.machine(name))
        self.parts[name] = Part(space, self.folder, name.replace(" ", "-"), self._command(name))

    def _command(self, name: str) -> tuple[str, ...]:
        """Return the command of a part."""
        keys = ("--key-file", str(self.key))
        kind, number = name.rsplit(" ", 1)
        if kind == "etcd":
            assert self.etcd is not None
            return self.etcd.command(name)
        if kind == "replica":
            data = ",".join(map(self.address, self.shape.of("data")))
            return (
                *ADAM_MP, "train", "--join", self._door(int(number)), *keys, "--cores", "1",
                "--epochs", str(self.epochs), "--json", *(("--data-from", data) if data else ()),
                "--run-dir", self._run_dir(int(number)), *self.more,
            )  # fmt: skip
        listen = ("--listen", self.address(name))
        if kind == "data":
            data = [value for pair in itertools.pairwise(self.more) if pair[0] == "--data" for value in pair]
            return (*ADAM_MP, "serve-data", *listen, "--cores", "1", *data, *keys)
        first = ("--servers", str(len(self.shape.of("server"))))
        place = first if name == "server 0" else ("--join", self._door(0))
        if self.etcd is not None:
            place = (*first, *self.etcd.flags)
        kept = () if name in self.shape.forgetful else ("--snapshots", str(self.folder / f"state-{number}"))
        copies = ("--copies", str(self.shape.copies)) if self.shape.copies > 1 else ()
        return (*ADAM_MP, "serve-params", *listen, *place, *copies, *kept, *keys)

    def address(self, name: str) -> str:
        """Return where a part listens."""
        port = 7800 if name.startswith("data") else 7700
        return f"{self.machines.address(self.shape.machine(name))}:{port}"

    def _door(self, number: int) -> str:
        """Return where a member or a guest knocks: at the coordinator, or at any server if it is elected."""
        servers = self.shape.of("server")
        return self.address(servers[number % len(servers) if self.etcd is not None else 0])

    def part_at(self, address: str) -> str:
        """Return the server that listens there."""
        return next(name for name in self.shape.of("server") if self.address(name) == address)

    def coordinator(self) -> str:
        """Return the server that is the coordinator now: the one that etcd names, else the first."""
        return self.shape.of("server")[0] if self.etcd is None else self.part_at(self.etcd.coordinator())

    def _run_dir(self, index: int) -> str:
        number = sum(part.name == f"replica-{index}" for part in self.ended)
        return str(self.folder / f"run-{index}-{number}")

    def begin(self) -> None:
        """Start all parts, the first server last: the order must not matter. But servers need an etcd that answers."""
        members = self.shape.of("etcd")
        for name in members:
            self.start(name)
        if self.etcd is not None:
            self.etcd.leader()
        for name in reversed([name for name in self.shape.parts if name not in members]):
            self.start(name)

    def status(self) -> dict[str, Any]:
        """Return the next state that `adam-mp status --watch` shows at the desk, watching the run all the while."""
        deadline = time.monotonic() + PATIENCE
        before: int | None = None
        while time.monotonic() < deadline:
            if self.watch is None or not self.watch.alive():  # it gives up when the coordinator is away for long
                patience = 30.0 if self.etcd is None else _SILENT
                self.watch = self._ask("--watch", "--seconds", "0.25", "--deadline", f"{patience:g}")
                self._asked += 1
                before = None
            lines = self.watch.said().split("\n")[:-1]
            if before is not None and len(lines) > before and lines[-1].startswith("{"):
                return dict(json.loads(lines[-1]))
            before = len(lines) if before is None else before
            time.sleep(0.1)
        raise DrillError(f"no status within {PATIENCE:g} s: {self.watch.said()[-500:] if self.watch else ''}")

    def _ask(self, *more: str, key: Path | None = None) -> Part:
        """Ask for the run's status at the desk."""
        command = (*ADAM_MP, "status", self._door(self._asked), "--json", "--key-file", str(key or self.key), *more)
        return Part(self.machines.space(self.shape.desk), self.folder, "status", command)

    def is_shown_to(self, key: Path) -> bool:
        """Tell whether the holder of `key` is shown the status."""
        return self._ask("--deadline", "3", key=key).end(PATIENCE) == 0

    def trained(self) -> int:
        """Return how many images the run has trained up to now."""
        state = self.status()
        return sum(entry["trained"] for entry in state["finished"]) + int(state["trained"])

    def trained_here(self) -> dict[int, int]:
        """Return identity -> images trained by each replica, whether the servers have their updates yet or not.

        A replica that has just joined a restarted coordinator has not told yet what it trained: what it told before
        counts.
        """
        for member in self.status()["members"]:
            if member["role"] == "replica":
                known = self._trained_here.get(member["identity"], 0)
                self._trained_here[member["identity"]] = max(known, int(member.get("trained_here", 0)))
        return dict(self._trained_here)

    def goes_on(self, images: int, seconds: float = PATIENCE) -> float:
        """Wait until `images` more are trained; return after how many seconds that was."""
        began, first = time.monotonic(), self.trained()
        while True:
            for part in self.parts.values():
                if not part.alive():
                    raise DrillError(f"{part.name} ended: {part.said()[-1000:]}")
            if self.trained() >= first + images:
                return time.monotonic() - began
            if time.monotonic() - began > seconds:
                raise DrillError(f"no {images} images are trained within {seconds:g} s: {self.status()}")
            time.sleep(0.2)

    def is_whole(self) -> bool:
        """Tell whether each bucket group is on as many servers as it should be, all of them in sync."""
        groups = (self.status()["map"] or {}).get("groups") or []
        return all(len(in_sync) == self.shape.copies - 1 and not joining for _, _, in_sync, joining, _ in groups)

    def becomes_whole(self, seconds: float = PATIENCE) -> float:
        """Wait until lost copies have been made anew; return after how many seconds that was."""
        began = time.monotonic()
        while self.shape.copies > 1 and not self.is_whole():
            if time.monotonic() - began > seconds:
                raise DrillError(f"copies are missing after {seconds:g} s: {self.status()}")
        return time.monotonic() - began

    def ends_within(self, seconds: float) -> bool:
        """Look for a second at the last epoch; tell whether it is over soon, if all goes on as it does now."""
        first, began = self.status(), time.monotonic()
        if first["epoch"] < self.epochs:
            return False
        time.sleep(1)
        last = self.status()
        trained = last["trained"] - first["trained"]
        return bool(trained * seconds >= (last["images"] - last["trained"]) * (time.monotonic() - began))

    def finish(self, seconds: float) -> dict[str, Any]:
        """Wait for the run's end; return the summary of the replica that led."""
        replicas = [self.parts[name] for name in self.parts if name.startswith("replica")]
        servers = [self.parts[name] for name in self.parts if name.startswith("server")]
        for part in (*replicas, *servers):
            code = part.end(seconds)
            if code:
                raise DrillError(f"{part.name} ended with exit code {code}: {part.said()[-2000:]}")
        for name in self.shape.of("data"):
            self.parts[name].process.send_signal(signal.SIGTERM)
            self.parts[name].end(20)
        if self.etcd is not None and (left := self.etcd.keys()):
            raise DrillError(f"the run is over, and has left the keys {', '.join(left)} in etcd")
        summaries = [json.loads(part.said().strip().splitlines()[-1]) for part in replicas]
        for part, summary in zip(replicas, summaries, strict=True):
            self._check_speed(part, summary)
        led = [summary for summary in summaries if summary["test_accuracy"] is not None]
        if not led:
            raise DrillError("no replica evaluated the model")
        return dict(max(led, key=lambda summary: int(summary["images_trained"])))

    def _check_speed(self, part: Part, summary: dict[str, Any]) -> None:
        """Check that a replica that was there all the time has counted about all images of the run as it went."""
        counted = summary["images_per_second"] * summary["seconds"]
        if part.name not in {each.name for each in self.ended} and counted < 0.8 * summary["images_trained"]:
            raise DrillError(f"{part.name} tells {summary['images_per_second']:,.0f} images/s of all: {counted:,.0f}")
