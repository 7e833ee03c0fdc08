"""Averages of weights, as `--average` says, which a run validates, tests and saves in place of the weights.

`ema:0.999` is an exponential moving average over updates, `last:5` the mean of the weights at the ends of the last five
epochs (stochastic weight averaging, Izmailov et al. 2018, algorithm 1 with a cycle of one epoch).
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from adam_mp.errors import SettingsError, shown

NONE = "none"
AVERAGE = "average-of-weights"  # the store's space for it; no optimizer state is called so: it is no Python name
_EXPECTED = "ema:D, such as ema:0.999, last:N, such as last:5, or none"
_LARGEST_DECAY = 0.99999  # with a larger one, float32 loses so small a step towards the weights
_FORM = re.compile(r"(ema|last):([0-9.e+-]+)")
_MOST_APART = 32  # updates between two moves; a move reads and writes all of the average
_PART_OF_SPAN = 10  # moves in the span of the average, 1 / (1 - decay) updates, at least
_FIRST = 64  # updates for which, at most doubled, the average moves at every update
_WARM_UP = 9  # of TensorFlow's warm-up, see `kept`


@dataclasses.dataclass(frozen=True)
class Average:
    """What is averaged: with a `decay`, the weights after all updates, else those at the ends of the last `epochs`."""

    decay: float | None = None
    epochs: int = 0

    @property
    def moves(self) -> bool:
        """Whether the average moves with the updates, not only at the ends of epochs."""
        return self.decay is not None

    def moves_at(self, update: int) -> bool:
        """Tell whether the average moves at the `update`-th update, counted from 1."""
        return self.moves and update % self._apart(update) == 0

    def last_move(self, update: int) -> int:
        """Return the update of the move before the one at `update`, 0 for none; the average moves at `update`."""
        return update - self._apart(update)

    def _apart(self, update: int) -> int:
        """Return how many updates lie between two moves: a power of two, that grows from 1 with the updates.

        The span of an average that is warming up is a ninth of the updates so far; the distance stays a small part of
        that.
        """
        assert self.decay is not None
        span = 1 / (1 - self.decay)
        most = min(_MOST_APART, max(1, int(span / _PART_OF_SPAN)))
        now = max(1, (update - 1) // _FIRST)
        return 1 << (min(most, now).bit_length() - 1)

    def kept(self, before: int, after: int) -> float:
        """Return what the average keeps of itself when it moves at update `after` and has moved at `before` last.

        That is the product of `min(decay, (1 + t) / (10 + t))` for t from `before` to `after - 1`, TensorFlow's warm-up
        (`ExponentialMovingAverage`, `num_updates`): of the first weights nothing is left after a few updates.
        """
        assert self.decay is not None
        if after <= before:  # the count has gone back
            return 1.0
        # (1 + t) / (10 + t) < decay before this t. The product of these factors is one of _WARM_UP quotients.
        full = (10 * self.decay - 1) / (1 - self.decay)
        middle = min(max(math.ceil(full), before), after)
        warming = math.prod((before + each) / (middle + each) for each in range(1, _WARM_UP + 1))
        return warming * self.decay ** (after - middle)

    def of_epochs(self, epoch: int, epochs: int, averaged: int) -> int:
        """Return how many epochs are in the average with `epoch`, which ends now; 0 if it is before the last ones.

        Epochs count from 0; `epochs` is how many the run has, `averaged` how many were in the average before. One that
        has epochs before the last ones, because the run was resumed with other settings, begins anew.
        """
        first = epochs - self.epochs
        if epoch < first:
            return 0
        return averaged + 1 if epoch - averaged >= first else 1


def parse_average(text: Any, epochs: int) -> Average | None:
    """Return what `--average` asks for in a run of so many `epochs`, None for no average; raises SettingsError."""
    if text == NONE:
        return None
    match = _FORM.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise SettingsError(f"--average is {shown(text)}; expected {_EXPECTED}")
    kind, given = match.groups()
    try:
        number = float(given)
    except ValueError:
        raise SettingsError(f"--average is {shown(text)}; expected {_EXPECTED}") from None
    if kind == "ema":
        if not 0 < number <= _LARGEST_DECAY:
            raise SettingsError(f"--average is {shown(text)}; expected ema of more than 0 and up to {_LARGEST_DECAY}")
        return Average(number)
    if not number.is_integer() or number < 2:
        raise SettingsError(f"--average is {shown(text)}; expected last of a whole number of epochs, at least 2")
    if number > epochs:
        raise SettingsError(f"--average is {shown(text)}, but --epochs is {epochs}; give at most last:{epochs}")
    return Average(epochs=int(number))
