"""Folders of class folders: `cat/1.jpg`, `dog/2.png`; or the same below `train/`, `val/` and `test/`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from adam_mp.data.faults import BadSample, Fault
from adam_mp.data.records import Records, RecordTable
from adam_mp.errors import DataError

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
PARTS: Mapping[str, Sequence[str]] = {
    "train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test", "testing"),
}  # fmt: skip


def is_image_folder(folder: Path) -> bool:
    """Tell whether `folder`, or a part of it, has class folders in it."""
    return bool(part_folders(folder)) or any(entry.is_dir() for entry in _entries(folder))


def part_folders(folder: Path) -> dict[str, Path]:
    """Return the folders of "train", "validation" and "test" where there is one to train on; else nothing."""
    found = {}
    for part, names in PARTS.items():
        for name in names:
            if (folder / name).is_dir():
                found[part] = folder / name
                break
    return found if "train" in found else {}


def read_image_folder(folder: Path, follow_links: bool) -> tuple[dict[str, Records], list[str]]:
    """Return the records of each part and the names of the classes, sorted: their numbers are the labels.

    A flat folder of class folders is all "train". Raises DataError where there is nothing to train on, or where
    a part has a class that the training part lacks.
    """
    parts = part_folders(folder) or {"train": folder}
    classes = sorted(entry.name for entry in _entries(parts["train"]) if _is_folder(entry, follow_links))
    if len(classes) < 2:
        raise DataError(f"{parts['train']} has {len(classes)} class folders; expected two or more, with images in them")
    records = {part: _read_part(place, classes, follow_links) for part, place in parts.items()}
    if not len(records["train"]):
        raise DataError(f"no folder of {parts['train']} has an image ({', '.join(ENDINGS)}); expected class/image.jpg")
    return records, classes


def _read_part(folder: Path, classes: Sequence[str], follow_links: bool) -> Records:
    here = {entry.name for entry in _entries(folder) if _is_folder(entry, follow_links)}
    strange = sorted(here - set(classes))
    if strange:
        raise DataError(f"{folder} has the class {strange[0]!r}, which the training images lack; remove or rename it")
    names: list[str] = []
    labels: list[int] = []
    rejected: list[BadSample] = []
    for label, name in enumerate(classes):
        if name not in here:
            continue
        found = _images_below(folder, name, follow_links, rejected)
        if not found:
            rejected.append(BadSample(str(folder / name), Fault.NO_IMAGE))
        names += found
        labels += [label] * len(found)
    return Records(RecordTable.of_files(folder, names), np.array(labels, np.int32), tuple(rejected))


def _images_below(root: Path, name: str, follow_links: bool, rejected: list[BadSample]) -> list[str]:
    """Return the images of a class folder and the folders below it, sorted, as names below `root`."""
    found = []
    waiting = [name]
    while waiting:
        here = waiting.pop()
        try:
            entries = _entries(root / here)
        except DataError:
            rejected.append(BadSample(str(root / here), Fault.UNREADABLE))
            continue
        for entry in entries:
            place = f"{here}/{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and not follow_links and _leaves(Path(entry.path), root):
                rejected.append(BadSample(entry.path, Fault.LINK))
            elif entry.is_dir():
                waiting.append(place)
            elif entry.name.lower().endswith(ENDINGS):
                found.append(place)
            else:
                rejected.append(BadSample(entry.path, Fault.NOT_AN_IMAGE))
    return sorted(found)


def _is_folder(entry: os.DirEntry[str], follow_links: bool) -> bool:
    if entry.name.startswith("."):
        return False
    if (
        entry.is_symlink()
        and entry.is_dir()
        and not follow_links
        and _leaves(Path(entry.path), Path(entry.path).parent)
    ):
        raise DataError(f"{entry.path} is a link that leaves the data folder; give --follow-links to follow it")
    return entry.is_dir()


def _leaves(link: Path, root: Path) -> bool:
    return not link.resolve().is_relative_to(root.resolve())


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot read folder {folder}: {error.strerror}") from None
