"""The run folder: the lock by which one process alone uses it, what is in it, and the record `run.json`.

model.safetensors          the model of the best epoch
checkpoint-N.safetensors   the last two checkpoints, the N-th of the run
metrics.jsonl              one JSON object per epoch
run.json                   settings, versions, machine, and at the end the summary
curves.png                 loss, accuracy and throughput over the epochs
bad_samples.jsonl          images that were left out, and why, if there were any
server-N, replica-N        folders of the parameter servers and of the other replicas (train --servers)
failures.log               what processes that died printed last, if any died
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adam_mp import __version__
from adam_mp.compute.tensor_file import write_file
from adam_mp.errors import RunFolderError, SpaceError, refusal
from adam_mp.machine import as_name, as_text, cpu_name, usable_cores
from adam_mp.memory.segment import megabytes
from adam_mp.network.description import to_json
from adam_mp.network.network import Network
from adam_mp.process.folder_lock import LOCK_FILE, FolderHeldError, FolderLock
from adam_mp.training.folder.checkpoint import find_checkpoints
from adam_mp.training.folder.places import GIVEN, places_of
from adam_mp.training.settings.settings import FIELDS, TrainSettings

RUN_FILE, METRICS_FILE, CURVES_FILE = "run.json", "metrics.jsonl", "curves.png"
BAD_SAMPLES_FILE = "bad_samples.jsonl"
_EARLY_FILES = {LOCK_FILE, RUN_FILE, METRICS_FILE, BAD_SAMPLES_FILE, "failures.log"}
_PARTS = re.compile(r"(server|replica)-\d+")  # folders of parts that `train --servers` makes anew
_PARTIAL = re.compile(r"\.(run\.json|metrics\.jsonl|(model|checkpoint-\d{10})\.safetensors)\.partial")
_PACKAGES = ("numpy", "numba", "numexpr", "psutil", "safetensors", "simplejpeg", "pillow")


@contextlib.contextmanager
def _refusals_told(path: Path) -> Iterator[None]:
    """Turn an OSError of using `path` into a RunFolderError that says why and what to do."""
    try:
        yield
    except FileExistsError:
        raise RunFolderError(f"cannot use run folder {path}: it is a file; give the name of a folder") from None
    except OSError as error:
        why = "it cannot be made there" if isinstance(error, FileNotFoundError) else refusal(error)
        raise RunFolderError(f"cannot use run folder {path}: {why}; name a folder where you may write") from None


class RunFolder:
    """A folder that only this process may use, until `close`. The kernel frees the lock if the process dies."""

    def __init__(self, path: Path, lock: FolderLock) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, path: Path | None, model: str) -> RunFolder:
        """Take a new or empty folder, `runs/MODEL-DATE` if `path` is None; raises RunFolderError for any other.

        A folder in which a run ended before its first checkpoint counts as empty.
        """
        path = path if path is not None else _unused_folder(model)
        with _refusals_told(path):
            if path.is_dir() and not (path / LOCK_FILE).exists():
                _check_unused(path, of_a_run=False)  # before a lock file is left in a folder that is not a run's
        folder = cls._take(path)
        try:
            _check_unused(path, of_a_run=folder._lock.was_held)
        except RunFolderError:
            folder.close()
            raise
        folder._begin()
        return folder

    @classmethod
    def reopen(cls, path: Path) -> RunFolder:
        """Take the folder of an existing run. Raises RunFolderError if it is not one, or in use."""
        if not (path / RUN_FILE).is_file():
            raise RunFolderError(f"{path} is not a run folder that can be resumed: it has no {RUN_FILE}")
        folder = cls._take(path)
        folder._begin()
        return folder

    @classmethod
    def _take(cls, path: Path) -> RunFolder:
        with _refusals_told(path):
            path.mkdir(parents=True, exist_ok=True)
            try:
                return cls(path, FolderLock(path, needed=False))
            except FolderHeldError as error:
                raise RunFolderError(
                    f"run folder {path} is in use by {error.holder}; wait for it, or name another"
                ) from None

    def _begin(self) -> None:
        """Remove files that a killed run has left half written, and write this process into the lock file."""
        for entry in self.path.iterdir():
            if _PARTIAL.fullmatch(entry.name):
                with contextlib.suppress(OSError):  # the run's first write will meet the same error and report it
                    entry.unlink()
        self._lock.sign()

    @property
    def trouble(self) -> str | None:
        """A line for the user if the file system has no locks; None if this process has the lock."""
        return self._lock.trouble

    def check_space(self, needed: int) -> None:
        """Raise SpaceError unless the disk has `needed` bytes free."""
        free = shutil.disk_usage(self.path).free
        if needed > free:
            raise SpaceError(
                f"checkpoints and model need {megabytes(needed)}, but the disk of {self.path} has {megabytes(free)} "
                "free; free some, or name another --run-dir"
            )

    def close(self) -> None:
        """Let others use the folder. The lock file stays: another process may hold it by the time it is deleted."""
        self._lock.close()

    def discard_if_empty(self) -> None:
        """Close, and remove the folder if nothing was written to it."""
        with contextlib.suppress(OSError):  # an empty folder does no harm, and must not hide what ended the run
            if [entry.name for entry in self.path.iterdir()] == [LOCK_FILE]:
                (self.path / LOCK_FILE).unlink()
                self.path.rmdir()
        self.close()


def _check_unused(path: Path, of_a_run: bool) -> None:
    """Raise RunFolderError if a folder has more than the files of a run that ended before its first checkpoint.

    Those may be written over, because there is nothing to resume. `of_a_run` says that a run has held the folder; then
    `server-N` and `replica-N` in it are that run's, and may be written over if they have no checkpoint.
    """

    def early(name: str) -> bool:
        if of_a_run and _PARTS.fullmatch(name):
            return (path / name).is_dir() and not find_checkpoints(path / name)
        return name in _EARLY_FILES or bool(_PARTIAL.fullmatch(name))

    others = sorted(entry.name for entry in path.iterdir() if not early(entry.name))
    if others:
        raise RunFolderError(f"run folder {path} is not empty (it has {others[0]}); name another, or use --resume")


def _unused_folder(model: str) -> Path:
    stem = "".join(letter if letter.isalnum() else "-" for letter in model.removesuffix(".toml").split("/")[-1])
    name = f"{stem}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    path, number = Path("runs") / name, 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    return path


def write_record(
    folder: Path, settings: TrainSettings, network: Network, plan: dict[str, Any], summary: dict[str, Any] | None,
    data: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write run.json: settings, network, what was understood of the data, machine, versions, in the end the summary.

    Raises RunFolderError if the disk does not take it.
    """
    plain = {name: _plain(getattr(settings, name)) for name in FIELDS}
    record = {
        "adam_mp": __version__,
        "settings": plain,
        "places": places_of(folder, plain),
        "seed": settings.seed,
        "network": json.loads(to_json(network)),
        "plan": plan,
        "data": data,
        "machine": {
            "cpu": cpu_name(), "usable_cores": usable_cores(), "system": platform.platform(),
            "python": platform.python_version(),
        },
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "summary": summary,
    }  # fmt: skip
    try:
        write_file(folder / RUN_FILE, (json.dumps(record, indent=2) + "\n").encode())
    except OSError as error:
        raise RunFolderError(f"cannot write {folder / RUN_FILE}: {refusal(error)}") from None


def _plain(value: Any) -> Any:
    """Return a setting as JSON can hold it; arrays, layers and other objects become GIVEN."""
    if isinstance(value, (str, Path)):
        return as_text(str(value))
    if isinstance(value, Mapping):
        return dict(value)  # the ranges of an augmentation
    return value if isinstance(value, (int, float, type(None))) else GIVEN


def read_record(folder: Path) -> dict[str, Any]:
    """Read run.json; raises RunFolderError if it is missing or damaged."""
    path = folder / RUN_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not isinstance(record["settings"], dict):
            raise ValueError("no settings")
        settings = record["settings"]
        record["settings"] = {
            key: as_name(value) if isinstance(value, str) else value for key, value in settings.items()
        }
    except OSError as error:
        raise RunFolderError(f"{folder} is not a run folder: cannot read {RUN_FILE} ({error.strerror})") from None
    except (ValueError, KeyError) as error:
        raise RunFolderError(f"{path} is damaged: {error}") from None
    return record
