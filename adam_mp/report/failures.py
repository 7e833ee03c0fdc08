"""failures.log: the last words of processes that died, with their tracebacks. Without deaths there is no such file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adam_mp.errors import refusal
from adam_mp.process.output import notice
from adam_mp.training.settings.events import Notice, RunPlanned

FAILURES_FILE = "failures.log"


class FailureLog:
    """Listens to a run and appends the details of notices to its failures.log."""

    def __init__(self) -> None:
        self._path: Path | None = None

    def __call__(self, event: Any) -> None:
        """Append `event` if it is a notice with details."""
        if isinstance(event, RunPlanned):
            self._path = event.folder / FAILURES_FILE
        elif isinstance(event, Notice) and event.details and self._path is not None:
            try:
                with open(self._path, "a", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(f"{event.text}\n{event.details}\n")
            except OSError as error:
                notice(f"cannot write {self._path}: {refusal(error)}")
