"""What the coordinator has told a replica: its last answer, and the ended epochs of earlier ones. Pure data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from adam_mp.training.folder.figures import Sums


@dataclasses.dataclass(frozen=True)
class News:
    """The coordinator's last answer, as plain values (the fields of `params.run.news.News`).

    The coordinator names an ended epoch in `finished` only while it expects that a replica needs that entry, and after
    a restart it may have lost the entry. So a replica keeps the entries of earlier answers, from its own epoch on.
    """

    answer: Mapping[str, Any]

    def followed_by(self, answer: Mapping[str, Any], epoch: int) -> News:
        """Return the news after a further `answer`, to a replica whose own epoch is `epoch`."""
        named = {entry["epoch"] for entry in answer["finished"]}
        # The answer to a replica that joined again does not name the epoch that this replica is closing.
        kept = [e for e in self.finished if e["epoch"] >= epoch and e["epoch"] not in named]
        return News({**answer, "finished": [*kept, *answer["finished"]]})

    @property
    def epoch(self) -> int:
        """The epoch that the run trains."""
        return int(self.answer["epoch"])

    @property
    def leads(self) -> bool:
        """Whether this replica validates for all replicas."""
        return bool(self.answer.get("leader"))

    @property
    def map(self) -> dict[str, Any]:
        """The bucket map, as plain values."""
        return dict(self.answer["map"])

    @property
    def finished(self) -> list[Mapping[str, Any]]:
        """One entry for each epoch that has ended: `epoch`, and its images `trained`, `skipped` and `failed`."""
        return list(self.answer["finished"])

    @property
    def pulse(self) -> tuple[int, ...]:
        """Numbers of which at least one changes whenever the run makes progress."""
        return tuple(int(self.answer[name]) for name in ("epoch", "trained", "updates"))

    def trained(self, epoch: int) -> int:
        """Return how many images of an epoch all replicas have trained."""
        return int(self.answer["trained"]) if self.epoch == epoch else self._ended(epoch, "trained")

    def sums(self, epoch: int) -> Sums:
        """Return the images of an epoch, by all replicas."""
        if self.epoch == epoch:
            return _sums({**self.answer, "skipped": 0})
        return _sums({name: self._ended(epoch, name) for name in ("trained", "skipped", "failed")})

    def trained_since(self, before: News) -> int:
        """Return how many images all replicas trained between the news `before` and these.

        The result is below 0 if the coordinator was restarted and knows of fewer trained images than before; replicas
        tell it of the others again. If the end of an epoch is not known, no image of it counts here.
        """
        if self.epoch < before.epoch:
            return self.epoch - before.epoch
        ends = {entry["epoch"]: _sums(entry).trained for entry in self.finished if entry["epoch"] < self.epoch}
        ends[self.epoch] = _trained_so_far(self.answer)
        trained = sum(images for epoch, images in ends.items() if epoch >= before.epoch)
        return trained - (_trained_so_far(before.answer) if before.epoch in ends else 0)

    def missed(self, epoch: int) -> list[tuple[int, Sums]]:
        """Return (epoch, its images) for the ended epochs after `epoch`."""
        return [(int(entry["epoch"]), _sums(entry)) for entry in self.finished if entry["epoch"] > epoch]

    def _ended(self, epoch: int, what: str) -> int:
        return next((int(entry[what]) for entry in self.finished if entry["epoch"] == epoch), 0)


def _trained_so_far(answer: Mapping[str, Any]) -> int:
    """Return how many images of the present epoch the replicas have trained."""
    return _sums({**answer, "skipped": 0}).trained


def _sums(entry: Mapping[str, Any]) -> Sums:
    """Return the images of an epoch; in the coordinator's `entry`, `trained` counts the failed images too."""
    failed = int(entry["failed"])
    return Sums(int(entry["trained"]) - failed, int(entry["skipped"]), failed)
