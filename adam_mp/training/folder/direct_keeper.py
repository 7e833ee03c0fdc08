"""The keeper of a run whose weights lie on several machines: it writes checkpoints and the best model at once.

It copies nothing, because no machine may have room for all of the model. Training waits meanwhile; each tensor goes
from the machines that have it into the file. What the file of the newest checkpoint has is the state to go back to.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from adam_mp.compute.model import MODEL_FILE, Model, Tensors, write_model
from adam_mp.errors import DiskError, refusal
from adam_mp.training.folder.checkpoint import (
    Checkpoint,
    Spaces,
    StoredCheckpoint,
    find_checkpoints,
    read_checkpoint,
    write_checkpoint,
)


class DirectKeeper:
    """Writes to `folder`; has the methods of `Keeper`. `notice` takes lines for the user."""

    def __init__(self, folder: Path, notice: Callable[[str], None]) -> None:
        self._folder, self._notice = folder, notice
        self._newest: Checkpoint | None = None  # that the disk took; its arrays are those that training changes
        self._refused: set[str] = set()  # what the disk refused last

    @property
    def last(self) -> StoredCheckpoint:
        """The newest checkpoint in the folder. Raises CheckpointError if there is none."""
        return read_checkpoint(self._folder)

    def remember(self, take: Callable[[Spaces | None], Checkpoint]) -> None:
        """Write a checkpoint to go back to."""
        self.keep(take)

    def keep(self, take: Callable[[Spaces | None], Checkpoint]) -> None:
        """Write a checkpoint."""
        checkpoint = take(None)
        if self._try("checkpoint", lambda: write_checkpoint(self._folder, checkpoint)):
            self._newest = checkpoint

    def write_last(self, changed: Callable[[Checkpoint], Checkpoint] = lambda last: last) -> None:
        """Write the newest checkpoint again, after `changed` replaced fields of it; training went back to it."""
        assert self._newest is not None, "a run goes back to a checkpoint that it has written"
        checkpoint = changed(self._newest)
        self.keep(lambda _: checkpoint)

    def save_model(self, take: Callable[[Tensors | None], Model]) -> None:
        """Write the best model."""
        model = take(None)
        self._try("model", lambda: write_model(self._folder / MODEL_FILE, model))

    def _try(self, what: str, write: Callable[[], object]) -> bool:
        """Write; return whether the disk took it, and tell the user when that changes."""
        try:
            write()
        except OSError as error:
            if what not in self._refused:
                self._notice(f"cannot write {what}: {refusal(error)}; the run goes on without it, and tries again")
            self._refused.add(what)
            return False
        if what in self._refused:
            self._notice(f"{what} is written again")
        self._refused.discard(what)
        return True

    def say_what_is_kept(self) -> str:
        """Return a sentence for the user that says whether a checkpoint is on disk."""
        if not find_checkpoints(self._folder):
            return "No checkpoint had been written yet"
        return "The last good checkpoint was kept"

    def finish(self, present: Callable[[], Model]) -> Path:
        """Return the path of the model's file; if no epoch was finished, write the `present` weights.

        Raises DiskError if the disk refuses the model.
        """
        path = self._folder / MODEL_FILE
        if "model" in self._refused or not path.exists():
            try:
                write_model(path, present())
            except OSError as error:
                todo = "once it can be written, use --resume"
                raise DiskError(f"cannot write {path}: {refusal(error)}; {todo}") from None
        return path

    def close(self) -> None:
        """Forget the newest checkpoint."""
        self._newest = None
