"""metrics.jsonl: one JSON object an epoch, written as the epoch ends.

docs/run_folder.md has the keys and units.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adam_mp.compute.tensor_file import write_file
from adam_mp.errors import RunFolderError, refusal
from adam_mp.process.output import notice
from adam_mp.training.folder.run_folder import METRICS_FILE
from adam_mp.training.settings.events import EpochEnded, RunPlanned


class MetricsFile:
    """Listens to a run, and writes its metrics.jsonl. A resumed run keeps the epochs before its first one.

    Each writing replaces the whole file. So the rows that a full disk refused are in the next file that it takes, and
    no epoch is in it twice.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._rows: list[dict[str, Any]] = []
        self._unwritten = self._refused = False

    def __call__(self, event: Any) -> None:
        """Add a row if `event` is the end of an epoch. Any event writes rows that the disk has refused before.

        If the disk refuses the file, report it once; the run goes on.
        """
        if isinstance(event, RunPlanned):
            self._path = event.folder / METRICS_FILE
            self._rows = [row for row in read_metrics(event.folder) if row["epoch"] < event.first_epoch]
            self._unwritten = True
        elif isinstance(event, EpochEnded):
            self._rows.append(event.as_dict())
            self._unwritten = True
        if self._unwritten and self._path is not None:
            self._write(self._path)

    def _write(self, path: Path) -> None:
        try:
            write_file(path, b"".join(json.dumps(row).encode() + b"\n" for row in self._rows))
            self._unwritten = self._refused = False
        except OSError as error:
            if not self._refused:  # every event tries again; report it once
                notice(f"cannot write {path}: {refusal(error)}; the run goes on without it")
            self._refused = True


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the epochs of a run folder. Raises RunFolderError if a line is damaged."""
    path = folder / METRICS_FILE
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(_checked(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            raise RunFolderError(f"{path} is damaged in line {number}; repair or remove it") from None
    return rows


def _checked(row: Any) -> dict[str, Any]:
    """Return the row of an epoch with all its keys; raises KeyError, TypeError or ValueError if it is malformed."""
    values = EpochEnded(**row).as_dict()
    staleness = values["staleness"]
    if not isinstance(staleness, dict) or not all(isinstance(count, int) for count in staleness.values()):
        raise ValueError(f"staleness is {staleness!r}")
    for name, value in values.items():
        if name == "staleness":
            continue
        if not isinstance(value, (int, float)) and not (value is None and name.startswith("validation_")):
            raise ValueError(f"{name} is {value!r}")
    return values
