"""How far a run has come: its current epoch, which batches of it are trained, and how the epochs before it ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from adam_mp.errors import several
from adam_mp.memory.ledger import TRAINED
from adam_mp.params.run.epoch_batches import EpochBatches
from adam_mp.params.run.news import ENDED, EndedEpoch
from adam_mp.params.run.run_facts import RunFacts
from adam_mp.transport.forms import read
from adam_mp.transport.refusal import RefusedError


class Course:
    """The epochs of a run. `facts` are what all replicas agreed on, None before the first replica has joined.

    `now` is the time by the clock, in seconds.
    """

    def __init__(self) -> None:
        self.facts: RunFacts | None = None
        self.epoch = 0
        self.batches = EpochBatches()  # of `epoch`
        self.finished: list[EndedEpoch] = []
        self._opened: float | None = None  # when the epoch began; None if that was before a restart

    @property
    def phase(self) -> str:
        """One of "waiting" (for servers or a first replica), "training", "done"."""
        if self.facts is None:
            return "waiting"
        return "done" if self.epoch >= self.facts.epochs else "training"

    @property
    def trained(self) -> int:
        """How many images of the current epoch are trained."""
        return self.batches.images_in(TRAINED)

    @property
    def failed(self) -> int:
        """How many images in the trained batches could not be read, and so were left out."""
        return sum(self.batches.failed.values())

    def begin(self, facts: RunFacts, epoch: int, now: float) -> None:
        """Begin the run in `epoch`, or in its last epoch if it has fewer."""
        self.facts = facts
        self._open(min(epoch, facts.epochs - 1), now)

    def catch_up(self, epoch: int, finished: Sequence[EndedEpoch], now: float) -> bool:
        """Go on to `epoch`, which a replica says that it is in; `finished` are the epochs that it says have ended.

        A restarted coordinator needs this: its snapshot may be older than the end of the last epoch. Return whether
        the replica was ahead of the coordinator.
        """
        if self.facts is None or not self.epoch < epoch <= self.facts.epochs:
            return False
        self.finished += [entry for entry in finished if self.epoch <= entry.epoch < epoch]
        self._open(epoch, now)
        return True

    def end_epoch_at_quorum(self, now: float) -> str | None:
        """End the epoch if enough images are trained for the quorum; return a line about it, None if it goes on."""
        if self.facts is None or self.phase == "done":
            return None
        trained, epoch = self.trained, self.epoch
        if trained < math.ceil(self.facts.quorum * self.facts.images):
            return None
        skipped, twice = self.facts.images - trained, self.batches.twice
        self.finished.append(EndedEpoch(epoch, trained, skipped, self.failed, twice))
        took = "" if self._opened is None else f" in {now - self._opened:,.1f} s"
        self._open(epoch + 1, now)
        return f"epoch {epoch + 1} of {self.facts.epochs}: {several(trained, 'image')}{took}"

    def snapshot(self) -> dict[str, Any]:
        """Return what must outlive the process, as plain values."""
        facts = self.facts.as_dict() if self.facts else None
        return {
            "epoch": self.epoch, "finished": ENDED.write(self.finished), "facts": facts,
            "trained": self.batches.done(), "failed": sorted(self.batches.failed.items()),
        }  # fmt: skip

    @classmethod
    def restored(cls, facts: Mapping[str, Any]) -> Course:
        """Rebuild the course from its snapshot.

        Raises KeyError, TypeError, ValueError or a child of AdamError if the snapshot is malformed.
        """
        self = cls()
        self.finished = list(ENDED.read(facts["finished"], {}))
        if facts["facts"]:
            self.facts = read(RunFacts, facts["facts"], RefusedError)
            self._open(int(facts["epoch"]), 0.0)
            self.batches.restore(facts["trained"], {int(b): int(images) for b, images in facts.get("failed", [])})
            self._opened = None
        return self

    def _open(self, epoch: int, now: float) -> None:
        assert self.facts is not None
        self.epoch, self._opened = epoch, now
        self.batches = EpochBatches(self.facts.batches, self.facts.batch_size, self.facts.images)
