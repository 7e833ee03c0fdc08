"""metrics.jsonl: one JSON object an epoch, written as the epoch ends.

Keys and units stand in docs/run_folder.md.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

from adam_mp.compute.tensor_file import write_file
from adam_mp.errors import RunFolderError, refusal
from adam_mp.training.events import EpochEnded, RunEnded, RunPlanned
from adam_mp.training.run_folder import METRICS_FILE


class MetricsFile:
    """Listens to a run and appends to its metrics.jsonl; a resumed run keeps the epochs before its first.

    Lines that the disk does not take are written with a later one.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._unwritten = b""

    def __call__(self, event: Any) -> None:
        """Record one event, if it is an epoch's end. A disk that does not take it is reported, and the run goes on."""
        try:
            self._record(event)
        except OSError as error:
            print(f"adam_mp: cannot write {self._path}: {refusal(error)}; the run goes on without it", file=sys.stderr)

    def _record(self, event: Any) -> None:
        if isinstance(event, RunPlanned):
            self._path = event.folder / METRICS_FILE
            kept = [row for row in read_metrics(event.folder) if row["epoch"] < event.first_epoch]
            write_file(self._path, b"".join(map(_line, kept)))
        elif isinstance(event, EpochEnded):
            self._unwritten += _line(event.as_dict())
            self._append()
        elif isinstance(event, RunEnded) and self._unwritten:
            self._append()

    def _append(self) -> None:
        """Append what is unwritten; no half of a line stays if the disk is full."""
        if self._path is None:
            return
        with open(self._path, "ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if file.write(self._unwritten) != len(self._unwritten):
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._unwritten = b""


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the epochs of a run folder; an unfinished last line, of a run that was killed, is left out."""
    path = folder / METRICS_FILE
    if not path.exists():
        return []
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_checked(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                raise RunFolderError(f"{path} is damaged in line {number}; mend it, or remove it") from None
    return rows


def _checked(row: Any) -> dict[str, Any]:
    """Return the row of an epoch; raises KeyError, TypeError or ValueError if it is none."""
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
