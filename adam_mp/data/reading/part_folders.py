"""Part folders: `train/`, `val/` and `test/` of a data folder, however they are spelled, and what lies beside them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from adam_mp.data.reading.account import some
from adam_mp.data.reading.image_kinds import has_image_ending, is_dropping, is_image_within, is_run_folder
from adam_mp.data.reading.part_names import TEST, TRAIN, VALIDATION, WANTED, part_meant, part_of
from adam_mp.errors import DataError, several


@dataclasses.dataclass(frozen=True)
class PartFolders:
    """The folders of a data folder's parts, by part, if it has any. `notes` name folders beside that are unused."""

    places: Mapping[str, Path]
    notes: tuple[str, ...] = ()


def find_part_folders(folder: Path, train_wanted: bool = True) -> PartFolders:
    """Find the part folders of a data folder.

    Raises DataError if two folders with images are the same part, if a folder's name is almost a part's, or if there is
    a part but none to train on (unless `train_wanted` is false).
    """
    names = _folders(folder)
    found: dict[str, list[str]] = {}
    for name in names:
        if (part := part_of(name)) is not None:
            found.setdefault(part, []).append(name)
    if not found:
        return PartFolders({})
    places = {part: folder / _only(folder, part, spelled) for part, spelled in found.items()}
    if TRAIN not in places and train_wanted:
        _check_no_part_alone(folder, places, names)
        return PartFolders({})
    order = (TRAIN, VALIDATION, TEST)
    places = {part: places[part] for part in order if part in places}
    _check_apart(places)
    beside = [name for name in names if part_of(name) is None]
    for name in beside:
        meant = part_meant(name)
        if meant is not None and meant not in places and has_image(folder / name):
            raise DataError(
                f"{folder / name} is no part: its name is not understood; call it {WANTED[meant]}/, or move it"
            )
    notes = []
    if beside:
        notes.append(
            f"not used beside {_listed(places)} in {folder}: the folders {some(f'{name}/' for name in beside)}"
        )
    loose = sum(has_image_ending(entry.name) and not is_dropping(entry.name) for entry in _scan(folder))
    if loose:
        notes.append(f"not used beside {_listed(places)} in {folder}: {several(loose, 'image')} in no folder")
    return PartFolders(places, tuple(notes))


def refuse_misspelt(folder: Path, names: list[str], holds_folders: Callable[[str], bool]) -> None:
    """Raise DataError if one of a data folder's class folders was probably meant as a part.

    That is one with a name that is almost a part's, in which images lie in folders alone (`holds_folders`).
    """
    meant = {name: part for name in names if (part := part_meant(name)) is not None and holds_folders(name)}
    if meant:
        said = " and ".join(f"{name}/ {WANTED[part]}/" for name, part in sorted(meant.items()))
        raise DataError(
            f"the folders of {folder} look like parts, not classes, but their names are not understood: call {said}"
        )


def has_image(folder: Path) -> bool:
    """Tell whether a folder or one below it has an image, by its ending or its first bytes."""
    for here, folders, files in os.walk(folder):
        if is_run_folder(files):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not is_dropping(name)]
        names = [name for name in files if not is_dropping(name)]
        if any(map(has_image_ending, names)):
            return True
        if any(is_image_within(os.path.join(here, name)) for name in names):
            return True
    return False


def _only(folder: Path, part: str, spelled: list[str]) -> str:
    """Return the one folder of a part; of several, the one that has images."""
    if len(spelled) == 1:
        return spelled[0]
    full = [name for name in spelled if has_image(folder / name)]
    if len(full) > 1:
        raise DataError(
            f"{folder} has {len(full)} folders that name its {part} part: {', '.join(full)}; keep one, "
            "put the images of the others into it or move them away"
        )
    return (full or spelled)[0]


def _check_apart(places: Mapping[str, Path]) -> None:
    """Raise DataError if a part is a link to another: images to train on would be tested."""
    seen: dict[tuple[int, int], Path] = {}
    for place in places.values():
        status = place.stat()
        if (other := seen.setdefault((status.st_dev, status.st_ino), place)) is not place:
            raise DataError(f"{place} and {other} are two parts, but one folder by two names; give each its own images")


def _check_no_part_alone(folder: Path, places: Mapping[str, Path], names: list[str]) -> None:
    """Raise DataError if a data folder without a part to train on has another part with images."""
    full = {part: place for part, place in places.items() if has_image(place)}
    if not full:
        return
    others = [name for name in names if part_of(name) is None]
    misspelt = [name for name in others if part_meant(name) == TRAIN]
    todo = f"call {misspelt[0]}/ train/" if misspelt else "put the class folders to train on into train/"
    if others and not misspelt:
        todo += f" ({some(others)}; {_listed(full)} too, if that is a class)"
    raise DataError(f"{folder} has {_listed(full)}, but no train/ to train on; {todo}")


def _listed(places: Mapping[str, Path]) -> str:
    return " and ".join(f"{place.name}/" for place in places.values())


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _scan(folder) if not is_dropping(entry.name) and entry.is_dir())


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"cannot read folder {folder}: {error.strerror}") from None
