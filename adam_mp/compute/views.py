"""Views of an image: the picture itself, its mirror image, and both shifted. A network is asked about each view.

The scores of all views become one: their weighted mean, before the softmax, as in the multi-crop evaluation of Jordan
2024, *94% on CIFAR-10 in 3.29 Seconds*, section 3.5, whose code averages outputs of the network. So a view that is
sure counts for more than one that is not, and a score has one meaning whatever the number of views.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from adam_mp.compute.context import Program, TrainingContext
from adam_mp.errors import SettingsError, shown
from adam_mp.kernels.loss import softmax_cross_entropy

ONE = "one"
_EXPECTED = "reflect, shift=N, such as shift=1, both, such as 'reflect,shift=1', or one"
_SHIFT = re.compile(r"shift=([1-9]\d{0,3})")


@dataclasses.dataclass(frozen=True)
class View:
    """A view: the picture shifted by so many whole pixels down and to the right, then mirrored left to right or not.

    `weight` is its part in the mean; those of all views together are 1.
    """

    weight: float = 1.0
    shift: int = 0
    mirrored: bool = False


ONLY = (View(),)  # the picture itself


def parse_views(text: Any, shape: tuple[int, ...] | None = None) -> tuple[View, ...]:
    """Return the views of pictures of `shape` that `--views` asks for.

    `reflect` adds the mirror image to each view. `shift=N` adds the picture shifted by N pixels up and to the left, and
    by N down and to the right; these two have together the weight of the picture that is not shifted. Raises
    SettingsError if the text is wrong, or if such pictures have no such views; without a `shape`, any has them.
    """
    if text == ONE:
        return ONLY
    parts = [part.strip() for part in text.split(",")] if isinstance(text, str) else []
    shifts = [int(match[1]) for part in parts if (match := _SHIFT.fullmatch(part))]
    reflect = "reflect" in parts
    if not parts or len(shifts) > 1 or len(parts) != len(shifts) + reflect:
        raise SettingsError(f"--views is {shown(text)}; expected {_EXPECTED}")
    height, width, _ = shape or (math.inf, math.inf, 1)
    if height == width == 1:
        raise SettingsError(f"--views is {shown(text)}, but features have no other views; leave it out")
    if shifts and shifts[0] >= min(height, width):
        raise SettingsError(
            f"--views is {shown(text)}, but the network takes pictures of {height}x{width}; expected a shift below "
            f"{min(height, width)}"
        )
    views = [View()]
    if shifts:
        views = [View(0.5), View(0.25, -shifts[0]), View(0.25, shifts[0])]
    if reflect:
        views = [View(view.weight / 2, view.shift, mirrored) for view in views for mirrored in (False, True)]
    return tuple(views)


def write_view(view: View, pictures: np.ndarray, out: np.ndarray) -> None:
    """Write a view of `pictures` into `out`, both [n, h, w, c].

    Beyond its border a picture is its mirror image, without the border's own pixels doubled: position -1 is 1, as
    numpy's `np.pad(..., mode="reflect")` has it.
    """
    seen = pictures
    if view.shift:
        rows, columns = (_positions(size, view.shift) for size in pictures.shape[1:3])
        seen = pictures[:, rows[:, None], columns]
    out[...] = seen[:, :, ::-1] if view.mirrored else seen


def _positions(size: int, shift: int) -> np.ndarray:
    """Return which position of the picture each position of a view shows, along an axis of `size` pixels."""
    positions = np.abs(np.arange(size) - shift)
    inside: np.ndarray = np.minimum(positions, 2 * (size - 1) - positions)
    return inside


class ViewScores:
    """Computes the scores of pictures over `views`, with a context that nothing else uses meanwhile."""

    def __init__(self, context: TrainingContext, views: tuple[View, ...]) -> None:
        self._context, self._views = context, views
        self._seen: np.ndarray = np.zeros((context.batch, *context.network.input_shape), np.float32)
        self._programs: dict[int, Program] = {}  # number of pictures -> program

    def of(self, pictures: np.ndarray) -> np.ndarray:
        """Return the mean scores, float32 [n, classes], of finished `pictures` [n, h, w, c], at most a whole batch.

        They depend on nothing but pictures and weights: views are added in their order.
        """
        return mean_scores(self._views, pictures, self._seen, self._score)

    def _score(self, count: int) -> np.ndarray:
        program = self._programs.get(count)
        if program is None:
            program = self._programs[count] = self._context.program(self._seen[:count], None, training=False)
        program.run_forward()
        return program.scores


def mean_scores(
    views: Sequence[View], pictures: np.ndarray, seen: np.ndarray, score: Callable[[int], np.ndarray]
) -> np.ndarray:
    """Return the mean scores, float32 [n, classes], of `pictures` [n, h, w, c] over `views`.

    Each view is written into `seen`, at least [n, h, w, c]; `score(n)` returns the scores of its first n pictures.
    """
    count, mean = len(pictures), None
    for view in views:
        write_view(view, pictures, seen[:count])
        part = np.float32(view.weight) * score(count)
        mean = part if mean is None else mean + part
    assert mean is not None, "there is at least one view"
    return mean


def measure(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return [sum of losses, how many are right] of `scores` [n, classes] with `labels` int32 [n]."""
    totals = np.zeros(2)
    softmax_cross_entropy(scores, labels, np.zeros_like(scores), totals, 0.0, np.zeros(1))
    return totals
