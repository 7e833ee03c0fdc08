"""The processes of a part, on its machine."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tools.drilling.machines import DrillError


class Part:
    """A command on one of the machines."""

    def __init__(self, space: str, folder: Path, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.log = folder / f"{name}-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            command = ["ip", "netns", "exec", space, *command]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def said(self) -> str:
        """Return what it printed."""
        return self.log.read_text(errors="replace")

    def alive(self) -> bool:
        """Tell whether it runs."""
        return self.process.poll() is None

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def send(self, number: int) -> None:
        """Send a signal to all of its processes."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            for each in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.send_signal(number)

    def end(self, seconds: float) -> int:
        """Wait for its end; return its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise DrillError(f"{self.name} does not end within {seconds:g} s: {self.said()[-500:]}") from None
