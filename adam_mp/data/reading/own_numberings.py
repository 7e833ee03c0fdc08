"""Numberings of classes that a user's object keeps for itself: a mapping such as `label2idx`, an encoder, its files.

Objects often number the classes that they find. One to test on, which lacks a class or lists them in another order,
then has other numbers for the same classes than the one to train on. If both keep a numbering at the same place, and
the two differ, labels are matched by its names.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
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
_CLASSES = re.compile(r"class|label|lbl|categor|target|cls|cat2", re.IGNORECASE)
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


_Answers = dict[frozenset[str], dict[int, Renumbering | None]]  # by the names of classes, and how near the places are


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


@dataclasses.dataclass(frozen=True)
class _Numbering:
    """Names of classes by number, and the place where an object keeps them.

    `listed` says that it is a plain list, which may be of other things; `seen` that the names are those of the items.
    """

    place: str
    names: Mapping[int, str]
    listed: bool = False
    seen: bool = False

    @property
    def of_classes(self) -> bool:
        """Whether it is surely one of classes, by the name of its place or by the items; else it may be of views."""
        return self.seen or _CLASSES.search(self.place) is not None

    def nearness(self, other: _Numbering) -> int:
        """Return 0 if the other is at the same place, 1 if it has the same name elsewhere, else 2."""
        if self.place == other.place:
            return 0
        return 1 if self.place.rpartition(".")[2] == other.place.rpartition(".")[2] else 2


def numbered_apart(trained: NumberedItems, other: NumberedItems) -> Renumbering | None:
    """Return how to number the classes of `other` as those to train on; None if they are numbered alike.

    That is told only from a numbering that names exactly the classes to train on, and no class of `other` that is
    none of these. Of numberings with the same names, those at the same place count first, then those of the same name;
    if one is the same in both, it holds. Numberings that may be of other things change no number, but have a line.
    """
    if trained.dataset is other.dataset or any(each.labels.dtype.kind not in "iu" for each in (trained, other)):
        return None
    present, _ = other.present
    exact = {len(trained.present[0]), int(trained.labels.max(initial=-1)) + 1} - {1}
    first = [each for each in _numberings(trained) if len(each.names) in exact]
    others = [each for each in _numberings(other) if not each.listed or len(each.names) > 1] if first else []
    sure: _Answers = {}
    unsure: _Answers = {}
    for there, here in itertools.product(first, others):
        classes = frozenset(there.names.values())
        if not classes.issuperset(here.names.values()):
            continue
        number_of = {name: number for number, name in there.names.items()}
        new = np.array([number_of[here.names[number]] for number in present.tolist()], np.int64)
        of_classes = there.of_classes and here.of_classes
        answers, near = (sure if of_classes else unsure).setdefault(classes, {}), there.nearness(here)
        if (new == present).all():
            answers[near] = None
        else:
            line = _line(here, number_of, trained.what, other.what, of_classes)
            answers.setdefault(near, Renumbering(present, new if of_classes else present, line))
    nearest = [answers[min(answers)] for answers in (sure or unsure).values()]
    return None if sure and None in nearest else next(filter(None, nearest), None)


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
    found = [numbered_apart(parts[0], other) for other in parts[1:]]
    return any(each is not None and bool((each.old != each.new).any()) for each in found)


def _line(here: _Numbering, number_of: Mapping[str, int], trained: str, other: str, of_classes: bool) -> str:
    apart = [(name, number) for number, name in sorted(here.names.items()) if number_of[name] != number][:_SHOWN]
    said = ", ".join(f"{name} is {number}" for name, number in apart)
    there = ", ".join(f"{name} is {number_of[name]}" for name, _ in apart)
    if not of_classes:
        return (
            f"the {other} data number things differently from the {trained} data (.{here.place}: {said}; there "
            f"{there}): if these are the classes, list their names in both as .classes"
        )
    return (
        f"the {other} data number classes differently from the {trained} data (.{here.place}: {said}; there {there}): "
        "their labels are matched by these names"
    )


def _numberings(items: NumberedItems) -> Iterator[_Numbering]:
    """Yield each value in an object that names all classes of its items."""
    present = {*items.present[0].tolist()}
    for place, value in itertools.islice(_values_in(items.dataset), _MOST_PLACES):
        found = _numbering_in(place, value, items)
        if found is None or len(found.names) > _MOST_CLASSES or not found.names.keys() >= present:
            continue
        if len({*found.names.values()}) == len(found.names):
            yield found


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


def _numbering_in(place: str, value: Any, items: NumberedItems) -> _Numbering | None:
    """Return the numbering in a value: a mapping, a list of names, or a list with a name or file for each item."""
    try:
        if isinstance(value, _MAPPINGS):
            if names := _of_mapping(value):
                return _Numbering(place, names)
            of_lists = value and all(isinstance(each, (list, np.ndarray)) for each in value.values())
            return _Numbering(place, _of_list(list(value)), listed=True) if of_lists else None
        if isinstance(value, (list, tuple)) or _is_array_of_names(value):
            listed = value if isinstance(value, (list, tuple)) else np.asarray(value)
            if len(listed) == len(items.dataset):
                return _Numbering(place, _of_items(listed, items), seen=True)
            return _Numbering(place, _of_list(listed), listed=True)
    except Exception:  # of values of another kind
        pass
    return None


def _is_array_of_names(value: Any) -> bool:
    """Tell whether a value is an array, or a column of a table, of texts or objects; one in a file is not read."""
    if not hasattr(value, "tolist") or getattr(value, "ndim", 0) != 1:
        return False
    return getattr(getattr(value, "dtype", None), "kind", "") in "OUT" or hasattr(value, "iloc")


def _of_mapping(value: Mapping[Any, Any]) -> dict[int, str]:
    if not 0 < len(value) <= _MOST_CLASSES:
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
    """Return names from a list with a name or file for each item, or a record with one; none if a class has several.

    Of a file, the name of its folder counts.
    """
    first = listed[0]
    fields = (
        list(first) if isinstance(first, dict) else range(len(first)) if isinstance(first, (list, tuple)) else [None]
    )
    spread = np.linspace(0, len(items.labels) - 1, min(_LOOKED_AT, len(items.labels))).astype(int)
    places = np.union1d(items.present[1][: _MOST_CLASSES + 1], spread)
    labels, numbers = items.labels[places].tolist(), items.numbers[places].tolist()
    for field in fields[:_MOST_FIELDS]:
        names: dict[int, str] = {}
        for number, label in zip(numbers, labels, strict=True):
            name = _name_of(listed[number] if field is None else listed[number][field])
            if not name or names.setdefault(label, name) != name:
                names = {}
                break
        if len({*names.values()}) == len(names) > 0:
            return names
    return {}


def _name_of(given: Any) -> str:
    """Return a name, or the name of a file's folder; an empty text for a thing of another kind."""
    if isinstance(given, os.PathLike):
        given = os.fspath(given)
    if not isinstance(given, str):
        return ""
    return class_name(os.path.basename(os.path.dirname(given)) if os.sep in given else given)
