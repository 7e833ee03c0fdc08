"""Features of tables: what may be wrong with their columns and rows though all of them are numbers.

Tables come as arrays, or as data frames, whose columns and rows have names. Training takes both by position, so names
that say otherwise are refused or told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from adam_mp.compute.columns import column_names, other_columns, rows_reordered
from adam_mp.data.reading.account import some
from adam_mp.errors import DataError

_MANY = 20  # samples of which a feature is the label by no chance
_EACH = 4  # samples of each class, on the average, of which features have one value by no chance
_CLEAN = 2  # times as many such features as classes: then they are images or the like, and not the label
_NUMBERED = 40  # samples that have whole numbers of their own, from a range twice as long, by no chance
_TOGETHER = 10  # samples that stand together with others of their class, on the average, by no chance
_TIMES = 20  # values that a time or a number of recordings has at least
_STEPS, _EVEN = 4.5, 0.9  # share of neighbouring values that are so few steps apart where values are counted
_FEWER = 1.5  # times fewer values in float32, from which differences are lost
_LARGEST_SORTED = 20_000  # samples whose values are sorted


def check_columns(parts: Sequence[tuple[str, Any, Any]]) -> None:
    """Raise DataError if data frames, the second of each part, have other columns than the first, or in other order."""
    trained = column_names(parts[0][1])
    for what, given, _ in parts[1:]:
        if (why := other_columns(column_names(given), trained)) is not None:
            raise DataError(f"{what}: {why}")


def rows_apart(parts: Sequence[tuple[str, Any, Any]]) -> list[str]:
    """Return a line for each part whose images and labels have the same index, as pandas has, in another order."""
    return [
        f"{what} images and labels have the same index in another order, and are joined by their places: if they are "
        "to be joined by the index, write labels.loc[images.index]"
        for what, images, labels in parts
        if rows_reordered(images, labels)
    ]


def odd_features(pixels: np.ndarray, labels: np.ndarray, names: Sequence[str], what: str) -> list[str]:
    """Return lines if features [n, 1, 1, f] tell the label of each sample, number the samples, or lose their digits.

    `labels` are plain; `names` are those of the features, or none.
    """
    if pixels.shape[1:3] != (1, 1) or len(labels) < _MANY:
        return []
    rows = pixels[:, 0, 0]
    lines = _lost_digits(rows, names, what)
    told = _label_features(rows, labels) if rows.shape[1] > 1 else []
    if told:
        verb, them = ("tells", "it is") if len(told) == 1 else ("together tell", "they are")
        lines.append(
            f"feature {_called(told, names)} of the {what} data {verb} the label of all {len(labels):,} samples, with "
            f"one value for each class; if {them} not known of new ones, leave it out: {_without(told, names)}"
        )
    if numbered := [feature for feature in _row_numbers(rows) if feature not in told]:
        lines.append(
            f"feature {_called(numbered[:1], names)} of the {what} data has another whole number in each sample, as "
            "row numbers have, which tell the class where samples are sorted; if it is one, leave it out: "
            f"{_without(numbered[:1], names)}"
        )
    elif counted := [feature for feature in _counted_with_classes(rows, labels) if feature not in told]:
        lines.append(
            f"feature {_called(counted[:1], names)} of the {what} data counts up through the samples, as times and "
            "numbers of recordings do, and tells the class, since samples of a class stand together; if it does not "
            f"tell that of new ones, leave it out: {_without(counted[:1], names)}"
        )
    return lines


def _lost_digits(rows: np.ndarray, names: Sequence[str], what: str) -> list[str]:
    """Return a line if features, [n, f], have other values that are the same in float32, in which training computes."""
    if rows.dtype.itemsize <= np.dtype(np.float32).itemsize and not (rows.dtype.kind in "iu" and rows.itemsize == 4):
        return []
    lost = []
    for feature in range(rows.shape[1]):
        column = rows[:_LARGEST_SORTED, feature]
        values = np.unique(column)
        with np.errstate(over="ignore", under="ignore"):
            stored = np.unique(values.astype(np.float32))
        if np.isfinite(stored).all() and len(values) >= _FEWER * len(stored):
            lost.append(feature)
    if not lost:
        return []
    column = rows[:_LARGEST_SORTED, lost[0]]
    different, left = len(np.unique(column)), len(np.unique(column.astype(np.float32)))
    return [
        f"feature {_called(lost, names)} of the {what} data has {different:,} values such as {column[0]!s}; {left:,} "
        "are left in float32, in which training computes, so differences are lost: subtract its mean, or scale it, "
        "in data to predict too"
    ]


def _called(features: Sequence[int], names: Sequence[str]) -> str:
    return some((repr(names[feature]) if names else feature for feature in features), 4)


def _without(features: Sequence[int], names: Sequence[str]) -> str:
    if names:
        return f"features.drop(columns={[names[feature] for feature in features[:4]]})"
    return f"numpy.delete(features, {features[0] if len(features) == 1 else list(features[:4])}, axis=1)"


def _label_features(rows: np.ndarray, labels: np.ndarray) -> list[int]:
    """Return features that have one value for each class, by which classes can be told apart; the fewest that can."""
    _, first, of_class = np.unique(labels, return_index=True, return_inverse=True)
    count = len(first)
    if count < 2 or len(labels) < _EACH * count:
        return []
    values = rows[first]  # [classes, features]
    head = (rows[:_MANY] == values[of_class[:_MANY]]).all(axis=0) & (values != values[0]).any(axis=0)
    found = [n for n in np.flatnonzero(head).tolist() if (rows[:, n] == values[of_class, n]).all()]
    if len(found) > _CLEAN * count:
        return []
    for feature in found:
        if len(np.unique(values[:, feature])) == count:
            return [feature]
    if not found or len(np.unique(values[:, found], axis=0)) < count:
        return []
    return found


def _row_numbers(rows: np.ndarray) -> list[int]:
    """Return features that have another whole number in each sample, of a range that is not much longer."""
    count = len(rows)
    if count < _NUMBERED:
        return []
    head = rows[:_NUMBERED].astype(np.float64)
    whole = (head == np.floor(head)).all(axis=0) & (np.diff(np.sort(head, axis=0), axis=0) > 0).all(axis=0)
    found = []
    for feature in np.flatnonzero(whole).tolist():
        column = rows[:, feature].astype(np.float64)
        if np.ptp(column) < 2 * count and (column == np.floor(column)).all() and len(np.unique(column)) == count:
            found.append(feature)
    return found


def _counted_with_classes(rows: np.ndarray, labels: np.ndarray) -> list[int]:
    """Return features that rise or fall from sample to sample, or have evenly spaced values, one for each sample.

    That is if classes stand together in their order, as samples do that were recorded one class after the other.
    """
    count = len(rows)
    if count < _NUMBERED or rows.shape[1] < 2:
        return []
    _, of_class = np.unique(labels, return_inverse=True)
    least = max(_TIMES, 2 * (int(of_class.max()) + 1))
    head = rows[:_NUMBERED].astype(np.float64)
    steps, gaps = np.diff(head, axis=0), np.diff(np.sort(head, axis=0), axis=0)
    found: set[int] = set()
    if _runs(of_class) <= count / _TOGETHER:
        rising = np.flatnonzero((steps >= 0).all(axis=0) | (steps <= 0).all(axis=0))
        found.update(feature for feature in rising.tolist() if _rises(rows[:, feature], least))
    if least <= count <= _LARGEST_SORTED:
        for feature in np.flatnonzero((gaps > 0).all(axis=0)).tolist():
            column = np.ascontiguousarray(rows[:, feature])
            if _is_even(np.sort(column)) and _runs(of_class[np.argsort(column)]) <= count / _TOGETHER:
                found.add(feature)
    return sorted(found)


def _rises(column: np.ndarray, least: int) -> bool:
    """Tell whether values only rise, or only fall, from sample to sample, and are `least` different ones."""
    steps = np.diff(column.astype(np.float64))
    return bool((steps >= 0).all() or (steps <= 0).all()) and int(np.count_nonzero(steps)) + 1 >= least


def _runs(of_class: np.ndarray) -> int:
    """Return in how many pieces of one class the samples stand."""
    return int(np.count_nonzero(np.diff(of_class))) + 1


def _is_even(column: np.ndarray) -> bool:
    """Tell whether sorted values are all different, and whole steps apart, most of them a few."""
    gaps = np.diff(column.astype(np.float64))
    if gaps.min() <= 0:
        return False
    steps = gaps / gaps.min()
    return bool((np.abs(steps - np.round(steps)) < 1e-3 * steps).all() and np.mean(steps < _STEPS) >= _EVEN)
