"""The keeper: what of a run goes to disk, and when it is there. Checkpoints, and the best model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from adam_mp.compute.model import MODEL_FILE, Model, write_model
from adam_mp.errors import DiskError, refusal
from adam_mp.training.checkpoint import BackgroundWriter, Checkpoint, find_checkpoints, write_checkpoint

_DISK_DEADLINE = 600.0  # seconds


class Keeper:
    """Writes to `folder` in the background; it may be None where nothing is kept. `notice` takes lines for the user.

    `last` is the newest checkpoint that was taken, whether it is on disk yet or not; None where the run does not go
    back (`remembers`).
    """

    def __init__(self, folder: Path | None, notice: Callable[[str], None], remembers: bool) -> None:
        self._folder, self._remembers = folder, remembers
        self._writer = BackgroundWriter(notice)
        self._model = threading.Lock()  # of the next two
        self._unsaved: Model | None = None
        self._refused = False  # whether the disk did not take it, and it is not tried again yet
        self.last: Checkpoint | None = None

    def keep(self, checkpoint: Checkpoint) -> None:
        """Have a checkpoint written; a newer one takes its place if that comes before its turn.

        Before it the model, if the disk has not taken that yet.
        """
        folder = self._folder
        assert folder is not None
        if self._remembers:
            self.last = checkpoint
        with self._model:
            refused, self._refused = self._unsaved if self._refused else None, False
        if refused is not None:
            self._writer.submit("model", lambda: self._write(refused))
        self._writer.submit("checkpoint", lambda: write_checkpoint(folder, checkpoint))

    def save_model(self, model: Model) -> None:
        """Have a model written."""
        with self._model:
            self._unsaved, self._refused = model, False
        self._writer.submit("model", lambda: self._write(model))

    def _write(self, model: Model) -> None:
        assert self._folder is not None
        try:
            write_model(self._folder / MODEL_FILE, model)
        except BaseException:
            with self._model:
                self._refused = self._unsaved is model
            raise
        with self._model:
            if self._unsaved is model:
                self._unsaved = None

    def say_what_is_kept(self) -> str:
        """Say whether there is a checkpoint on disk to go back to."""
        self._writer.flush(_DISK_DEADLINE)
        if self._folder is None or not find_checkpoints(self._folder):
            return "No checkpoint had been written yet"
        return "The last good checkpoint was kept"

    def finish(self, present: Callable[[], Model]) -> Path:
        """Wait until all is written; return the model's file, of the `present` weights if there is no better.

        Raises DiskError if the disk does not take it.
        """
        assert self._folder is not None
        self._writer.flush(_DISK_DEADLINE)
        path = self._folder / MODEL_FILE
        if self._unsaved is None and not path.exists():
            self._unsaved = present()  # no epoch was finished
        if self._unsaved is not None:
            try:
                self._write(self._unsaved)
            except OSError as error:
                raise DiskError(f"cannot write {path}: {refusal(error)}, then use --resume") from None
        return path

    def close(self) -> None:
        """Write what is still to be written, and end."""
        self._writer.close(_DISK_DEADLINE)
