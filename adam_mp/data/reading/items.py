"""Items of a Python object: it has `len(dataset)`, and `dataset[i]` is an image and its label.

Other processes get the object by value (cloudpickle). If a script or notebook defined its class, they get the class
too, since they never import the user's script.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Collection, Iterable, KeysView, Mapping, Sequence, ValuesView
from itertools import pairwise, starmap
from numbers import Integral
from typing import Any

import numpy as np

from adam_mp.compute.unclear import asks_to_turn
from adam_mp.data.reading.account import some
from adam_mp.data.reading.axes import order_of_image
from adam_mp.data.reading.faults import REASONS, BadSample, Fault, SampleError
from adam_mp.data.reading.labels import (
    Classes,
    class_name,
    find_classes,
    most_alike,
    plain_label,
    plain_labels,
    plain_of,
)
from adam_mp.data.reading.own_numberings import NumberedItems, joined_apart, numbered_apart
from adam_mp.errors import DataError

_DEEPEST = 6  # objects in objects that are asked for their names of classes
_LABELS = ("targets", "labels")
_NAMES = (
    "class_to_idx", "classes", "class_names", "idx_to_class", "CLASSES", "label_names", "label_map", "categories",
    "vocab",
)  # fmt: skip
_GAPS = 4  # so many times more numbers than names may a mapping have
_ASKED = 16  # items whose labels are compared with those that the object lists
_ASKED_LABELS = 200  # and one of each label, of so many labels at most


@dataclasses.dataclass(frozen=True)
class ItemsLook:
    """What was seen of some items of a Python object.

    `contents` are checksums of their images, none for an item that has no usable image. `draws` tells whether an item
    gave another image when it was asked a second time; then there are no checksums. `to_turn` tells whether an image of
    Pillow has an EXIF orientation that asks to turn it.
    """

    contents: tuple[int | None, ...] = ()
    draws: bool = False
    to_turn: bool = False


@dataclasses.dataclass(frozen=True)
class Items:
    """A part of a data set: the items of one Python object.

    `numbers` int64 [n] are the indices of the items that have a label, `labels` int32 [n] their labels, `given` [n] the
    plain labels that the object gave. `rejected` are items that failed and were left out. `look` is what was seen of
    some items.
    """

    dataset: Any
    numbers: np.ndarray
    labels: np.ndarray
    given: np.ndarray
    rejected: tuple[BadSample, ...] = ()
    look: ItemsLook = ItemsLook()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def digest(self) -> int:
        """A fingerprint of numbers and labels; the images are not read."""
        return zlib.crc32(self.labels.data, zlib.crc32(self.numbers.data))


def is_item_source(source: Any) -> bool:
    """Tell whether `source` is an object with a length and items by index."""
    has_items = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    return has_items and not isinstance(source, (str, bytes, dict, type))


def make_items(datasets: Sequence[tuple[str, Any]], to_train: bool = True) -> tuple[list[Items], Classes]:
    """Return the items of each Python object, and the classes of the first, which is to train on.

    Each comes as (what errors call it, object). Labels come from its `.targets` or `.labels`, or else from every item
    in turn; items that fail are left out. `labels.find_classes` says what `to_train` is. Raises DataError if labels are
    not usable (see `labels`), or if no item has one.
    """
    found = [(what, dataset, *_labels_of(dataset, what)) for what, dataset in datasets]
    what, dataset, numbers, plain, _ = found[0]
    first = NumberedItems(dataset, numbers, plain, what)
    classes = find_classes(plain, what, _names_for(dataset, plain), to_train)
    if differ := [
        line for what, dataset, numbers, plain, _ in found for line in _joined_apart(dataset, numbers, plain, what)
    ]:
        classes = dataclasses.replace(classes, notices=(*classes.notices, *differ))
    parts = []
    for what, dataset, numbers, plain, rejected in found:
        named = _by_name(plain, _names_for(dataset, plain), classes, what)
        if (
            named is plain
            and (apart := numbered_apart(first, NumberedItems(dataset, numbers, plain, what))) is not None
        ):
            named = apart.of(plain)
            classes = dataclasses.replace(classes, notices=(*classes.notices, apart.line))
        parts.append(Items(dataset, numbers, classes.number(named, what), plain, rejected))
    return parts, classes


def _names_for(dataset: Any, plain: np.ndarray) -> tuple[str, ...]:
    """Return the names that an object gives to its classes; none if some of its plain labels have none of the names.

    A number between them that has no name is its own name.
    """
    names = _names_of(dataset)
    lacking = [number for number, name in enumerate(names) if not name]
    if lacking and (plain.dtype.kind in "UO" or np.isin(plain, lacking).any()):
        return ()
    return tuple(name or (f"({number})" if str(number) in names else str(number)) for number, name in enumerate(names))


def _names_of(dataset: Any, deepest: int = _DEEPEST) -> tuple[str, ...]:
    """Return the names that an object gives to its classes, each once; none if it lists one for each item.

    Of an object that has some items of another, or those of several, the others' names hold.
    """
    names = _as_transformed(_given_names(dataset), dataset)
    if len(set(filter(None, names))) == sum(map(bool, names)):
        return names or _names_within(dataset, deepest)
    if len(names) == len(dataset):
        return ()
    return tuple(f"{name} ({number})" if name and names.count(name) > 1 else name for number, name in enumerate(names))


def _given_names(dataset: Any) -> tuple[str, ...]:
    """Return the names that an object's `.class_to_idx` numbers, in this order, or else what it has as `.classes`.

    Either may be a mapping from names to numbers, or the other way round. Other libraries have other words for them
    (`_NAMES`).
    """
    for given in (_listed(dataset, name) for name in _NAMES):
        if isinstance(given, Mapping):
            sides = ((given.keys(), given.values()), (given.values(), given.keys()))
            ways = (
                (names, numbers, kind, gaps)
                for kind in (Integral, str)
                for gaps in (1, _GAPS)
                for names, numbers in sides
            )
            if found := next(filter(None, starmap(_numbered, ways)), ()):
                return found
        elif isinstance(given, (Sequence, KeysView, ValuesView)) or hasattr(given, "__array__"):
            return () if isinstance(given, (str, bytes)) or getattr(given, "ndim", 1) != 1 else _as_names(given)
    return ()


def _as_transformed(names: tuple[str, ...], dataset: Any) -> tuple[str, ...]:
    """Return names by the numbers that an object's `.target_transform` makes of theirs.

    None if it makes one number of two classes. Names stay if it takes no numbers, or if the object lists a label that
    has no name: then they are names of what it makes.
    """
    transform = _listed(dataset, "target_transform")
    listed = next((given for name in _LABELS if (given := _as_numbers(_listed(dataset, name))).size), np.zeros(1))
    moved: dict[int, str] = {}
    for number, name in enumerate(names) if callable(transform) and listed.max() < len(names) else ():
        try:
            label = plain_label(transform(number))
        except Exception:  # for a number that no item has, or for any, if it takes something else
            continue
        if not isinstance(label, Integral) or not name:
            continue
        if moved.setdefault(int(label), name) != name:
            return ()
    if not moved:
        return names
    last = max(moved)
    return tuple(moved.get(number, "") for number in range(last + 1)) if last < _GAPS * len(names) else ()


def _as_names(given: Iterable[Any]) -> tuple[str, ...]:
    return tuple(class_name(str(name)) for name in given)


def _numbered(names: Collection[Any], numbers: Collection[Any], kind: type, gaps: int) -> tuple[str, ...]:
    """Return names by their numbers; none if these are not different numbers from 0, in values of a `kind`.

    There are at most `gaps` times more numbers than names. A number without a name has an empty one.
    """
    if not all(isinstance(number, kind) and str(number).isdecimal() for number in numbers):
        return ()
    found = {int(number): class_name(str(name)) for name, number in zip(names, numbers, strict=True)}
    count = max(found, default=-1) + 1
    if len(found) < len(names) or count > gaps * len(names):
        return ()
    return tuple(found.get(number, "") for number in range(count))


def _names_within(dataset: Any, deepest: int) -> tuple[str, ...]:
    """Return the names of an object of which `dataset` has all or some items, or of those it joins.

    That is PyTorch's Subset, or a user's object that changes the images of another. None if the items have other
    labels there, or if the joined ones disagree. Objects in objects are looked at until `deepest` is 0.
    """
    for inner, numbers in _inner_items(dataset):
        names = _names_of(inner, deepest - 1) if deepest else ()
        places = np.linspace(0, len(numbers) - 1, min(_ASKED, len(numbers))).astype(int).tolist()
        if names and all(_same_label(dataset, place, inner, int(numbers[place])) for place in places):
            return names
    joined = _listed(dataset, "datasets")
    if isinstance(joined, (list, tuple)) and joined and all(map(is_item_source, joined)):
        found = {_names_of(each) for each in joined}
        return found.pop() if len(found) == 1 and sum(map(len, joined)) == len(dataset) else ()
    return ()


def kinds_within(dataset: Any, deepest: int = _DEEPEST) -> set[str]:
    """Return the names of the type of an object, and of the types of those of which it has all or some items."""
    inner = {id(each): each for each, _ in _inner_items(dataset)} if deepest else {}
    return {type(dataset).__name__}.union(*(kinds_within(each, deepest - 1) for each in inner.values()))


def _inner_items(dataset: Any) -> Iterable[tuple[Any, Sequence[int] | np.ndarray]]:
    """Return the objects with items that an object has, each with the numbers that its items may have there."""
    count = len(dataset)
    held = [_listed(dataset, "dataset"), _listed(dataset, "indices"), *getattr(dataset, "__dict__", {}).values()]
    numberings = [numbers for each in held if len(numbers := _as_numbers(each)) == count]
    for inner in held:
        length = _length_of_items(inner)
        same = [np.arange(count)] if length == count else []
        yield from ((inner, each) for each in same + numberings if each.max(initial=0) < length)


def _length_of_items(given: Any) -> int:
    """Return how many items an object has that may name its classes; 0 for arrays, lists and all other objects."""
    if not is_item_source(given) or isinstance(given, (list, tuple, Mapping)) or hasattr(given, "__array__"):
        return 0
    try:
        return len(given)
    except Exception:  # of a file that is closed, for example
        return 0


def _as_numbers(given: Any) -> np.ndarray:
    """Return numbers of items, if `given` is a list or an array of some; else none."""
    listed = isinstance(given, (list, tuple)) and bool(given) and isinstance(given[0], Integral)
    numbers = np.zeros(0)
    if listed or isinstance(given, range) or (hasattr(given, "__array__") and getattr(given, "ndim", 0) == 1):
        try:
            numbers = np.asarray(given)
        except Exception:  # of a list of many things
            return numbers
    return numbers if numbers.dtype.kind in "iu" and numbers.ndim == 1 and numbers.min(initial=0) >= 0 else np.zeros(0)


def _joined_apart(dataset: Any, numbers: np.ndarray, plain: np.ndarray, what: str) -> list[str]:
    """Return a line if an object joins others, as PyTorch's ConcatDataset, that number their classes differently."""
    joined = _listed(dataset, "datasets")
    if not isinstance(joined, (list, tuple)) or not all(map(is_item_source, joined)):
        return []
    found = sorted({names for each in joined if (names := _names_of(each))}, key=len)
    apart = [pair for pair in pairwise(found) if pair[1][: len(pair[0])] != pair[0]]
    if not apart and not joined_apart(NumberedItems(dataset, numbers, plain, what), joined):
        return []
    said = f" ({some(found[0], 3)}; {some(found[1], 3)})" if apart else ""
    return [
        f"the {what} data join objects whose classes are numbered differently{said}: the same number is not the same "
        "class in them, unless their labels were changed"
    ]


def _same_label(dataset: Any, place: int, inner: Any, number: int) -> bool:
    """Tell whether item `place` of an object has the label of item `number` of another, as far as both have one."""
    try:
        label = _label_of(dataset[place])
    except Exception:
        return True  # the item is bad: it is reported when it is to be trained
    try:
        return bool(_label_of(inner[number]) == label)
    except Exception:
        return False


def _by_name(plain: np.ndarray, names: Sequence[str], classes: Classes, what: str) -> np.ndarray:
    """Return plain labels as names if they are numbers among `names` that are not those of `classes`, in their order.

    Each object numbers the classes that it has: in another object, the same number may be another class.
    """
    if plain.dtype.kind in "UOb" or not (names and classes.names) or tuple(names) == tuple(classes.names):
        return plain
    if plain.min() < 0 or plain.max() >= len(names):
        raise DataError(
            f"the {what} data have labels from {plain.min()} to {plain.max()}, but {len(names)} classes ({some(names)})"
        )
    return np.array([names[label] for label in plain.astype(np.int64).tolist()], object)


def _labels_of(dataset: Any, what: str) -> tuple[np.ndarray, np.ndarray, tuple[BadSample, ...]]:
    """Return the numbers of the items that have a label, their plain labels, and the items that failed."""
    count = len(dataset)
    if count == 0:
        raise DataError(f"{what} is empty; expected at least one image")
    for name in _LABELS if _listed(dataset, "target_transform") is None else ():
        given = _listed(dataset, name)
        if hasattr(given, "__len__") and len(given) == count:
            labels = plain_labels(given, count, what)
            if _other_label(labels, np.arange(count), dataset) is None:
                return np.arange(count), labels, ()
    found, numbers, failures = [], [], []
    for number in range(count):
        try:
            found.append(_label_of(dataset[number]))
            numbers.append(number)
        except Exception as error:
            failures.append((number, f"{type(error).__name__}: {error}"))
    if not numbers:
        raise DataError(f"{what}: no item is (image, label); the first: {failures[0][1]}")
    if len(failures) > len(numbers):
        raise DataError(
            f"{what}: {len(failures):,} of {count:,} items cannot be used; expected (image, label); the first of them, "
            f"item {failures[0][0]}: {failures[0][1]}"
        )
    alike = most_alike(found)
    for number, label, same in zip(numbers, found, alike, strict=True):
        if not same:
            failures.append((number, f"its label is {label!r}, of another kind than most"))
    kept = [number for number, same in zip(numbers, alike, strict=True) if same]
    plain = plain_of([label for label, same in zip(found, alike, strict=True) if same], what)
    if (changed := _other_label(plain, kept, dataset)) is not None:
        raise DataError(
            f"{what}: item {changed} had another label when it was asked again; expected an object whose items are the "
            "same whatever their order and however often they are asked"
        )
    rejected = tuple(
        BadSample(f"item {number} of the {what} data", Fault.BAD_ITEM, f"{REASONS[Fault.BAD_ITEM]}: {why}")
        for number, why in sorted(failures)
    )
    return np.array(kept, np.int64), plain, rejected


def _listed(dataset: Any, name: str) -> Any:
    """Return an attribute of a user's object, None if it has none or the object cannot give it."""
    try:
        return getattr(dataset, name, None)
    except Exception:  # of a property
        return None


def _other_label(labels: np.ndarray, numbers: Sequence[int] | np.ndarray, dataset: Any) -> int | None:
    """Return the number of an item whose label is another than in `labels`, None if there is none.

    `labels` are those of the items `numbers`, of which some are asked, one of each label among them: objects may
    transform or reorder.
    """
    for place in _asked(labels):
        number = int(numbers[place])
        try:
            label = _label_of(dataset[number])
        except Exception:
            continue  # the item is bad: it is reported when it is to be trained
        if label != labels[place]:
            return number
    return None


def _asked(labels: np.ndarray) -> list[int]:
    """Return the places of the items that are asked for their labels."""
    _, first = np.unique(labels, return_index=True)
    some_labels = first[np.linspace(0, len(first) - 1, min(_ASKED_LABELS, len(first))).astype(int)]
    spread = np.linspace(0, len(labels) - 1, min(_ASKED, len(labels))).astype(int)
    places: list[int] = np.union1d(spread, some_labels).tolist()
    return places


def _label_of(item: Any) -> int | bool | str:
    """Return the label of an item (image, label) as `plain_label` does; raises ValueError or TypeError."""
    if isinstance(item, (str, bytes, Mapping)):  # which could be taken apart too
        raise ValueError(f"the item is a {type(item).__name__}; expected (image, label)")
    _, label = item
    return plain_label(label)


def _pixels_of(image: Any) -> np.ndarray:
    """Return the image of an item as an array; an image of Pillow in grey or in red, green and blue.

    Of an image with a palette, Pillow's own array would have the numbers of the palette's entries.
    """
    if hasattr(image, "getpalette") and image.mode not in ("L", "RGB", "I;16", "I", "F"):
        from adam_mp.data.reading.decoding import opaque  # brings the image libraries

        image = opaque(image).convert("L" if image.mode in ("1", "LA") else "RGB")
    return np.asarray(image)


def item_pixels(dataset: Any, index: int, channels: int, given: Any = None) -> np.ndarray:
    """Return the image of an item as uint8 [h, w, channels]; raises SampleError if the item has no such image.

    It raises it too if the item has a label that is another than `given`, its plain label, unless that is None.
    """
    try:
        item = dataset[index]
        pixels = _pixels_of(item[0])
    except Exception:
        raise SampleError(Fault.BAD_ITEM) from None
    if given is not None and _has_other_label(item, given):
        raise SampleError(Fault.OTHER_LABEL)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise SampleError(Fault.BAD_ITEM)
    if pixels.shape[2] == 1 and channels == 3:
        pixels = np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] != channels:
        raise SampleError(Fault.BAD_ITEM)
    return np.ascontiguousarray(pixels)


def _has_other_label(item: Any, given: Any) -> bool:
    try:
        return bool(_label_of(item) != given)
    except Exception:  # of another form than the object lists, such as one-hot
        return False


def look_at_items(part: Items, chosen: np.ndarray, twice: int) -> tuple[list[tuple[int, int, int]], ItemsLook]:
    """Ask for the items of the samples `chosen`; for the first `twice` of them again, until one differs.

    Returns (height, width, channels) of each usable image, and what was seen. Raises DataError if no image is usable;
    an item that is bad among good ones is reported when it is to be trained.
    """
    sizes: list[tuple[int, int, int]] = []
    contents: list[int | None] = []
    failure, draws, to_turn = None, False, False
    for place, index in enumerate(part.numbers[chosen].tolist()):
        try:
            size, checksum, turn = _item_look(part.dataset, index)
            to_turn = to_turn or turn
            draws = draws or (place < twice and _item_look(part.dataset, index)[1] != checksum)
        except DataError as error:
            failure = failure or error
            contents.append(None)
        else:
            sizes.append(size)
            contents.append(checksum)
    if failure is not None and not sizes:
        raise failure
    return sizes, ItemsLook(() if draws else tuple(contents), draws, to_turn)


def _item_look(dataset: Any, index: int) -> tuple[tuple[int, int, int], int, bool]:
    """Return ((height, width, channels), checksum, whether it asks to be turned) of an item's image.

    Raises DataError if there is no usable image.
    """
    try:
        image = dataset[index][0]
        pixels = _pixels_of(image)
    except Exception as error:
        raise DataError(f"item {index} of the data set cannot be read: {type(error).__name__}: {error}") from None
    shape = (*pixels.shape, 1) if pixels.ndim == 2 else pixels.shape
    if pixels.dtype != np.uint8 or len(shape) != 3 or shape[2] not in (1, 3) or not pixels.size:
        raise DataError(
            f"item {index} of the data set has an image of {pixels.dtype} {pixels.shape}; expected uint8 "
            f"[height, width] or [height, width, 1 or 3]{_advice(pixels)}"
        )
    return (shape[0], shape[1], shape[2]), zlib.crc32(np.ascontiguousarray(pixels).data), asks_to_turn(image)


def _advice(pixels: np.ndarray) -> str:
    """Return what to write for an image of another type or order of axes; "" if no line is known."""
    if pixels.ndim == 0:
        return "; open the file: numpy.asarray(PIL.Image.open(path))" if pixels.dtype.kind in "OSU" else ""
    order = order_of_image(pixels.shape)
    if pixels.dtype == np.uint8 or not np.issubdtype(pixels.dtype, np.number):
        return f"; write image{order}" if order else ""
    low, high = float(pixels.min(initial=0)), float(pixels.max(initial=0))
    if low < 0 or high > np.iinfo(np.uint8).max:  # which would be cut to 8 bits
        return "; scale its values to 0 to 255 before it becomes uint8"
    scale = "(255 * image)" if np.issubdtype(pixels.dtype, np.floating) and high <= 1 else "image"
    return f"; write {scale}{order}.astype(numpy.uint8)"
