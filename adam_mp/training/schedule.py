"""The learning rate over a run: a number, or a formula of where the run stands."""

from __future__ import annotations

import dataclasses

from adam_mp.compute.expression import evaluate_number, names_in

NAMES = ("epoch", "epochs", "step", "progress")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """`rate` is a number or a checked formula over `NAMES`; `steps_per_epoch` updates make an epoch."""

    rate: float | str
    epochs: int
    steps_per_epoch: int

    @property
    def follows_steps(self) -> bool:
        """Whether the rate changes within an epoch."""
        return isinstance(self.rate, str) and not names_in(self.rate).isdisjoint({"step", "progress"})

    def value(self, epoch: int, step: int) -> float:
        """Return the learning rate in `epoch` (from 0), before update number `step` (from 0) of the run."""
        if not isinstance(self.rate, str):
            return float(self.rate)
        progress = min(1.0, step / (self.epochs * self.steps_per_epoch))
        return evaluate_number(
            self.rate, {"epoch": epoch, "epochs": self.epochs, "step": step, "progress": progress}
        )  # fmt: skip
