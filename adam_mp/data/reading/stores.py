"""Class folders that hold the images of other class folders again: a folder `all/` from which the others were sorted.

Its images would be trained as a class of their own, against the same images of their right classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from adam_mp.data.reading.class_folders import PartFound
from adam_mp.data.reading.fingerprint import sample_checksum
from adam_mp.data.reading.records import RecordTable
from adam_mp.errors import DataError

_CLASSES, _IMAGES = 16, 8  # the largest classes, and images of each that are looked for in other classes
_LIKE = 16  # images of other classes with the name or size of one that are compared with it
_SIZED = 2048  # images of a part whose sizes are looked at
_CONTENTS = 5  # different ones that images must have to be compared: blank images are no copies
_STORED = 0.5  # share of them that other classes have too, from which a class is none


def check_stores(part: PartFound) -> None:
    """Raise DataError if most images of a class are in other classes too, by their contents and names.

    The function compares some images of the largest classes. In small data sets it also finds copies of other names.
    """
    if len(part.classes) < 2:
        return
    largest = sorted(part.classes, key=lambda name: -len(part.classes[name].images))[:_CLASSES]
    chosen = {name: _some_of(part.classes[name].images) for name in largest}
    few = sum(len(found.images) for found in part.classes.values()) <= _SIZED
    kinds: list[Callable[[str], str | int]] = [_name_of]
    if few:
        kinds.append(lambda image: _size_of(part.folder / image))
    alike: dict[str, list[tuple[str, str]]] = {image: [] for images in chosen.values() for image in images}
    for kind in kinds:
        same: dict[str | int, list[tuple[str, str]]] = {kind(image): [] for image in alike}
        for name, found in part.classes.items():
            for image in found.images:
                if (places := same.get(kind(image))) is not None:
                    places.append((name, image))
        for image in alike:
            alike[image] += same[kind(image)]
    for name, images in chosen.items():
        _check_store(part, name, images, alike)


def _name_of(image: str) -> str:
    return image.rpartition("/")[2]


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # it is reported when it is to be trained


def _some_of(images: Sequence[str]) -> list[str]:
    """Return some images, spread over all."""
    count = min(_IMAGES, len(images))
    return [images[number * len(images) // count] for number in range(count)]


def _check_store(
    part: PartFound, name: str, images: Sequence[str], alike: Mapping[str, Sequence[tuple[str, str]]]
) -> None:  # fmt: skip
    again: dict[str, str] = {}
    contents: set[int | None] = set()
    for image in images:
        others = [other for of_class, other in alike[image] if of_class != name][:_LIKE]
        table = RecordTable.of_files(part.folder, [image, *others])
        checksum = sample_checksum(table, 0) if others else None
        same = next((other for n, other in enumerate(others) if sample_checksum(table, n + 1) == checksum), None)
        if checksum is not None and same is not None:
            again[image] = same
            contents.add(checksum)
    if len(contents) >= _CONTENTS and len(again) > _STORED * len(images):
        image, other = next(iter(again.items()))
        raise DataError(
            f"images of {part.folder / name} are in other class folders too, such as {image} and {other}: "
            f"{len(again)} of {len(images)} that were compared; an image has one class, so move {name}/, or the "
            f"copies, out of {part.folder}"
        )
