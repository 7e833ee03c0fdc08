"""What lies deeper in class folders: masks beside images, parts, or the classes themselves, one folder too deep.

Unpackers put a folder into a folder of its name, `pets/pets/cat`. So the folders that decide may lie at any depth.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath

from adam_mp.data.reading.account import some
from adam_mp.data.reading.class_folders import ClassFound, PartFound
from adam_mp.data.reading.meant_classes import (
    ANSWERS,
    HELD_ALIKE,
    IMAGES,
    KINDS,
    NO_CLASS,
    check_below,
    folders_inside,
    unclear_classes,
)
from adam_mp.data.reading.part_names import TRAIN, part_of, pieces_of
from adam_mp.errors import DataError


def check_deeper(part: PartFound) -> None:
    """Raise DataError if folders below those inside the class folders say that these cannot be meant as classes."""
    held = dict(branches(name, each) for name, each in part.classes.items())
    _check_answers(part)
    _check_parts(part, held)
    if all(len(folders_inside(name, each)) == 1 for name, each in part.classes.items()):
        check_below(part, part.classes)
    if any(inner and "/" in place for place, inner in held.items()):
        _check_alike(part, {place: inner for place, inner in held.items() if inner})


def branches(name: str, found: ClassFound) -> tuple[str, dict[str, int]]:
    """Return the first folder, at or below a class folder, that holds several folders, and their numbers of images.

    The folders in between hold a single folder each. If there is no such folder, or if it has images beside the
    folders, the numbers are empty.
    """
    if found.direct:
        return name, {}
    place = os.path.commonpath([os.path.dirname(image) for image in found.images])
    counts: Counter[str] = Counter()
    for image in found.images:
        inner, _, below = image[len(place) + 1 :].partition("/")
        if not below:
            return place, {}
        counts[inner] += 1
    return place, dict(counts)


def _check_answers(part: PartFound) -> None:
    """Raise DataError if a class folder holds, at any depth, a folder of masks or the like beside images.

    The images lie in a folder of their own (`cat/images/`, `cat/masks/`), or beside the folder of masks with the names
    of these.
    """
    alike = part.inner_classes() is not None  # the inner folders cannot be classes either: see `check_inner`
    for name, found in part.classes.items():
        if found.direct == len(found.images):
            continue
        folders = {os.path.dirname(image) for image in found.images}
        folders |= {folder.rpartition("/")[0] for folder in folders}
        with_images = {os.path.dirname(each) for each in folders if _role(each) in IMAGES}
        for folder in sorted(folders):
            parent = os.path.dirname(folder)
            if _role(folder) not in ANSWERS or parent.count("/") < (1 if alike else 0) or not parent:
                continue
            if parent in with_images or _names_shared(found, parent, folder):
                raise DataError(
                    f"{part.folder / folder} seems to hold what belongs to the images of {name}, and no images of this "
                    f"class; move it out of {part.folder}"
                )


def _role(folder: str) -> str:
    return "".join(pieces_of(folder.rpartition("/")[2]))


def _names_shared(found: ClassFound, parent: str, folder: str) -> bool:
    """Tell whether most images in a folder have names of images beside this folder."""
    direct = {PurePosixPath(name).stem for name in found.images if os.path.dirname(name) == parent}
    below = [PurePosixPath(name).stem for name in found.images if name.startswith(f"{folder}/")]
    shared = sum(
        stem in direct or re.split(r"[-_. ](?=[a-z]+$)", stem, flags=re.IGNORECASE)[0] in direct for stem in below
    )
    return shared > len(below) / 2


def _check_parts(part: PartFound, held: Mapping[str, Mapping[str, int]]) -> None:
    """Raise DataError if class folders hold part folders more than one folder below, `pets/pets/train/`."""
    for place, inner in held.items():
        parts = sorted(each for each in inner if part_of(each))
        if "/" not in place or all(part_of(each) == TRAIN for each in parts):
            continue
        deeper = any(image.count("/") > place.count("/") + 2 for image in part.classes[place.partition("/")[0]].images)
        todo = f"give {part.folder / place}" if deeper else f"move the images to {parts[0]}/{place.partition('/')[0]}/"
        raise DataError(
            f"the folders of {part.folder} are no classes: they hold parts "
            f"({some(f'{place}/{each}/' for each in parts)}); {todo}"
        )


def _check_alike(part: PartFound, held: Mapping[str, Mapping[str, int]]) -> None:
    """Raise DataError if folders at or below the class folders hold partly the same folders: these may be classes."""
    names = set().union(*held.values())
    kinds = all("".join(pieces_of(name)) in KINDS or NO_CLASS.fullmatch(name) for name in names)
    count = sum(map(len, held.values()))
    if len(held) < 2 or kinds or count == len(names) or count < HELD_ALIKE * len(held) * len(names):
        return
    raise unclear_classes(part, held)
