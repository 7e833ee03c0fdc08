"""The keeper: copies a run's checkpoints and best model, and has them written to disk in the background.

Of checkpoints and of models there are two copies in memory at most: one that is being written, and the newest. The next
copy is made over the newest one, unless that is being written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from adam_mp.compute.model import MODEL_FILE, Model, Tensors, write_model
from adam_mp.errors import DiskError, refusal
from adam_mp.training.folder.checkpoint import BackgroundWriter, Checkpoint, Spaces, find_checkpoints, write_checkpoint

_DISK_DEADLINE = 600.0  # seconds
COPIES = 2  # of a checkpoint at most, and of a model


class Keeper:
    """Writes to `folder` in the background, None for a run that writes nothing. `notice` takes lines for the user.

    With `remembers`, the newest checkpoint stays in memory once it is written, as the state to go back to. Only one
    thread may use a keeper.
    """

    def __init__(self, folder: Path | None, notice: Callable[[str], None], remembers: bool) -> None:
        self._folder, self._remembers = folder, remembers
        self._writer = BackgroundWriter(notice)
        self._lock = threading.Lock()  # guards the next three, which the writer's thread changes too
        self._newest: Checkpoint | None = None  # until it is written; with `remembers`, until the next one
        self._unsaved: Model | None = None  # the best model, until it is written
        self._refused = False  # whether the disk refused `_unsaved` and no job is to write it again yet

    @property
    def last(self) -> Checkpoint | None:
        """The newest checkpoint, to go back to, written or not; None without `remembers`."""
        return self._newest if self._remembers else None

    def remember(self, take: Callable[[Spaces | None], Checkpoint]) -> None:
        """Take a checkpoint to go back to, without writing it.

        `take` copies the run's state over the arrays that it is given, or into new ones if it is given None. It may
        overwrite the checkpoint that `last` has returned before.
        """
        checkpoint = take(self._place())
        with self._lock:
            self._newest = checkpoint

    def keep(self, take: Callable[[Spaces | None], Checkpoint]) -> None:
        """Take a checkpoint as `remember` does, and have it written, unless a newer one comes before that."""
        self.remember(take)
        self.write_last()

    def write_last(self, changed: Callable[[Checkpoint], Checkpoint] = lambda last: last) -> None:
        """Have the newest checkpoint written, after `changed` replaced fields of it, but not its arrays.

        If the disk refused the best model before, that is tried again first.
        """
        with self._lock:
            assert self._newest is not None
            checkpoint = self._newest = changed(self._newest)
            refused, self._refused = self._unsaved if self._refused else None, False
        if refused is not None:
            self._writer.submit("model", lambda: self._write(refused), refused.weights)
        self._writer.submit("checkpoint", lambda: self._write_checkpoint(checkpoint), checkpoint.spaces)

    def _place(self) -> Spaces | None:
        """Return the newest checkpoint's arrays to write over, None if there are none or they are being written."""
        being_written = self._writer.withdraw("checkpoint")
        with self._lock:
            place = self._newest.spaces if self._newest is not None else None
        return None if place is being_written else place

    def save_model(self, take: Callable[[Tensors | None], Model]) -> None:
        """Take a model, with `take` as in `remember`, and have it written."""
        being_written = self._writer.withdraw("model")
        with self._lock:
            place = self._unsaved.weights if self._unsaved is not None else None
            self._refused = False  # or a checkpoint would have the old model written while `take` writes over it
        model = take(None if place is being_written else place)
        with self._lock:
            self._unsaved = model
        self._writer.submit("model", lambda: self._write(model), model.weights)

    def _write_checkpoint(self, checkpoint: Checkpoint) -> None:
        assert self._folder is not None
        try:
            write_checkpoint(self._folder, checkpoint)
        finally:
            with self._lock:
                if not self._remembers and self._newest is checkpoint:
                    self._newest = None

    def _write(self, model: Model) -> None:
        assert self._folder is not None
        try:
            write_model(self._folder / MODEL_FILE, model)
        except BaseException:
            with self._lock:
                self._refused = self._unsaved is model
            raise
        with self._lock:
            if self._unsaved is model:
                self._unsaved = None

    def say_what_is_kept(self) -> str:
        """Return a sentence for the user that says whether a checkpoint is on disk; waits for what is being written."""
        self._writer.flush(_DISK_DEADLINE)
        if self._folder is None or not find_checkpoints(self._folder):
            return "No checkpoint had been written yet"
        return "The last good checkpoint was kept"

    def finish(self, present: Callable[[], Model]) -> Path:
        """Wait until everything is written; return the path of the model's file.

        If no epoch was finished, the file gets the `present` weights. Raises DiskError if the disk refuses the model.
        The run is over, so the state to go back to is dropped.
        """
        assert self._folder is not None
        self._writer.flush(_DISK_DEADLINE)
        self._forget()
        path = self._folder / MODEL_FILE
        if self._unsaved is None and not path.exists():
            self._unsaved = present()
        if self._unsaved is not None:
            try:
                self._write(self._unsaved)
            except OSError as error:
                todo = "once it can be written, use --resume"
                raise DiskError(f"cannot write {path}: {refusal(error)}; {todo}") from None
        return path

    def close(self) -> None:
        """Wait until everything is written, ten minutes at most, and end the thread."""
        self._writer.close(_DISK_DEADLINE)
        self._forget()

    def _forget(self) -> None:
        with self._lock:
            self._newest = None
