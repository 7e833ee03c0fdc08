"""The partitions of a model on machines of their own (network namespaces), with keys: start, die, start again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil

from adam_mp.transport.keys import make_key_file
from tools.drilling.machines import PATIENCE, DrillError

_PORT, _SERVERS_PORT = 7700, 7600


class Spaces(Protocol):
    """Where machines are: `Machines`, or a `PacketSwitch`."""

    def space(self, number: int) -> str:
        """Return the namespace of machine `number`, from 1."""

    def address(self, number: int) -> str:
        """Return its address."""


class PartitionGroup:
    """A group with partition K on machine K; `folder` gets the run, the keys and what the commands print.

    Use as a context manager: leaving it kills what is left. `settings` are the leader's, `within` are the folders of
    the control groups in which the machines' processes are, by machine; empty for none. With `serves`, the machine
    behind those of the partitions has a parameter server, with which the group exchanges weights.
    """

    def __init__(
        self, machines: Spaces, parts: int, folder: Path, settings: Sequence[str], within: Sequence[Path] = (),
        serves: bool = False,
    ) -> None:  # fmt: skip
        self._within, self._serves = within, serves
        self.machines, self.parts, self.folder = machines, parts, folder
        self.run = folder / "run"
        self._keys = folder / "keys"
        self._settings = settings
        self.commands: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> PartitionGroup:
        self.folder.mkdir(parents=True, exist_ok=True)
        make_key_file(self._keys)
        if self._serves:
            self._run(
                self.parts + 1,
                ["serve-params", "--listen", self._servers_place, "--snapshots", str(self.folder / "snapshots"),
                 "--key-file", str(self._keys)],
            )  # fmt: skip
        for part in range(1, self.parts + 1):
            self.start(part)
        return self

    def __exit__(self, *_: object) -> None:
        for command in self.commands.values():
            _kill_group(command)

    def start(self, part: int) -> None:
        """Start a partition. The leader's run is a new one, or if it has a checkpoint, the same again."""
        place = f"{self.machines.address(1)}:{_PORT}"
        more: list[str] = ["--join", place, "--partition", f"{part}/{self.parts}", "--key-file", str(self._keys)]
        if part == 1 and any(self.run.glob("checkpoint-*")):
            more = ["--resume", str(self.run)]
        elif part == 1:
            shutil.rmtree(self.run, ignore_errors=True)
            more = [
                "--listen", place, "--partition", f"1/{self.parts}", "--key-file", str(self._keys), "--run-dir",
                str(self.run), *self._settings, *(["--join", self._servers_place] if self._serves else []),
            ]  # fmt: skip
        self._run(part, ["train", *more])

    @property
    def _servers_place(self) -> str:
        return f"{self.machines.address(self.parts + 1)}:{_SERVERS_PORT}"

    def _run(self, number: int, arguments: list[str]) -> None:
        """Run a command of adam_mp on machine `number`."""
        # `ip netns exec` would hide /sys/fs/cgroup, and with it the memory that a control group grants.
        space = f"--net=/run/netns/{self.machines.space(number)}"
        command = ["nsenter", space, sys.executable, "-m", "adam_mp", *arguments]
        if self._within:
            enter = f'echo $$ > {self._within[number - 1]}/cgroup.procs && exec "$@"'
            command = ["sh", "-c", enter, "sh", *command]
        with open(self._said_by(number), "ab") as output:
            self.commands[number] = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True, env=dict(os.environ)
            )

    def kill(self, part: int) -> None:
        """End the supervisor of a machine as `kill -9` does; its children end with it."""
        _kill_group(self.commands[part])

    def signal(self, part: int, number: signal.Signals) -> None:
        """Send a signal to all processes of a machine."""
        leader = psutil.Process(self.commands[part].pid)
        for process in (leader, *leader.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                process.send_signal(number)

    def children(self, part: int) -> dict[str, int]:
        """Return name -> process id of a machine's processes beside its supervisor, as far as they live."""
        found = {}
        try:
            children = psutil.Process(self.commands[part].pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return {}
        for child in children:
            with contextlib.suppress(psutil.Error):  # it has just ended
                if command := child.cmdline():  # a zombie has none
                    found[command[-1]] = child.pid
        return found

    def epochs(self) -> list[dict[str, Any]]:
        """Return the lines of the run's metrics so far."""
        path = self.run / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        """Wait until a condition holds. Raises DrillError after `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise DrillError(f"not within {seconds:g} s: {what}; {self.last_words()}")
            time.sleep(0.05)

    def finish(self, seconds: float) -> dict[str, Any]:
        """Wait for the end of all commands; return the run's summary. Raises DrillError if one fails."""
        self.wait(lambda: self.commands[1].poll() is not None, "the leader ends", seconds)
        self.wait(lambda: all(each.poll() is not None for each in self.commands.values()), "all partitions end", 60)
        if codes := {part: each.returncode for part, each in self.commands.items() if each.returncode}:
            raise DrillError(f"exit codes {codes}; {self.last_words()}")
        summary: dict[str, Any] = json.loads((self.run / "run.json").read_text())["summary"]
        return summary

    def last_words(self) -> str:
        """Return the ends of what the commands printed."""
        ends = {}
        for number in self.commands:
            ends[number] = self.said(number).strip()[-300:]
        return repr(ends)

    def said(self, number: int) -> str:
        """Return what the commands of machine `number` have printed."""
        return self._said_by(number).read_text(errors="replace")

    def _said_by(self, number: int) -> Path:
        return self.folder / f"machine-{number}.txt"


def _kill_group(command: subprocess.Popen[bytes]) -> None:
    if command.poll() is None:
        os.killpg(command.pid, signal.SIGKILL)
        command.wait(PATIENCE)
