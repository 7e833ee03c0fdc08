"""The schedule of the learning rate: a number, or a formula over how far the run is."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from adam_mp.compute.expression import evaluate_numbers, names_in
from adam_mp.errors import SettingsError, shown
from adam_mp.kernels.update import RULES
from adam_mp.training.settings.shapes import without_shapes

NAMES = ("epoch", "epochs", "step", "progress", "warmup")
_WARMUP_STEPS, _WARMUP_SHARE = 300, 0.5
_MOST_CHECKED = 1000  # epochs whose rates are checked
_BLOCK = 512  # updates whose rates are computed at once
_LARGE_LOSS = 1.25  # times the loss of guessing


def share_of_rate(loss: float, classes: int) -> float:
    """Return the share of the learning rate, at most 1, with which a batch of mean `loss` is trained.

    The loss of guessing is ln(classes), also with smoothed labels. A loss well above it shows that earlier updates went
    too far. The gradient is then large for the same reason, and a full update would go further still: early in a run,
    weights become infinite that way.
    """
    bound = _LARGE_LOSS * math.log(classes)
    return 1.0 if loss <= bound else bound / loss


def default_rate(optimizer: str, of_means: bool) -> str:
    """Return the default learning rate of an optimizer by its name; a formula has that of plain descent.

    `of_means` is whether the network's scores are those of means behind norms (`Network.scores_means`). Such means
    differ little from image to image, so gradients are small at first, and plain descent needs a higher rate. Rules
    that divide by the size of the gradient do not.
    """
    rule = RULES.get(optimizer, RULES["sgd"])
    return f"{(of_means and rule.rate_of_means) or rule.rate} * warmup * (1 - progress)"


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate of every update: `rate` is a number, or a checked formula over `NAMES` and `shapes.SHAPES`.

    An epoch has `steps_per_epoch` updates. In a formula, `epoch` and `step` count from 0; `progress` goes from 0 to 1
    over the run, and `warmup` from 0 to 1 over the first 300 updates, or over the first half of a shorter run: stale
    updates do the most harm while the weights still change fast.
    """

    rate: float | str
    epochs: int
    steps_per_epoch: int

    @property
    def follows_steps(self) -> bool:
        """Whether the rate changes within an epoch."""
        names = names_in(without_shapes(self.rate)) if isinstance(self.rate, str) else set()
        return not names.isdisjoint({"step", "progress", "warmup"})

    def value(self, epoch: int, step: int) -> float:
        """Return the learning rate in `epoch` (from 0) of update number `step` (from 0) of the run."""
        return float(self.values(epoch, np.array([step]))[0])

    def values(self, epoch: int, steps: np.ndarray) -> np.ndarray:
        """Return the learning rates of the updates of numbers `steps` [n] in `epoch`, float64 [n]."""
        if not isinstance(self.rate, str):
            return np.full(len(steps), float(self.rate))
        total = self.epochs * self.steps_per_epoch
        names: dict[str, float | np.ndarray] = {
            "epoch": epoch,
            "epochs": self.epochs,
            "step": steps,
            "progress": np.minimum(1.0, steps / total),
            "warmup": np.minimum(1.0, (steps + 1) / min(_WARMUP_STEPS, max(1.0, _WARMUP_SHARE * total))),
        }
        return np.broadcast_to(evaluate_numbers(without_shapes(self.rate), names), len(steps))

    def check(self) -> None:
        """Raise SettingsError if the formula fails, or its rate is negative or not finite.

        The first, middle and last update of each epoch are tried; of more than 1000 epochs, 1000 are.
        """
        if not isinstance(self.rate, str):
            return
        by_steps = self.follows_steps
        epochs = range(self.epochs) if self.epochs <= _MOST_CHECKED else np.linspace(0, self.epochs - 1, _MOST_CHECKED)
        for epoch in map(int, epochs):
            first = epoch * self.steps_per_epoch
            last = first + self.steps_per_epoch - 1
            for step in (first, (first + last) // 2, last) if by_steps else (first,):
                place = f"--lr {shown(self.rate)} in epoch {epoch} (from 0)" + (f", update {step}" if by_steps else "")
                try:
                    rate = self.value(epoch, step)
                except (ArithmeticError, ValueError, TypeError) as error:
                    raise SettingsError(f"{place} fails: {error}; expected a learning rate of at least 0") from None
                if not (math.isfinite(rate) and rate >= 0):
                    raise SettingsError(f"{place} is {rate:g}; expected a learning rate of at least 0")


class Rates:
    """A schedule's learning rates, for a process that asks for those of one update after another.

    numexpr takes as long for one update as for a block of them, so `value` computes the rates of a block at once.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._epoch, self._first = -1, 0
        self._values: list[float] = []  # of the updates from `_first` on, in `_epoch`

    def value(self, epoch: int, step: int) -> float:
        """Return `Schedule.value(epoch, step)`."""
        place = step - self._first
        if epoch != self._epoch or not 0 <= place < len(self._values):
            self._epoch, self._first, place = epoch, step, 0
            self._values = self._schedule.values(epoch, np.arange(step, step + _BLOCK)).tolist()
        return self._values[place]
