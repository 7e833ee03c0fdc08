"""Names of a data frame's columns and rows: both are taken by their places, so their names must be in one order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def column_names(given: Any) -> tuple[str, ...]:
    """Return the names of a data frame's columns; none if it has no columns, or if not all have text as names."""
    columns = getattr(given, "columns", None)
    if columns is None or callable(columns) or not hasattr(given, "__array__"):
        return ()
    names = tuple(columns)
    return tuple(map(str, names)) if all(isinstance(name, str) for name in names) else ()


def other_columns(names: Sequence[str], trained: Sequence[str]) -> str | None:
    """Say in words that columns of features are not those to train on; None if they are, or if either has no names."""
    if not names or not trained or tuple(names) == tuple(trained):
        return None
    if sorted(names) == sorted(trained):
        return (
            "features have the same columns as those to train on, in another order; write features[names], with the "
            f"names in the order of training: {', '.join(map(repr, trained[:8]))}{', ...' if len(trained) > 8 else ''}"
        )
    number = next(
        (n for n, pair in enumerate(zip(names, trained, strict=False)) if pair[0] != pair[1]),
        min(len(names), len(trained)),
    )
    found, wanted = (repr(each[number]) if number < len(each) else "missing" for each in (names, trained))
    return f"column {number} of the features is {found}, of those to train on {wanted}; expected the same columns"


def rows_reordered(images: Any, labels: Any) -> bool:
    """Tell whether images and labels have the same index, as pandas has, in another order."""
    first, second = _index_of(images), _index_of(labels)
    if first.shape != second.shape or first.ndim != 1 or (first == second).all():
        return False
    try:
        return bool((np.sort(first) == np.sort(second)).all())
    except TypeError:  # of names of several types
        return False


def _index_of(given: Any) -> np.ndarray:
    index = getattr(given, "index", None)  # a method of lists
    return np.zeros(0) if index is None or not hasattr(index, "__array__") else np.asarray(index)
