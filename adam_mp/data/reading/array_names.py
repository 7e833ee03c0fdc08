"""Which arrays of a file or folder are images or labels, and of which part, by their names: `x_train`, `val_labels`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from adam_mp.data.reading.account import some
from adam_mp.data.reading.part_names import TEST, TRAIN, VALIDATION, part_of_word, pieces_of
from adam_mp.errors import DataError

_ADDED = ("set", "data", "array", "arr")
_IMAGES = (
    "x",
    "image",
    "images",
    "img",
    "imgs",
    "feature",
    "features",
    "input",
    "inputs",
    "pixels",
    "pictures",
    "data",
)
_LABELS = ("y", "label", "labels", "target", "targets")
_UNNAMED = ("arr_0", "arr_1", "arr_2", "arr_3")  # what numpy.savez calls arrays that are given without a name
# Of several names for the same, the first pair that the files have is taken.
_FIRST: Mapping[str, tuple[tuple[str, str], ...]] = {
    TRAIN: (("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels"), ("x", "y")),
    TEST: (("x_test", "y_test"), ("test_images", "test_labels")),
}
WANTED = "x_train and y_train (or train_images and train_labels, images and labels, x and y)"


@dataclasses.dataclass(frozen=True)
class ArrayNames:
    """The names of (images, labels) of each part. `notes` name arrays that are not used."""

    pairs: Mapping[str, tuple[str, str]]
    notes: tuple[str, ...]
    parts_named: bool


def assign_arrays(names: Iterable[str], place: str, only_test: bool = False) -> ArrayNames:
    """Return which arrays are which; raises DataError, which names their file or folder `place`, if it is not clear.

    With `only_test` there need be none to train on if there are some to test on.
    """
    names = sorted(set(names))
    said = {name: meaning_of(name) for name in names}
    pairs: dict[str, tuple[str, str]] = {}
    notes: list[str] = []
    for part in (TRAIN, VALIDATION, TEST):
        first = next((pair for pair in _FIRST.get(part, ()) if set(pair) <= set(names)), None)
        found = {role: [name for name in names if said[name] == (part, role)] for role in ("images", "labels")}
        if first is not None:
            pairs[part] = first
            continue
        if doubled := next((several for several in found.values() if len(several) > 1), None):
            raise DataError(f"{place} has the arrays {some(doubled)}, which mean the same; keep one of them")
        if found["images"] and found["labels"]:
            pairs[part] = (found["images"][0], found["labels"][0])
        elif found["images"] or found["labels"]:
            has, lacks = ("images", "labels") if found["images"] else ("labels", "images")
            notes.append(f"{place} has {found[has][0]}, but no {lacks} with it, so it is not used")
    for part, pair in ((TRAIN, _UNNAMED[:2]), (TEST, _UNNAMED[2:])):
        if part not in pairs and (part == TRAIN or pairs.get(TRAIN) == _UNNAMED[:2]) and set(pair) <= set(names):
            pairs[part] = (pair[0], pair[1])
    if TRAIN not in pairs and not (only_test and TEST in pairs):
        why = f"; {notes[0]}" if notes else ""
        raise DataError(f"{place} has the arrays {some(names) or 'none'}; expected {WANTED}{why}")
    used = {name for pair in pairs.values() for name in pair}
    if spare := [name for name in names if name not in used and not any(f" {name}," in note for note in notes)]:
        notes.append(f"not used in {place}: the arrays {some(spare)}")
    named = any(part_of_word(piece) for name in next(iter(pairs.values())) for piece in _pieces(name)) or len(pairs) > 1
    return ArrayNames(pairs, tuple(notes), named)


def meaning_of(name: str) -> tuple[str, str] | None:
    """Return (part, "images" or "labels") for an array's name, None for another name."""
    pieces = _pieces(name)
    parts = {part for piece in pieces if (part := part_of_word(piece)) is not None}
    rest = [piece for piece in pieces if part_of_word(piece) is None]
    if len(parts) > 1 or any(piece not in _IMAGES + _LABELS + _ADDED for piece in rest):
        return None
    if any(piece in _LABELS for piece in rest):
        return (parts or {TRAIN}).pop(), "labels"
    if any(piece in _IMAGES for piece in rest):
        return (parts or {TRAIN}).pop(), "images"
    return None


def _pieces(name: str) -> list[str]:
    pieces = []
    for piece in pieces_of(name):
        if piece[0] in "xy" and part_of_word(piece[1:]) is not None:  # xtrain
            pieces += [piece[0], piece[1:]]
        elif piece[-1] in "xy" and part_of_word(piece[:-1]) is not None:  # trainx
            pieces += [piece[-1], piece[:-1]]
        else:
            pieces.append(piece)
    return pieces
