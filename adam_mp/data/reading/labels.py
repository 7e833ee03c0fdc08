"""Labels as people have them become class numbers and class names: the one place that does so, for every kind of data.

There are two steps. `plain_labels` brings the labels of one part into one of three plain forms: whole numbers (int64),
booleans, or text. It judges what they hold, not their type, and checks every value before it is cast. `find_classes`
says from the plain labels of the training part which classes there are, and `Classes.number` gives each label its
class. A refusal says which label it is, as it was given, and what to write.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from adam_mp.errors import DataError, several

_FEW = 1000  # classes; so many may be without images whatever the number of images
_SPARSE = 4  # beyond `_FEW`, there may be so many times more classes than classes with images
_LISTED = 6  # numbers that a line names
_LARGEST = 2**31 - 1
_SINGLE = 0.9  # share of the classes that may have a single image
_SUM_OFF = 1e-3  # by which the sum of probabilities may be off
_STRAY, _MOST_STRAY = 0.05, 2  # share of labels that may be damaged, and their number in a small set
_MISSING = frozenset(("nan", "NaN", "<NA>", "NaT", "null", "NULL", "None", "N/A", "n/a", "#N/A"))
_BETWEEN = re.compile("[|,;/+&]")  # what stands between several labels in one text
_TRUTHS = ("False", "True")
_UNSEEN = frozenset(("Cf", "Cn", "Co", "Cs"))  # categories of characters without a width
_NUMBERED = "names, labels = numpy.unique(labels, return_inverse=True)"


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes of a data set: how many there are, and their names, or none if they are known by number alone.

    `text` says that labels are names. `notices` are lines for the user.
    """

    count: int
    names: tuple[str, ...] = ()
    text: bool = False
    notices: tuple[str, ...] = ()

    def number(self, labels: np.ndarray, what: str) -> np.ndarray:
        """Return the class numbers, int32 [n], of plain labels; raises DataError, which calls the data `what`."""
        if labels.dtype.kind in "UO":
            known = {name: number for number, name in enumerate(self.names)}
            strange = next((each for each in enumerate(labels.tolist()) if each[1] not in known), None)
            if strange is not None and not self.names:
                raise DataError(
                    f"{what} labels are text, such as {_short(strange[1])}, but those to train on are numbers, 0 to "
                    f"{self.count - 1}; give both as one of these"
                )
            if strange is not None:
                raise DataError(
                    f"{what} image {strange[0]} has label {_short(strange[1])}, which is none of the {self.count} "
                    f"classes ({_listed(self.names)})"
                )
            return np.array([known[label] for label in labels.tolist()], np.int32)
        if self.text:
            raise DataError(
                f"{what} labels are {'booleans' if labels.dtype.kind == 'b' else 'numbers'}, but the classes have "
                f"names ({_listed(self.names)}); give the labels as text too"
            )
        if labels.dtype.kind == "b" and self.count != len(_TRUTHS):
            raise DataError(
                f"{what} labels are booleans, but there are {self.count} classes; give the labels as numbers too"
            )
        wrong = np.flatnonzero((labels < 0) | (labels >= self.count))
        if wrong.size:
            raise DataError(
                f"{what} image {wrong[0]} has label {labels[wrong[0]]}, outside the classes 0 to {self.count - 1}"
            )
        return labels.astype(np.int32)


class MissingLabelError(ValueError):
    """There is no label; `given` says what stands in its place."""

    def __init__(self, given: str) -> None:
        super().__init__(f"label is missing ({given})")
        self.given = given


def plain_labels(given: Any, count: int, what: str) -> np.ndarray:
    """Return the labels of `count` images as whole numbers int64 [n], booleans [n], or text [n] (dtype object).

    `given` is anything that numpy can make an array of, a pandas series included. Raises DataError, which calls the
    data `what`, if there is not one label an image, or if it is not a number or name of a class.
    """
    if isinstance(given, np.ma.MaskedArray) and np.ma.getmaskarray(given).any():
        raise _missing(int(np.flatnonzero(np.ma.getmaskarray(given).reshape(-1))[0]), what, "masked")
    try:
        labels = np.asarray(given)
        if labels.dtype.kind in "US" and isinstance(given, (list, tuple)):
            labels = np.array(given, object)  # numpy has made text of all, of numbers among them too
    except (ValueError, TypeError, RuntimeError) as error:  # the last of a tensor that has gradients
        raise DataError(f"{what}: labels are no array: {error}; expected one label an image") from None
    labels = _one_a_sample(labels, count, what)
    kind = labels.dtype.kind
    if kind in "OST":
        return _of_objects(labels.tolist(), what)
    if kind == "U":
        return _texts(labels.tolist(), what)
    if kind == "b":
        return labels
    if kind == "f":
        return _whole(labels, what)
    if kind in "iu":
        return _in_range(labels, what)
    raise DataError(f"{what}: labels are of type {labels.dtype}; expected whole numbers from 0, booleans or text")


def plain_label(value: Any) -> int | bool | str:
    """Return one label as a Python number, boolean or text; raises ValueError, which says what is wrong with it."""
    if hasattr(value, "shape") or hasattr(value, "item"):
        array = np.asarray(value)
        if array.size != 1:
            advice = ": an item is one image with its label, no batch" if array.ndim == 1 else ""
            if array.ndim == 1 and array.dtype.kind in "iufb" and array.min() >= 0 and abs(array.sum() - 1) < _SUM_OFF:
                advice = "; write label.argmax()"  # one-hot, or probabilities
            raise ValueError(f"label is an array of shape {array.shape}; expected one number or name{advice}")
        value = array.reshape(-1)[0].item() if array.dtype.kind != "O" else array.reshape(-1)[0]
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise ValueError(f"label is {_short(value)}, which is no text") from None
    if isinstance(value, str):
        if not value.strip():
            raise MissingLabelError("empty text")
        return class_name(str.__str__(value))  # plain text of an Enum's too
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, (numbers.Real, np.floating)):
        number = float(value)
        if math.isnan(number):
            raise MissingLabelError("nan")
        if not number.is_integer():
            raise ValueError(f"label is {_short(value)}; expected a whole number")
        return int(number)
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        raise MissingLabelError(str(value))
    raise ValueError(f"label is of type {type(value).__name__}; expected a whole number, a boolean or text")


def class_name(name: str) -> str:
    """Return a class's name in the one form, of those that Unicode has for it, by which classes are matched.

    Computers of Apple write an accent as a letter of its own.
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def alike(names: Sequence[str]) -> list[str]:
    """Return a line if two names of classes are the same but for what the eye passes over.

    That is spaces, underscores, upper and lower case, quotes, characters without a width, and ways to write a number:
    1, 01, 1.0.
    """
    folded: dict[str, str] = {}
    for name in names:
        other = folded.setdefault(_folded(name), name)
        if other != name:
            return [
                f"classes {_short(other)} and {_short(name)} look the same: they differ only in spaces, case, quotes, "
                "underscores, invisible characters or the form of a number"
            ]
    return []


def _folded(name: str) -> str:
    if name.isascii() and name.isalpha():
        return name.casefold()
    seen = "".join(each for each in unicodedata.normalize("NFKC", name) if unicodedata.category(each) not in _UNSEEN)
    text = " ".join(seen.replace("_", " ").split()).strip("\"'` ").casefold()
    if not any(map(str.isdecimal, text)):
        return text
    try:
        return repr(float(text))
    except ValueError:
        return text


class Spelled(int):
    """A number that was read from text which spells it in another way than Python does, such as 007 or 7.0."""

    text: str

    @classmethod
    def of(cls, text: str) -> int:
        """Return the number that `text` spells, as a `Spelled` only where that is needed."""
        number = cls(text.partition(".")[0])
        number.text = text
        return number if text != repr(int(number)) else int(number)


def names_among(found: Sequence[int | bool | str]) -> list[int | bool | str]:
    """Return labels that were read from text; if some of them are names, numbers are names too, such as 7 beside A.

    They are the names that the text had: 007 is not 7. A few names among numbers may be damaged labels: they stay as
    they are, and `most_alike` finds them.
    """
    names = sum(isinstance(label, str) for label in found)
    if names <= max(_STRAY * len(found), _MOST_STRAY):
        return [int(label) if isinstance(label, Spelled) else label for label in found]
    return [
        label.text if isinstance(label, Spelled) else str(label) if type(label) is int else label for label in found
    ]


def most_alike(found: Sequence[int | bool | str]) -> list[bool]:
    """Tell which of the labels are of the kind, number, boolean or text, that most of them are."""
    kinds = [type(label) for label in found]
    wanted = max((int, bool, str), key=kinds.count)
    return [kind is wanted for kind in kinds]


def plain_of(found: Sequence[int | bool | str], what: str) -> np.ndarray:
    """Return plain labels as `plain_labels` does, from labels of `plain_label` that are all of one kind."""
    return _of_objects(list(found), what)


def find_classes(labels: np.ndarray, what: str, names: Sequence[str] = (), to_train: bool = True) -> Classes:
    """Return the classes of a data set whose training part has these plain labels.

    `names` are the names that the data set gives to its classes, in order. Text becomes the names that it is, sorted
    unless `names` has them all. Raises DataError, which calls the data `what`, if there are labels below 0; if they are
    `to_train`, also if there are less than two classes, or classes out of proportion to the images.
    """
    named = tuple(class_name(str(name)) for name in names)
    if labels.dtype.kind in "UO":
        present = Counter(labels.tolist())
        classes = named if present.keys() <= set(named) else tuple(sorted(present))
        singles = single_images(present.values()) if to_train else ()
        notices = (*alike(classes), *_missing_in_words(labels), *_several_in_one(present), *singles)
        found = Classes(len(classes), classes, True, notices)
    elif labels.dtype.kind == "b":
        found = Classes(2, named if len(named) == len(_TRUTHS) else _TRUTHS)
    else:
        found = _of_numbers(labels, what, named, to_train)
    if to_train and not (labels != labels[0]).any():
        raise DataError(
            f"labels of {what} are all {_short(labels[:1].tolist()[0])}; expected images of at least two classes"
        )
    return found


def _of_numbers(labels: np.ndarray, what: str, named: tuple[str, ...], to_train: bool) -> Classes:
    least, most = int(labels.min()), int(labels.max())
    count = most + 1
    # Counting is ten times as fast as sorting, as long as numbers are small.
    small = least >= 0 and count <= max(_FEW, len(labels))
    present = np.flatnonzero(np.bincount(labels)) if small else np.unique(labels)
    if least < 0:
        unknown = "; if -1 says that there is none, leave these images out" if least == -1 else ""
        raise DataError(
            f"{what} image {int(labels.argmin())} has label {least}; expected classes numbered from 0; number them "
            f"anew: {_NUMBERED}{unknown}"
        )
    if len(named) > most:
        return Classes(len(named), named)
    if not to_train or len(present) == 1:
        return Classes(count)
    if count > max(_FEW, _SPARSE * len(present)):
        raise DataError(
            f"{what} labels go from {least:,} to {most:,}, which makes {count:,} classes, but only {len(present):,} of "
            f"them have images; number them anew: {_NUMBERED}; or give them as text, labels.astype(str), to have them "
            "as names of classes"
        )
    if len(labels) > _FEW // 10 and 2 * len(present) > len(labels):
        raise DataError(
            f"{what}: {len(labels):,} images have {len(present):,} different labels, such as "
            f"{_listed(labels[:3].tolist())}; expected classes of several images each; if these are measured values, "
            "adam_mp cannot be trained on them; if they are classes, give them as text, labels.astype(str)"
        )
    return Classes(count, notices=tuple(_gaps(count, present)))


def single_images(counts: Iterable[int]) -> list[str]:
    """Return a line if nearly all classes, which have these `counts` of images, have just one, as file names would."""
    found = list(counts)
    if sum(found) <= _FEW // 10 or found.count(1) <= _SINGLE * len(found):
        return []
    return [f"{found.count(1):,} of {len(found):,} classes have a single image; expected several images of each class"]


def _missing_in_words(labels: np.ndarray) -> list[str]:
    """Return a line if some labels are the texts that programs write where a value is missing."""
    found = [label for label in labels.tolist() if label in _MISSING]
    if not found:
        return []
    return [f"{len(found):,} images have the label {found[0]!r}; if they have none, leave them out"]


def _several_in_one(present: Mapping[str, int]) -> list[str]:
    """Return a line if some texts are several of the other labels, as `cat|dog` is beside `cat` and `dog`."""
    found = []
    for label in present:
        pieces = [piece.strip() for piece in _BETWEEN.split(label)]
        if len(pieces) > 1 and all(piece != label and piece in present for piece in pieces):
            found.append(label)
    if not found:
        return []
    images = sum(present[label] for label in found)
    return [
        f"{several(images, 'image')} {'has' if images == 1 else 'have'} several labels in one text, such as "
        f"{_short(found[0])}, which is taken for a class of its own; an image has one class: leave these out, or keep "
        "one label"
    ]


def _gaps(count: int, present: np.ndarray) -> list[str]:
    missing = np.setdiff1d(np.arange(count), present)
    if not missing.size:
        return []
    verb = "has" if missing.size == 1 else "have"
    return [
        f"{missing.size:,} of {count:,} classes {verb} no training image ({_listed(missing.tolist())}): labels are "
        f"numbers from 0; to train {len(present):,} classes, number them anew: {_NUMBERED}"
    ]


def _one_a_sample(labels: np.ndarray, count: int, what: str) -> np.ndarray:
    """Return labels as one dimension of `count`; raises DataError, with the line to write where one is known."""
    if labels.shape == (count,):
        return labels
    if labels.ndim > 1 and labels.size == count and max(labels.shape) == count:  # a column or a row
        return labels.reshape(-1)
    given = f"{what}: {several(count, 'image')}, but labels of shape {labels.shape}; expected one label an image"
    if labels.ndim == 2 and labels.shape[1] == count:
        raise DataError(f"{given}; if each column is one image's, write numpy.argmax(labels, axis=0)")
    if labels.ndim != 2 or len(labels) != count or labels.dtype.kind not in "iufbOU":
        raise DataError(given)
    try:
        rows = labels.astype(np.float64)
    except (ValueError, TypeError):
        raise DataError(f"{given}; choose one column, such as labels[:, 0]") from None
    if np.isin(rows, (0, 1)).all():
        if (rows.sum(axis=1) == 1).all():
            raise DataError(f"{given}, and these are one-hot; write numpy.argmax(labels, axis=1)")
        raise DataError(f"{given}, and these mark several classes, or none, for one image, which is not supported")
    if (rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=_SUM_OFF):
        raise DataError(
            f"{given}, and these are probabilities; for the most probable class write numpy.argmax(labels, axis=1)"
        )
    raise DataError(f"{given}; choose one column, such as labels[:, 0]")


def _of_objects(found: list[Any], what: str) -> np.ndarray:
    """Return plain labels of Python objects, each looked at."""
    values: list[int | bool | str] = []
    for place, label in enumerate(found):
        try:
            values.append(plain_label(label))
        except MissingLabelError as error:
            raise _missing(place, what, error.given) from None
        except ValueError as error:
            raise DataError(f"{what} image {place}: {error}") from None
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return np.array(values, bool)
    if kinds == {str}:
        return _texts([str(value) for value in values], what)
    if str in kinds:
        text = next(place for place, value in enumerate(values) if isinstance(value, str))
        other = next(place for place, value in enumerate(values) if not isinstance(value, str))
        raise DataError(
            f"{what}: labels are text ({_short(values[text])} of image {text}) and numbers ({values[other]} of image "
            f"{other}); expected one kind; write [str(label) for label in labels]"
        )
    return _small(values, found, what)


def _texts(values: list[str], what: str) -> np.ndarray:
    empty = next((place for place, value in enumerate(values) if not value.strip()), None)
    if empty is not None:
        raise _missing(empty, what, "empty text")
    labels: np.ndarray = np.empty(len(values), object)
    labels[:] = [class_name(value) for value in values]
    return labels


def _whole(labels: np.ndarray, what: str) -> np.ndarray:
    """Return floating-point labels as int64; raises DataError if one is nan, not whole or out of range."""
    missing = np.flatnonzero(np.isnan(labels))
    if missing.size:
        raise _missing(int(missing[0]), what, "nan", missing.size)
    broken = np.flatnonzero(labels != np.floor(labels))  # infinity equals its own floor; `_in_range` refuses it
    if broken.size:
        raise DataError(
            f"{what} image {broken[0]} has label {_short(labels[broken[0]].item())}; expected whole numbers from 0, "
            "one for each class (adam_mp trains classes, not measured values)"
        )
    return _in_range(labels.astype(np.float64), what)  # float16 cannot hold the limit to compare with


def _in_range(labels: np.ndarray, what: str) -> np.ndarray:
    """Return whole numbers, of whatever type, as int64; raises DataError if one is beyond 32 bits."""
    wrong = np.flatnonzero((labels > _LARGEST) | (labels < -_LARGEST)) if len(labels) else labels
    if wrong.size:
        raise _too_far(int(wrong[0]), labels[wrong[0]].item(), what)
    return labels.astype(np.int64)


def _small(values: list[Any], found: list[Any], what: str) -> np.ndarray:
    wrong = next((place for place, value in enumerate(values) if abs(value) > _LARGEST), None)
    if wrong is not None:
        raise _too_far(wrong, found[wrong], what)
    return np.array(values, np.int64)


def _too_far(place: int, label: Any, what: str) -> DataError:
    return DataError(
        f"{what} image {place} has label {_short(label)}; expected classes numbered from 0; number them anew: "
        f"{_NUMBERED}; or give them as text, labels.astype(str), to have them as names of classes"
    )


def _missing(place: int, what: str, label: str, count: int = 1) -> DataError:
    more = f" ({count:,} images have none)" if count > 1 else ""
    return DataError(f"{what} image {place} has no label ({label}){more}; give it one, or leave the image out")


def _listed(values: Sequence[Any]) -> str:
    shown = ", ".join(_short(value) for value in values[:_LISTED])
    return shown + (f" and {len(values) - _LISTED:,} more" if len(values) > _LISTED else "")


def _short(value: Any) -> str:
    """Return a label as a line shows it, in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
