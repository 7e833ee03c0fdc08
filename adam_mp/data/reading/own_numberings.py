"""Numberings of classes that a user's object keeps for itself: a mapping such as `label2idx`, an encoder, its files.

Objects often number the classes that they find. One to test on, which lacks a class or lists them in another order,
then has other numbers for the same classes than the one to train on. If both keep a numbering at the same place, and
the two differ, labels are matched by its names.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections import UserDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from numbers import Integral
from types import FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np

from adam_mp.data.reading.labels import class_name

_DEEPEST = 6  # objects in objects
_MOST_PLACES = 1000  # where a numbering may be
_MOST_FIELDS = 100  # of a mapping or an object
_MOST_CLASSES = 10_000
_LOOKED_AT = 2000  # items whose names are looked at, beyond one of each class
_SHOWN = 3  # classes that a line shows
_MAPPINGS = (dict, UserDict, MappingProxyType)  # others may read a file for each value
_NO_OBJECTS = (str, bytes, bytearray, int, float, complex, type, ModuleType, FunctionType, MethodType, type(None))


@dataclasses.dataclass(frozen=True)
class Renumbering:
    """How to number an object's classes as another does: class `old[i]` is `new[i]` there. `line` tells the user."""

    old: np.ndarray
    new: np.ndarray
    line: str

    def of(self, labels: np.ndarray) -> np.ndarray:
        """Return labels [n] with the other object's numbers."""
        return self.new[np.searchsorted(self.old, labels)]


@dataclasses.dataclass(frozen=True)
class NumberedItems:
    """An object, the numbers of its items that have a label, and their plain labels. Lines call it `what`."""

    dataset: Any
    numbers: np.ndarray
    labels: np.ndarray
    what: str

    @cached_property
    def present(self) -> tuple[np.ndarray, np.ndarray]:
        """The labels that there are, sorted, and the place of the first item of each."""
        found = np.unique(self.labels, return_index=True)
        return found[0], found[1]


def numbered_apart(trained: NumberedItems, other: NumberedItems) -> Renumbering | None:
    """Return how to number the classes of `other` as those to train on; None if they are numbered alike.

    That is told only from a numbering that names exactly the classes to train on, and no class of `other` that is
    none of these. Numberings at the same place count first, then those of the same name. If one of `other` is the same
    as one to train on, it holds.
    """
    if trained.dataset is other.dataset or any(each.labels.dtype.kind not in "iu" for each in (trained, other)):
        return None
    present, _ = other.present
    exact = {len(trained.present[0]), int(trained.labels.max(initial=-1)) + 1}
    first = [each for each in _numberings(trained) if len(each[1]) in exact]
    others = list(_numberings(other)) if first else []
    found: dict[int, Renumbering | None] = {}
    for (place, names), (own_place, own) in itertools.product(first, others):
        if {*own.values()} <= {*names.values()}:
            number_of = {name: number for number, name in names.items()}
            new = np.array([number_of[own[number]] for number in present.tolist()], np.int64)
            near = 0 if place == own_place else 1 if _last(place) == _last(own_place) else 2
            line = _line(own_place, trained, other, own, number_of)
            found.setdefault(near, Renumbering(present, new, line))
            if (new == present).all():
                found[near] = None
    return found[min(found)] if found else None


def joined_apart(items: NumberedItems, joined: Sequence[Any]) -> bool:
    """Tell whether objects that `items` joins, one after the other, keep numberings of classes that differ."""
    ends = np.cumsum([0, *map(len, joined)])
    if ends[-1] != len(items.dataset):
        return False
    parts = []
    for inner, begin, end in zip(joined, ends, ends[1:], strict=False):
        chosen = (items.numbers >= begin) & (items.numbers < end)
        if chosen.any():
            parts.append(NumberedItems(inner, items.numbers[chosen] - begin, items.labels[chosen], items.what))
    parts.sort(key=lambda part: -len(part.present[0]))
    return any(numbered_apart(parts[0], other) is not None for other in parts[1:])


def _last(place: str) -> str:
    return place.rpartition(".")[2]


def _line(
    place: str, trained: NumberedItems, other: NumberedItems, own: Mapping[int, str], number_of: Mapping[str, int]
) -> str:  # fmt: skip
    apart = [(name, number) for number, name in sorted(own.items()) if number_of[name] != number][:_SHOWN]
    here = ", ".join(f"{name} is {number}" for name, number in apart)
    there = ", ".join(f"{name} is {number_of[name]}" for name, _ in apart)
    return (
        f"the {other.what} data number classes differently from the {trained.what} data (.{place}: {here}; there "
        f"{there}): their labels are matched by these names"
    )


def _numberings(items: NumberedItems) -> Iterator[tuple[str, dict[int, str]]]:
    """Yield (place, names by number) of each value in an object that names all classes of its items."""
    present = items.present[0].tolist()
    for place, value in itertools.islice(_values_in(items.dataset), _MOST_PLACES):
        names = _names_in(value, items)
        if 1 < len(names) <= _MOST_CLASSES and names.keys() >= {*present} and len({*names.values()}) == len(names):
            yield place, names


def _values_in(given: Any) -> Iterator[tuple[str, Any]]:
    """Yield (place, value) of what an object keeps, and of what these keep, those of few places first."""
    waiting: list[tuple[str, Any, int]] = [("", given, 0)]
    seen = {id(given)}
    while waiting:
        place, value, depth = waiting.pop(0)
        for name, inner in itertools.islice(_fields_of(value), _MOST_FIELDS):
            at = f"{place}.{name}" if place else name
            if id(inner) in seen or isinstance(inner, _NO_OBJECTS):
                continue
            seen.add(id(inner))
            yield at, inner
            if depth < _DEEPEST:
                waiting.append((at, inner, depth + 1))


def _fields_of(given: Any) -> Iterable[tuple[str, Any]]:
    """Return the named things that an object, a mapping or a data frame holds."""
    try:
        if hasattr(given, "columns") and hasattr(given, "iloc"):
            return [(str(name), given[name]) for name in list(given.columns)[:_MOST_FIELDS]]
        if isinstance(given, _MAPPINGS):
            return [(name, given[name]) for name in itertools.islice(given, _MOST_FIELDS) if isinstance(name, str)]
        if isinstance(given, (list, tuple, set, frozenset)) or hasattr(given, "__array__"):
            return ()
        slots = {name for kind in type(given).__mro__ for name in getattr(kind, "__slots__", ())}
        return [
            *getattr(given, "__dict__", {}).items(),
            *((name, getattr(given, name, None)) for name in sorted(slots)),
        ]
    except Exception:  # of a file that is closed, for example, or without fields
        return ()


def _names_in(value: Any, items: NumberedItems) -> dict[int, str]:
    """Return the names by number that a value gives to classes: a mapping, a list of names, or names of the items."""
    try:
        if isinstance(value, _MAPPINGS):
            return _of_mapping(value)
        if isinstance(value, (list, tuple)) or _is_array_of_names(value):
            listed = value if isinstance(value, (list, tuple)) else np.asarray(value)
            return _of_items(listed, items) if len(listed) == len(items.dataset) else _of_list(listed)
    except Exception:  # of values of another kind
        pass
    return {}


def _is_array_of_names(value: Any) -> bool:
    """Tell whether a value is an array, or a column of a table, of texts or objects; one in a file is not read."""
    if not hasattr(value, "tolist") or getattr(value, "ndim", 0) != 1:
        return False
    return getattr(getattr(value, "dtype", None), "kind", "") in "OUT" or hasattr(value, "iloc")


def _of_mapping(value: Mapping[Any, Any]) -> dict[int, str]:
    if not 1 < len(value) <= _MOST_CLASSES:
        return {}
    pairs = list(value.items())
    for numbers, names in (
        ([n for _, n in pairs], [n for n, _ in pairs]),
        ([n for n, _ in pairs], [n for _, n in pairs]),
    ):
        if all(map(_is_number, numbers)) and all(isinstance(name, str) for name in names):
            return {int(number): class_name(name) for number, name in zip(numbers, names, strict=True)}
    return {}


def _is_number(given: Any) -> bool:
    if isinstance(given, str):
        return given.isascii() and given.isdecimal()
    return isinstance(given, Integral) and not isinstance(given, bool)


def _of_list(listed: Sequence[Any] | np.ndarray) -> dict[int, str]:
    if len(listed) > _MOST_CLASSES or not all(isinstance(name, str) for name in listed):
        return {}
    return {number: class_name(str(name)) for number, name in enumerate(listed)}


def _of_items(listed: Sequence[Any] | np.ndarray, items: NumberedItems) -> dict[int, str]:
    """Return names from a list with the name or the file of each item; none if a class has several.

    Of a file, the name of its folder counts.
    """
    names: dict[int, str] = {}
    spread = np.linspace(0, len(items.labels) - 1, min(_LOOKED_AT, len(items.labels))).astype(int)
    places = np.union1d(items.present[1][: _MOST_CLASSES + 1], spread)
    for number, label in zip(items.numbers[places].tolist(), items.labels[places].tolist(), strict=True):
        given = listed[number]
        given = given[0] if isinstance(given, tuple) and given else given
        if isinstance(given, os.PathLike):
            given = os.fspath(given)
        if not isinstance(given, str):
            return {}
        name = class_name(os.path.basename(os.path.dirname(given)) if os.sep in given else given)
        if not name or names.setdefault(label, name) != name or len(names) > _MOST_CLASSES:
            return {}
    return names
