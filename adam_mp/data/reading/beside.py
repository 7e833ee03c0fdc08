"""What lies beside the data of a data folder: data of a second kind are refused, other folders and files are named."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Set
from pathlib import Path

from adam_mp.data.reading.account import some
from adam_mp.data.reading.image_kinds import is_dropping, is_run_folder
from adam_mp.data.reading.part_folders import has_image
from adam_mp.data.reading.part_names import part_of, part_of_word, pieces_of
from adam_mp.data.reading.shards import PACKED
from adam_mp.errors import DataError

_TABLES = (".csv", ".tsv", ".jsonl", ".xlsx")
_OF_LABELS = frozenset(("label", "labels", "class", "classes", "annotation", "annotations", "metadata", "trainlabels"))
_DATA = (".tar", ".npy", ".npz")
_PACKED = (".zip", *PACKED)
_UNREAD = (
    *_DATA, ".zip", ".rar", ".7z", ".tgz", ".tbz2", ".txz", ".gz", ".bz2", ".xz", ".zst", ".tfrecord", ".parquet",
)  # fmt: skip


def notes_beside(folder: Path, kind: str, used: Collection[str] = ()) -> list[str]:
    """Return lines about folders with data that are not used, beside data of a `kind` such as "tar shards".

    `used` are the names of entries that the data are in. Raises DataError if the folders are a second data set: if one
    has the name of a part, or if several have images.
    """
    inside = sorted(path for path in folder.iterdir() if path.name not in used and not is_dropping(path.name))
    folders = [path for path in inside if path.is_dir() and not is_run_folder(os.listdir(path)) and _has_data(path)]
    parts = [path for path in folders if part_of(path.name) is not None]
    if parts or len(folders) > 1:
        raise DataError(
            f"{folder} has {kind} and, beside them, data in the folders {some(f'{path.name}/' for path in folders)}; "
            "expected one kind of data: move the others away"
        )
    return [f"not used beside the {kind} in {folder}: the folder {path.name}/" for path in folders]


def unread_files(folders: Iterable[Path], used: Set[Path] = frozenset()) -> list[str]:
    """Return lines about files of data folders that hold data and are not read, such as `test.zip` beside `train/`.

    A packed file is passed over if a folder beside it, or the data folder itself, has its name: it was unpacked.
    """
    lines = []
    for folder in folders:
        entries = sorted(folder.iterdir())
        unpacked = {path.name for path in entries if path.is_dir()} | {folder.resolve().name}
        found = [path for path in entries if path.name.lower().endswith(_UNREAD) and not is_dropping(path.name)]
        spare = [path.name for path in found if path.name.partition(".")[0] not in unpacked and path not in used]
        if spare:
            lines.append(f"not read in {folder}: {some(spare)}; unpack or convert it if it belongs to the data")
    return lines


def unread_tables(folders: Iterable[Path]) -> list[str]:
    """Return lines about tables of data folders that may have the labels of images, such as `train.csv`."""
    tables = {
        folder: [path.name for path in sorted(folder.iterdir()) if _is_table_of_labels(path)] for folder in folders
    }
    return [
        f"not read in {folder}: {some(names)}; the class of an image is the name of its folder"
        for folder, names in tables.items()
        if names
    ]


def _is_table_of_labels(path: Path) -> bool:
    """Tell whether a file may have the labels of images, such as `train.csv`, by its name."""
    words = pieces_of(path.stem)
    named = any(word in _OF_LABELS or part_of_word(word) is not None for word in words)
    return path.name.lower().endswith(_TABLES) and named and not is_dropping(path.name) and path.is_file()


def _has_data(folder: Path) -> bool:
    """Tell whether a folder has images or arrays; in one with the name of a part, packed files count too."""
    endings = _DATA if part_of(folder.name) is None else (*_DATA, *_PACKED)
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_dropping(name)]
        if any(name.lower().endswith(endings) for name in names if not is_dropping(name)):
            return True
    return has_image(folder)
