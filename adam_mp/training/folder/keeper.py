"""The keeper: what of a run goes to disk, and when it is there. Checkpoints, and the best model.

Of either kind there are two copies at most: the one that is being written, and the newest. While the newest is not
being written, the next one takes its place in memory.
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
    """Writes to `folder` in the background; it may be None where nothing is kept. `notice` takes lines for the user.

    `last` is the newest checkpoint that was taken, whether it is on disk yet or not; None where the run does not go
    back (`remembers`). One thread may use it.
    """

    def __init__(self, folder: Path | None, notice: Callable[[str], None], remembers: bool) -> None:
        self._folder, self._remembers = folder, remembers
        self._writer = BackgroundWriter(notice)
        self._lock = threading.Lock()  # of the next three
        self._newest: Checkpoint | None = None  # until it is written, or longer where it is remembered
        self._unsaved: Model | None = None
        self._refused = False  # whether the disk did not take it, and it is not tried again yet

    @property
    def last(self) -> Checkpoint | None:
        """The state to go back to."""
        return self._newest if self._remembers else None

    def remember(self, take: Callable[[Spaces | None], Checkpoint]) -> None:
        """Have a checkpoint taken to go back to, and not written.

        `take` copies the run's state over the arrays that it is given, or into new ones. What was `last` may be gone as
        soon as it is called.
        """
        checkpoint = take(self._place())
        with self._lock:
            self._newest = checkpoint

    def keep(self, take: Callable[[Spaces | None], Checkpoint]) -> None:
        """Have a checkpoint taken as by `remember`, and written; a newer one takes its place if that comes before."""
        self.remember(take)
        self.write_last()

    def write_last(self, changed: Callable[[Checkpoint], Checkpoint] = lambda last: last) -> None:
        """Have the newest checkpoint written, `changed` in what is not its numbers.

        Before it the model, if the disk has not taken that yet.
        """
        with self._lock:
            assert self._newest is not None
            checkpoint = self._newest = changed(self._newest)
            refused, self._refused = self._unsaved if self._refused else None, False
        if refused is not None:
            self._writer.submit("model", lambda: self._write(refused), refused.weights)
        self._writer.submit("checkpoint", lambda: self._write_checkpoint(checkpoint), checkpoint.spaces)

    def _place(self) -> Spaces | None:
        """Return the arrays of the newest checkpoint, if nobody is to read them any more."""
        being_written = self._writer.withdraw("checkpoint")
        with self._lock:
            place = self._newest.spaces if self._newest is not None else None
        return None if place is being_written else place

    def save_model(self, take: Callable[[Tensors | None], Model]) -> None:
        """Have a model taken, as checkpoints are, and written."""
        being_written = self._writer.withdraw("model")
        with self._lock:
            place = self._unsaved.weights if self._unsaved is not None else None
            self._refused = False  # it is not written while another is taken
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
        """Say whether there is a checkpoint on disk to go back to."""
        self._writer.flush(_DISK_DEADLINE)
        if self._folder is None or not find_checkpoints(self._folder):
            return "No checkpoint had been written yet"
        return "The last good checkpoint was kept"

    def finish(self, present: Callable[[], Model]) -> Path:
        """Wait until all is written; return the model's file, of the `present` weights if there is no better.

        Raises DiskError if the disk does not take it. The run is over: there is no going back any more.
        """
        assert self._folder is not None
        self._writer.flush(_DISK_DEADLINE)
        self._forget()
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
        self._forget()

    def _forget(self) -> None:
        with self._lock:
            self._newest = None
