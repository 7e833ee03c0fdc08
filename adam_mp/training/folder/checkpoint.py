"""Checkpoints: everything a run needs to go on, copied while workers are idle, written in the background.

Delayed persistence (paper, section 3.3): the workers wait only for the copy, which takes milliseconds, and not for the
disk. If newer copies come while one is being written, the writer writes the newest of them and skips the others. Files
are whole or absent, numbered in the order in which they are written, and the last two are kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adam_mp.compute.part_storage import WholeTensors
from adam_mp.compute.tensor_file import TensorFile, write_tensors
from adam_mp.data.normalization import Normalization
from adam_mp.errors import CheckpointError, refusal
from adam_mp.memory.layout import Layout
from adam_mp.network.description import from_json, to_json
from adam_mp.network.network import Network

CHECKPOINT_FORMAT = "adam_mp.checkpoint.2"
_NAME = re.compile(r"checkpoint-(\d{10})\.safetensors")
_KEPT = 2


@dataclasses.dataclass(frozen=True)
class RunState:
    """The state of a run between two updates, without its weights and optimizer state.

    `ledger` uint8 [batches] are the states of the batches of `epoch` (from 0); `updates` is how many updates the whole
    run has made. `identity` has the values that must be the same when the run is resumed (see
    `RunPlan.identity`), `progress` the figures of the run so far (`Figures`), as plain values.
    """

    network: Network
    normalization: Normalization
    ledger: np.ndarray
    epoch: int
    updates: int
    identity: Mapping[str, Any]
    progress: Mapping[str, Any]


TensorsOf = Callable[[str, np.ndarray], "Mapping[str, np.ndarray] | WholeTensors"]
Spaces = Mapping[str, np.ndarray]  # "weights", each optimizer state, and the average's if any: flat float32 arrays


@dataclasses.dataclass(frozen=True)
class Checkpoint(RunState):
    """A copy of a run's state in memory, weights and optimizer state included.

    `tensors_of` finds the network's tensors, given a flat space's name and array; None if they lie as `Layout` has
    them.
    """

    spaces: Spaces
    tensors_of: TensorsOf | None = None


@dataclasses.dataclass(frozen=True)
class StoredCheckpoint(RunState):
    """A checkpoint in the file `path`, which was whole when it was read. Weights and optimizer state stay there.

    `space_names` are those of the flat spaces in the file: "weights", each optimizer state, and the average's.
    """

    path: Path
    space_names: tuple[str, ...]

    @property
    def number(self) -> int:
        """The number of its file."""
        return _number(self.path)

    def read_into(self, spaces: Spaces, tensors_of: TensorsOf | None = None) -> None:
        """Read the spaces that `spaces` has, into it. Raises CheckpointError if the file lacks or damaged them.

        `tensors_of` is as in `Checkpoint`.
        """
        TensorFile(self.path, CHECKPOINT_FORMAT).read(_tensors(self.network, spaces, tensors_of))


def checkpoint_path(folder: Path, number: int) -> Path:
    """Return the path of the `number`-th checkpoint of a run."""
    return folder / f"checkpoint-{number:010d}.safetensors"


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint into `folder`, then remove all but the newest two. Raises OSError if the disk refuses."""
    tensors = _tensors(checkpoint.network, checkpoint.spaces, checkpoint.tensors_of)
    tensors["ledger"] = checkpoint.ledger
    metadata = {
        "format": CHECKPOINT_FORMAT,
        "network": to_json(checkpoint.network),
        "state": json.dumps(
            {
                "normalization": dataclasses.asdict(checkpoint.normalization),
                "epoch": checkpoint.epoch,
                "updates": checkpoint.updates,
                "spaces": list(checkpoint.spaces),
                "identity": checkpoint.identity,
                "progress": checkpoint.progress,
            }
        ),
    }
    # Files are not numbered by updates: a sync run that is resumed with more workers counts fewer updates than before.
    present = find_checkpoints(folder)
    path = checkpoint_path(folder, _number(present[-1]) + 1 if present else 1)
    write_tensors(path, tensors, metadata)
    for old in [*present, path][:-_KEPT]:
        old.unlink(missing_ok=True)
    return path


def _tensors(network: Network, spaces: Spaces, tensors_of: TensorsOf | None) -> dict[str, Any]:
    """Return views of the tensors in flat arrays, by their names in a file, such as "weights/conv1.bias"."""
    layout = Layout.of(network.parameters)
    find = tensors_of or (lambda _, flat: layout.views(flat))
    return {f"{space}/{name}": view for space, flat in spaces.items() for name, view in find(space, flat).items()}


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def read_checkpoint(folder: Path) -> StoredCheckpoint:
    """Return the newest checkpoint in `folder`; raises CheckpointError if there is none or it is damaged.

    Reads and checks the whole file, but keeps neither weights nor optimizer state in memory.
    """
    paths = find_checkpoints(folder)
    if not paths:
        raise CheckpointError(f"{folder} has no checkpoint to resume from; start anew with another --run-dir")
    try:
        return _read_state(paths[-1])
    except CheckpointError as error:
        advice = f"; remove it to resume from {paths[-2].name}" if len(paths) > 1 else ""
        raise CheckpointError(f"{error}{advice}") from None


def read_identity(folder: Path) -> Mapping[str, Any]:
    """Return the `identity` of the newest checkpoint in `folder` (see `RunState`); empty if there is none to read."""
    try:
        file = TensorFile(find_checkpoints(folder)[-1], CHECKPOINT_FORMAT)
        return dict(json.loads(file.metadata["state"])["identity"])
    except (CheckpointError, IndexError, KeyError, ValueError, TypeError):
        return {}


def _read_state(path: Path) -> StoredCheckpoint:
    file = TensorFile(path, CHECKPOINT_FORMAT)
    try:
        (batches,) = file.forms["ledger"][1]
        ledger: np.ndarray = np.zeros(batches, np.uint8)
        file.read({"ledger": ledger})
        network = from_json(file.metadata["network"])
        state = json.loads(file.metadata["state"])
        for space in state["spaces"]:
            for name, shape in network.parameters.items():
                file.check_form(f"{space}/{name}", np.float32, shape)
        return StoredCheckpoint(
            network, _normalization(state["normalization"]), ledger, state["epoch"], state["updates"],
            state["identity"], state["progress"], path, tuple(state["spaces"]),
        )  # fmt: skip
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} lacks or has damaged {error}") from None


def _normalization(values: Mapping[str, Any]) -> Normalization:
    return Normalization(
        tuple(values["mean"]), tuple(values["deviation"]), float(values["fill"]),
        tuple(tuple(row) for row in values["directions"]),
    )  # fmt: skip


class BackgroundWriter:
    """A thread that runs writing jobs. Of each key ("model", "checkpoint") only the newest waiting job is kept.

    A job that fails does not end the thread: `notice` gets a line at the first failure in a row, and one when a job of
    that key succeeds again. Exceptions of `notice` are dropped: the run's own thread meets the same ones.
    """

    def __init__(self, notice: Callable[[str], None]) -> None:
        self._notice = notice
        self._refused: set[str] = set()  # keys whose last job failed
        self._jobs: dict[str, tuple[Callable[[], object], object]] = {}
        self._changed = threading.Condition()
        self._busy = self._closed = False
        self._reading: object = None  # what the job that runs now reads
        self._thread = threading.Thread(target=self._run, name="background-writer", daemon=True)
        self._thread.start()

    def submit(self, key: str, job: Callable[[], object], reads: object = None) -> None:
        """Have `job` run soon, in place of a waiting one of the same key. `reads` are the arrays that it will read."""
        with self._changed:
            self._jobs[key] = job, reads
            self._changed.notify_all()

    def withdraw(self, key: str) -> object:
        """Drop a waiting job of this key; return what the job that runs now reads, None if none runs."""
        with self._changed:
            self._jobs.pop(key, None)
            return self._reading

    def flush(self, seconds: float) -> bool:
        """Wait until all jobs are done, at most `seconds`; tell whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs and not self._busy, seconds)

    def close(self, seconds: float) -> bool:
        """Finish all jobs within `seconds` and end the thread; tell whether they were finished."""
        finished = self.flush(seconds)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if finished:
            self._thread.join()
        return finished

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                if not self._jobs:
                    return
                key = next(iter(self._jobs))
                job, self._reading = self._jobs.pop(key)
                self._busy = True
            try:
                self._do(key, job)
            finally:
                del job  # frees the arrays that it holds
                with self._changed:
                    self._busy, self._reading = False, None
                    self._changed.notify_all()

    def _do(self, key: str, job: Callable[[], object]) -> None:
        try:
            job()
        except Exception as error:
            if key not in self._refused:
                self._refused.add(key)
                self._tell(f"cannot write {key}: {refusal(error)}; the run goes on without it, and tries again")
        else:
            if key in self._refused:
                self._refused.remove(key)
                self._tell(f"{key} is written again")

    def _tell(self, text: str) -> None:
        with contextlib.suppress(Exception):
            self._notice(text)
