"""What the coordinator said last, and what a replica keeps of what it said before. Pure data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from adam_mp.training.folder.figures import Sums


@dataclasses.dataclass(frozen=True)
class News:
    """The facts of the coordinator's last answer, as plain values; `finished` are epochs that ended, one entry each.

    The coordinator names an epoch's end only as long as it expects that a replica needs it, and a restarted one has
    forgotten it. So a replica keeps the entries from its own epoch on.
    """

    facts: Mapping[str, Any]

    def followed_by(self, facts: Mapping[str, Any], epoch: int) -> News:
        """Return the news after an answer with these `facts`, to a replica whose own epoch is `epoch`."""
        known = {entry["epoch"] for entry in facts["finished"]}
        # A replica that joined again gets no entry of the epoch that it is closing: it is kept from before.
        kept = [e for e in self.finished if e["epoch"] >= epoch and e["epoch"] not in known]
        return News({**facts, "finished": [*kept, *facts["finished"]]})

    @property
    def epoch(self) -> int:
        """The epoch that the run trains."""
        return int(self.facts["epoch"])

    @property
    def leads(self) -> bool:
        """Whether this replica validates for all."""
        return bool(self.facts.get("leader"))

    @property
    def map(self) -> dict[str, Any]:
        """The bucket map, as plain values."""
        return dict(self.facts["map"])

    @property
    def finished(self) -> list[Mapping[str, Any]]:
        """Epochs that have ended, with their images."""
        return list(self.facts["finished"])

    @property
    def pulse(self) -> tuple[int, ...]:
        """Numbers of which one changes whenever the run gets on."""
        return tuple(int(self.facts[name]) for name in ("epoch", "trained", "updates"))

    def trained(self, epoch: int) -> int:
        """Return how many images of an epoch are trained, by all replicas."""
        return int(self.facts["trained"]) if self.epoch == epoch else self._ended(epoch, "trained")

    def sums(self, epoch: int) -> Sums:
        """Return the images of an epoch, by all replicas."""
        if self.epoch == epoch:
            return _sums({**self.facts, "skipped": 0})
        return _sums({name: self._ended(epoch, name) for name in ("trained", "skipped", "failed")})

    def trained_since(self, before: News) -> int:
        """Return how many images all replicas trained since they were at an earlier news.

        Less than 0 where the coordinator knows of fewer than it did: it was restarted, and is told the rest again.
        """
        if self.epoch < before.epoch:
            return self.epoch - before.epoch
        ended = sum(_sums(entry).trained for entry in self.finished if before.epoch <= entry["epoch"] < self.epoch)
        return ended + _present(self.facts) - _present(before.facts)

    def missed(self, epoch: int) -> list[tuple[int, Sums]]:
        """Return epoch and images of those that ended after `epoch`."""
        return [(int(entry["epoch"]), _sums(entry)) for entry in self.finished if entry["epoch"] > epoch]

    def _ended(self, epoch: int, what: str) -> int:
        return next((int(entry[what]) for entry in self.finished if entry["epoch"] == epoch), 0)


def _present(facts: Mapping[str, Any]) -> int:
    """Return the images of the epoch that the run trains, as far as it is trained."""
    return _sums({**facts, "skipped": 0}).trained


def _sums(entry: Mapping[str, Any]) -> Sums:
    """Return the images of an epoch as the coordinator tells them: all of its trained batches are `trained` there."""
    failed = int(entry["failed"])
    return Sums(int(entry["trained"]) - failed, int(entry["skipped"]), failed)
