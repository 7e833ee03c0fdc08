"""Class folders that hold the images of other class folders again: a folder `all/` from which the others were sorted.

Its images would be trained as a class of their own, against the same images of their right classes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from adam_mp.data.reading.class_folders import PartFound
from adam_mp.data.reading.fingerprint import sample_checksum
from adam_mp.data.reading.records import RecordTable
from adam_mp.errors import DataError

_CLASSES, _IMAGES = 16, 8  # the largest classes, and images of each that are looked for in other classes
_LIKE_NAMED = 8  # images of other classes with the name of one that are compared with it
_CONTENTS = 5  # different ones that images must have to be compared: blank images are no copies
_STORED = 0.5  # share of them that other classes have too, from which a class is none


def check_stores(part: PartFound) -> None:
    """Raise DataError if most images of a class are in other classes too, by the same names and contents.

    Some images of the largest classes are looked at.
    """
    if len(part.classes) < 2:
        return
    largest = sorted(part.classes, key=lambda name: -len(part.classes[name].images))[:_CLASSES]
    chosen = {name: _some_of(part.classes[name].images) for name in largest}
    named: dict[str, list[tuple[str, str]]] = {
        os.path.basename(image): [] for images in chosen.values() for image in images
    }
    for name, found in part.classes.items():
        for image in found.images:
            if (places := named.get(image.rpartition("/")[2])) is not None:
                places.append((name, image))
    for name, images in chosen.items():
        _check_store(part, name, images, named)


def _some_of(images: Sequence[str]) -> list[str]:
    """Return some images, spread over all."""
    count = min(_IMAGES, len(images))
    return [images[number * len(images) // count] for number in range(count)]


def _check_store(
    part: PartFound, name: str, images: Sequence[str], named: Mapping[str, Sequence[tuple[str, str]]]
) -> None:  # fmt: skip
    again: dict[str, str] = {}
    contents: set[int | None] = set()
    for image in images:
        others = [other for of_class, other in named[os.path.basename(image)] if of_class != name][:_LIKE_NAMED]
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
