"""Class folders: which images lie below each folder of one part, and what else was found there."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from adam_mp.data.reading.faults import REASONS, BadSample, Fault
from adam_mp.data.reading.image_kinds import (
    MOST_IN_RUN,
    has_image_ending,
    hidden_image,
    is_dropping,
    is_run_folder,
    judge_other,
)
from adam_mp.data.reading.labels import class_name
from adam_mp.errors import DataError


@dataclasses.dataclass(frozen=True)
class ClassFound:
    """The images of a class: sorted names below the part's folder; `direct` of them lie in the class folder itself."""

    images: list[str]
    direct: int


@dataclasses.dataclass(frozen=True)
class PartFound:
    """What the folder of a part has.

    `classes` are those of its folders that have images, by name (see `labels.class_name`); `folders` the names of all
    its folders.
    `loose` counts the images that lie in no folder. `rejected` are the files that were left out.
    """

    folder: Path
    classes: Mapping[str, ClassFound]
    folders: frozenset[str]
    loose: int
    rejected: list[BadSample]

    def inner_classes(self) -> dict[str, ClassFound] | None:
        """Return the folders inside the class folders as classes, if all class folders have the same, two or more.

        `a/red/1.jpg` and `b/red/1.jpg` are then of class red. None if class folders differ, or have images themselves.
        """
        if len(self.classes) < 2 or any(each.direct for each in self.classes.values()):
            return None
        inside: list[dict[str, list[str]]] = []
        for each in self.classes.values():
            groups: dict[str, list[str]] = {}
            for name in each.images:
                groups.setdefault(class_name(name.split("/", 2)[1]), []).append(name)
            inside.append(groups)
        names = set(inside[0])
        if len(names) < 2 or any(set(groups) != names for groups in inside):
            return None
        joined = {name: [image for groups in inside for image in groups[name]] for name in sorted(names)}
        return {name: ClassFound(images, sum(i.count("/") == 2 for i in images)) for name, images in joined.items()}


def find_classes(folder: Path, root: Path, follow_links: bool) -> PartFound:
    """Find the images below each folder of `folder`, a part of the data folder `root` or `root` itself.

    Links to folders, and links that lead out of `root`, are followed only with `follow_links`. Raises DataError if
    `folder` cannot be read, or if one of its folders is such a link.
    """
    links = _Links(root.resolve(), follow_links, folder.resolve())
    classes: dict[str, ClassFound] = {}
    folders: set[str] = set()
    places: dict[tuple[int, int], str] = {}
    linked: Counter[str] = Counter()  # images of a class folder to which links in others lead
    loose: list[str] = []
    rejected: list[BadSample] = []
    for entry in _entries(folder):
        if is_dropping(entry.name):
            continue
        kind = links.kind(entry)
        if kind is Fault.LINK and entry.is_dir():
            raise DataError(f"{entry.path}: {REASONS[Fault.LINK]}")
        if kind == "folder":
            name = class_name(entry.name)
            if (same := places.setdefault(_identity(Path(entry.path)), entry.path)) != entry.path:
                raise DataError(f"{entry.path} and {same} are one folder by two names; remove the link")
            folders.add(name)
            found = _images_below(folder, entry.name, links, rejected, linked)
            if found.images and name in classes:  # two folders whose names are the same but for their encoding
                images = sorted(classes[name].images + found.images)
                classes[name] = ClassFound(images, classes[name].direct + found.direct)
            elif found.images:
                classes[name] = found
            else:
                rejected.append(BadSample(entry.path, Fault.NO_IMAGE))
        elif has_image_ending(entry.name):
            loose.append(entry.path)
    store = next(
        (name for name, count in linked.items() if name in classes and 2 * count >= len(classes[name].images)), None
    )
    if store is not None:
        raise DataError(
            f"{linked[store]:,} of {len(classes[store].images):,} images of {folder / store} are in other class "
            f"folders too, by links: {store} seems to be a store of images, and no class; move it out of {folder}"
        )
    if classes:
        rejected += [BadSample(path, Fault.NO_CLASS) for path in loose]
    return PartFound(folder, classes, frozenset(folders), len(loose), rejected)


@dataclasses.dataclass(frozen=True)
class _Links:
    """Which links are followed: all with `follow`, otherwise only links to files below `root`. `part` is resolved."""

    root: Path
    follow: bool
    part: Path

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


def _images_below(
    root: Path, name: str, links: _Links, rejected: list[BadSample], linked: Counter[str]
) -> ClassFound:  # fmt: skip
    """Return the images in a class folder and the folders below it, as names below `root`.

    `linked` counts links to images in other class folders, by these.
    """
    found: list[str] = []
    direct = 0
    waiting = [name]
    # No folder is read twice, so links may lead in circles. The folders above hold other classes and are not read.
    seen = {_identity(place) for place in (links.root, root, root / name)}
    while waiting:
        here = waiting.pop()
        try:
            entries = _entries(root / here)
        except DataError as error:
            rejected.append(BadSample(str(root / here), Fault.UNREADABLE, str(error).rpartition(": ")[2].lower()))
            continue
        if is_run_folder([entry.name for entry in entries[: MOST_IN_RUN + 1]]):
            continue
        for entry in entries:
            image = has_image_ending(entry.name)
            # Nearly all entries are such: ask no more about them.
            if image and entry.name[0] != "." and entry.is_file(follow_symlinks=False):
                found.append(f"{here}/{entry.name}")
                continue
            if is_dropping(entry.name):
                if hidden_image(entry.name):
                    rejected.append(BadSample(entry.path, Fault.HIDDEN))
                continue
            kind = links.kind(entry)
            if isinstance(kind, Fault):
                rejected.append(BadSample(entry.path, kind))
            elif kind == "folder":
                identity = _identity(Path(entry.path))
                if identity not in seen:
                    seen.add(identity)
                    waiting.append(f"{here}/{entry.name}")
            elif image or (bad := judge_other(entry.path)) is None:
                found.append(f"{here}/{entry.name}")
                other = _class_of_target(entry, links.part) if entry.is_symlink() else name
                linked[other] += other != name
            else:
                rejected.append(bad)
        if here == name:
            direct = len(found)
    return ClassFound(sorted(found), direct)


def _class_of_target(link: os.DirEntry[str], part: Path) -> str:
    """Return the class folder below `part` in which the target of a link lies; an empty text if it lies elsewhere."""
    target = os.path.realpath(link.path)
    prefix = f"{part}{os.sep}"
    return target[len(prefix) :].partition(os.sep)[0] if target.startswith(prefix) else ""


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot read folder {folder}: {error.strerror}") from None
