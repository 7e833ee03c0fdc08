"""Image folders: a folder for each class, `cat/1.jpg`, `dog/2.png`; or the same below `train/`, `val/` and `test/`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from adam_mp.data.reading.faults import REASONS, BadSample, Fault
from adam_mp.data.reading.records import Records, RecordTable
from adam_mp.errors import DataError

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
PARTS: Mapping[str, Sequence[str]] = {
    "train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test", "testing"),
}  # fmt: skip


def is_image_folder(folder: Path) -> bool:
    """Tell whether `folder` has folders that may be classes or parts such as `train/`."""
    return bool(part_folders(folder)) or any(entry.is_dir() for entry in _entries(folder) if entry.name[0] != ".")


def part_folders(folder: Path) -> dict[str, Path]:
    """Return part -> folder for "train", "validation" and "test"; an empty dictionary if there is none for "train"."""
    found = {}
    for part, names in PARTS.items():
        for name in names:
            if (folder / name).is_dir():
                found[part] = folder / name
                break
    return found if "train" in found else {}


def read_image_folder(folder: Path, follow_links: bool) -> tuple[dict[str, Records], list[str]]:
    """Return the records of each part, and the sorted names of the classes; a class's index is its label.

    Without part folders, all of `folder` is "train". Links to folders, and links that lead out of `folder`, are
    followed only with `follow_links`. Raises DataError if there is nothing to train on, or if a part has a class that
    the training part lacks.
    """
    folder = folder.absolute()
    links = _Links(folder.resolve(), follow_links)
    parts = part_folders(folder) or {"train": folder}
    classes = _class_folders(parts["train"], links)
    if len(classes) < 2:
        raise DataError(f"{parts['train']} has {len(classes)} class folders; expected two or more, with images in them")
    records = {part: _read_part(place, classes, links) for part, place in parts.items()}
    if not len(records["train"]):
        raise DataError(f"no folder of {parts['train']} has an image ({', '.join(ENDINGS)}); expected class/image.jpg")
    return records, classes


@dataclasses.dataclass(frozen=True)
class _Links:
    """Which links are followed: all with `follow`, otherwise only links to files below `root`."""

    root: Path
    follow: bool

    def kind(self, entry: os.DirEntry[str]) -> str | Fault:
        """Return "folder" or "file", or the fault for which the entry is left out."""
        try:
            link = entry.is_symlink()
            if link and not self.follow:
                outside = not Path(entry.path).resolve().is_relative_to(self.root)
                if outside or entry.is_dir():
                    return Fault.LINK
            if entry.is_dir():
                return "folder"
            if entry.is_file():
                return "file"
        except (OSError, RuntimeError):  # for example a link to itself
            return Fault.UNREADABLE
        return Fault.MISSING if link else Fault.UNREADABLE


def _class_folders(folder: Path, links: _Links) -> list[str]:
    names = []
    for entry in _entries(folder):
        if entry.name.startswith("."):
            continue
        kind = links.kind(entry)
        if kind is Fault.LINK and entry.is_dir():
            raise DataError(f"{entry.path}: {REASONS[Fault.LINK]}")
        if kind == "folder":
            names.append(entry.name)
    return names


def _read_part(folder: Path, classes: Sequence[str], links: _Links) -> Records:
    here = set(_class_folders(folder, links))
    strange = sorted(here - set(classes))
    if strange:
        raise DataError(f"{folder} has the class {strange[0]!r}, which the training images lack; remove or rename it")
    names: list[str] = []
    labels: list[int] = []
    rejected: list[BadSample] = []
    for label, name in enumerate(classes):
        if name not in here:
            continue
        found = _images_below(folder, name, links, rejected)
        if not found:
            rejected.append(BadSample(str(folder / name), Fault.NO_IMAGE))
        names += found
        labels += [label] * len(found)
    return Records(RecordTable.of_files(folder, names), np.array(labels, np.int32), tuple(rejected))


def _images_below(root: Path, name: str, links: _Links, rejected: list[BadSample]) -> list[str]:
    """Return the images in a class folder and the folders below it, sorted, as names below `root`."""
    found = []
    waiting = [name]
    # No folder is read twice, so links may lead in circles. The folders above hold other classes and are not read.
    seen = {_identity(place) for place in (links.root, root, root / name)}
    while waiting:
        here = waiting.pop()
        try:
            entries = _entries(root / here)
        except DataError:
            rejected.append(BadSample(str(root / here), Fault.UNREADABLE))
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            kind = links.kind(entry)
            if isinstance(kind, Fault):
                rejected.append(BadSample(entry.path, kind))
            elif kind == "folder":
                identity = _identity(Path(entry.path))
                if identity not in seen:
                    seen.add(identity)
                    waiting.append(f"{here}/{entry.name}")
            elif entry.name.lower().endswith(ENDINGS):
                found.append(f"{here}/{entry.name}")
            else:
                rejected.append(BadSample(entry.path, Fault.NOT_AN_IMAGE))
    return sorted(found)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot read folder {folder}: {error.strerror}") from None
