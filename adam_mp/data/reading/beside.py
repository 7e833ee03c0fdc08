"""What lies beside the data of a data folder: data of a second kind are refused, other folders are named."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from adam_mp.data.reading.account import some
from adam_mp.data.reading.image_kinds import is_dropping
from adam_mp.data.reading.part_folders import has_image
from adam_mp.data.reading.part_names import part_of
from adam_mp.errors import DataError

_DATA = (".tar", ".npy", ".npz")


def notes_beside(folder: Path, kind: str, used: Collection[str] = ()) -> list[str]:
    """Return lines about folders with data that are not used, beside data of a `kind` such as "tar shards".

    `used` are the names of entries that the data are in. Raises DataError if the folders are a second data set: if one
    has the name of a part, or if several have images.
    """
    inside = sorted(path for path in folder.iterdir() if path.name not in used and not is_dropping(path.name))
    folders = [path for path in inside if path.is_dir() and _has_data(path)]
    parts = [path for path in folders if part_of(path.name) is not None]
    if parts or len(folders) > 1:
        raise DataError(
            f"{folder} has {kind} and, beside them, data in the folders {some(f'{path.name}/' for path in folders)}; "
            "expected one kind of data: move the others away"
        )
    return [f"not used beside the {kind} in {folder}: the folder {path.name}/" for path in folders]


def _has_data(folder: Path) -> bool:
    return has_image(folder) or any(path.suffix.lower() in _DATA for path in folder.iterdir())
