"""Image folders: a folder for each class, `cat/1.jpg`, `dog/2.png`; or the same below `train/`, `val/` and `test/`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from adam_mp.data.reading.account import Account, copies, some, why_nothing
from adam_mp.data.reading.belongings import told_of, told_within, without_belongings
from adam_mp.data.reading.beside import unread_files, unread_tables
from adam_mp.data.reading.class_folders import ClassFound, PartFound, find_classes
from adam_mp.data.reading.deeper_folders import branches, check_deeper
from adam_mp.data.reading.faults import BadSample
from adam_mp.data.reading.image_kinds import ENDINGS
from adam_mp.data.reading.labels import alike, single_images
from adam_mp.data.reading.meant_classes import (
    check_below,
    check_inner,
    check_meant,
    check_no_part_inside,
    check_no_parts,
    folders_inside,
    spread_classes,
)
from adam_mp.data.reading.part_folders import find_part_folders, refuse_misspelt
from adam_mp.data.reading.part_names import TEST, TRAIN, VALIDATION
from adam_mp.data.reading.records import Records, RecordTable
from adam_mp.data.reading.stores import check_stores
from adam_mp.errors import DataError, several
from adam_mp.proposals import nearest

_AS_CLASS = "if it is a class itself, rename it, since this is the name of a part"
_INSTEAD = {VALIDATION: "so it is not validated on", TEST: "so nothing is tested"}


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """What an image folder has: the records of each part, the sorted names of the classes, and the account.

    A class's index in `classes` is its label.
    """

    parts: Mapping[str, Records]
    classes: list[str]
    account: Account


def read_image_folder(folder: Path, follow_links: bool, only_test: bool = False) -> ImageFolder:
    """Read which images of which classes a folder has.

    Without part folders, all of `folder` is "train". Links to folders, and links that lead out of `folder`, are
    followed only with `follow_links`. With `only_test`, what is to be tested is read alone, as "train": the test part,
    or all of a folder without parts. Raises DataError if there is nothing to train on, if the classes cannot be meant,
    or if a part has a class that the training part lacks.
    """
    folder = folder.absolute()
    named = find_part_folders(folder, train_wanted=not only_test)
    places, notes = dict(named.places), list(named.notes)
    if only_test and places:
        if TEST not in places:
            has = " and ".join(f"{place.name}/" for place in places.values())
            raise DataError(f"{folder} has no test images to evaluate on: it has {has}, but no test/; give one of them")
        places, notes = {TRAIN: places[TEST]}, []
    found = {
        part: without_belongings(find_classes(place, folder, follow_links))
        for part, place in (places or {TRAIN: folder}).items()
    }
    train = found.pop(TRAIN)
    if not places:
        refuse_misspelt(folder, list(train.classes), lambda name: _holds_folders(name, train.classes[name]))
    elsewhere = {name for each in found.values() for name in each.classes}
    train = _classes_to_train(train, elsewhere, bool(places), 1 if only_test else 2, notes)
    usable = {part: each for part, each in found.items() if _is_usable(part, each, train, notes)}
    usable = {part: _regrouped(each, notes) if _misses(each, train) else each for part, each in usable.items()}
    for each in usable.values():
        check_no_parts(each)
        _check_classes(each, train)
    elsewhere = {name for each in usable.values() for name in each.classes}
    classes = sorted({*train.classes, *(elsewhere & train.folders)})
    if not only_test:
        check_stores(train)
    all_places = list(dict.fromkeys([folder, *places.values()]))
    notes += unread_files(all_places) + unread_tables(all_places)
    notes += alike(classes)
    notes += told_of(train)
    notes += [line for each in (train, *usable.values()) for line in told_within(each)]
    notes += [f"the classes {some(group, 3)} may be one class" for group in spread_classes(train.classes)]
    notes += [f"the class folder {copy}/ may be a copy of {base}/" for copy, base in copies(classes)]
    if not only_test:
        notes += single_images(len(each.images) for each in train.classes.values())
    _tell_empty(train, set(classes), notes)
    parts = {part: _records(each, classes) for part, each in ((TRAIN, train), *usable.items())}
    spelled = {part: place.name + "/" for part, place in places.items() if part in parts}
    layout = "class folders" + (f" below {' and '.join(spelled.values())}" if spelled else "")
    return ImageFolder(parts, classes, Account(layout, spelled, bool(places), tuple(notes)))


def _holds_folders(name: str, found: ClassFound) -> bool:
    return not found.direct and len(folders_inside(name, found)) > 1


def _records(part: PartFound, classes: Sequence[str]) -> Records:
    names: list[str] = []
    labels: list[np.ndarray] = []
    for label, name in enumerate(classes):
        if name in part.classes:
            images = part.classes[name].images
            names += images
            labels.append(np.full(len(images), label, np.int32))
    return Records(RecordTable.of_files(part.folder, names), np.concatenate(labels), tuple(part.rejected))


def _classes_to_train(
    part: PartFound, elsewhere: Collection[str], named: bool, least: int, notes: list[str]
) -> PartFound:  # fmt: skip
    """Return the classes to train on, found below `part`; raises DataError if there are fewer than `least`."""
    if part.loose and not part.classes:
        advice = "put its images into a folder for each class" + (f"; {_AS_CLASS}" if named else "")
        raise DataError(f"{part.folder} has {several(part.loose, 'image')}, but no class folders with images; {advice}")
    if not part.classes:
        why = why_nothing(part.rejected) or f"its folders are empty: {some(sorted(part.folders)) or 'there is none'}"
        raise DataError(
            f"no folder of {part.folder} has an image ({', '.join(ENDINGS)}); expected class/image.jpg: {why}"
        )
    deeper = all(not each.direct for each in part.classes.values())
    if len(part.classes) == 1 and deeper:
        _refuse_deep(part, named)
    if named:
        check_no_part_inside(part, elsewhere)
    check_meant(part)
    check_deeper(part)
    part = _told_or_regrouped(part, notes) if deeper else part
    if len(part.classes) < least:
        (name, only), others = next(iter(part.classes.items())), sorted(part.folders - set(part.classes))
        found = f"{part.folder} has only one class folder with images: {name} ({len(only.images):,})"
        empty = f" ({some(others)}: no image; {why_nothing(part.rejected)})" if others else ""
        raise DataError(f"{found}{empty}; expected two or more, with images in them")
    if not deeper and (nested := [name for name, each in part.classes.items() if not each.direct]):
        notes.append(f"all images of the class {some(nested)} lie in folders below it; they count as its own")
    return part


def _refuse_deep(part: PartFound, named: bool) -> None:
    """Raise DataError if the only class folder holds what should be the class folders, or the parts."""
    (only,) = part.classes.values()
    inside = os.path.commonpath([os.path.dirname(name) for name in only.images])
    below = sorted(
        {name[len(inside) + 1 :].partition("/")[0] for name in only.images if "/" in name[len(inside) + 1 :]}
    )
    if len(below) < 2:
        return
    place = part.folder / inside
    todo = f"move these folders up into {part.folder}" if named else f"give {place}"
    raise DataError(
        f"all {len(only.images):,} images of {part.folder} lie deeper, in {place}, which has the folders "
        f"{some(below)}; {todo}"
    )


def _told_or_regrouped(part: PartFound, notes: list[str]) -> PartFound:
    """Return the part as `_regrouped` does; if it is the same, add a note about folders below the classes."""
    made = _regrouped(part, notes)
    inside = {name: branches(name, each)[1] or folders_inside(name, each) for name, each in part.classes.items()}
    if made is part and any(len(each) > 1 for each in inside.values()):
        below = some(sorted({inner for each in inside.values() for inner in each}), 6)
        notes.append(
            f"the images of the classes {some(inside)} lie in folders below them, which are no classes: {below}"
        )
    return made


def _regrouped(part: PartFound, notes: list[str]) -> PartFound:
    """Return the part with the folders inside its folders as classes, where all of its folders hold the same ones."""
    inner = part.inner_classes()
    if inner is None:
        return part
    check_inner(part, inner)
    check_below(part, inner)
    notes.append(
        f"the folders {some(f'{name}/' for name in part.classes)} of {part.folder} hold the same folders, "
        f"{some(inner)}: these are the classes"
    )
    return dataclasses.replace(part, classes=inner, folders=frozenset(inner))


def _misses(part: PartFound, train: PartFound) -> bool:
    return not set(part.classes) & train.folders and all(not each.direct for each in part.classes.values())


def _is_usable(part: str, found: PartFound, train: PartFound, notes: list[str]) -> bool:
    """Tell whether a part has images by class; if not, add a note that says what it has. Raises DataError."""
    images = sum(len(each.images) for each in found.classes.values())
    unknown = [each for name, each in found.classes.items() if name not in train.folders]
    if not images:
        if found.loose:
            what = f"has {several(found.loose, 'image')}, but no class folders"
        else:
            what = "has no image" + (f" ({why})" if (why := why_nothing(found.rejected)) else "")
    elif len(found.classes) == 1 and unknown:
        (name,), inner = found.classes, {each.split("/")[1] for each in unknown[0].images if each.count("/") > 1}
        if inner & train.folders:
            raise DataError(
                f"all images of {found.folder} lie one folder deeper, in {found.folder / name}, which has the folders "
                f"{some(sorted(inner))}; move these up into {found.folder}"
            )
        what = f"has {several(images, 'image')} in {name}/ alone, which is none of the classes "
        what += some(sorted(train.classes))
    else:
        return True
    use = "; `predict` classifies images without classes" if part == TEST and (images or found.loose) else ""
    notes.append(f"{found.folder} {what}, {_INSTEAD[part]}{use}")
    return False


def _check_classes(found: PartFound, train: PartFound) -> None:
    """Raise DataError if a part has classes for which the training part has no folder."""
    strange = sorted(set(found.classes) - train.folders)
    if strange:
        raise DataError(
            f"{found.folder} has the class {strange[0]!r}, which the training images lack "
            f"({nearest(strange[0], train.classes, 12)}); remove or rename it"
            + (f"; so with {some(strange[1:])}" if strange[1:] else "")
        )


def _tell_empty(train: PartFound, classes: set[str], notes: list[str]) -> None:
    """Note which folders are no classes, because no part has an image of them."""
    empty = sorted(train.folders - classes)
    if not empty:
        return
    inside = tuple(f"{train.folder / name}/" for name in empty)
    rejected: list[BadSample] = [bad for bad in train.rejected if bad.path.startswith(inside)]
    why = f": {why_nothing(rejected)}" if rejected else ""
    notes.append(f"no class, for want of an image: {some(f'{name}/' for name in empty)} in {train.folder}{why}")
