"""Arrays in files: one `.npz` file or a folder of `.npy` files, which hold images and labels under usual names."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from adam_mp.errors import DataError

# Names of images and labels, for the training and the test part; the first pair that the files have is taken.
_NAMES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels"), ("x", "y"),
              ("arr_0", "arr_1")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels"), ("arr_2", "arr_3")),
}  # fmt: skip


def has_array_files(folder: Path) -> bool:
    """Tell whether a folder has training images and labels as .npy files."""
    return _find({path.stem for path in folder.glob("*.npy")}, "train") is not None


def read_array_files(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (images, labels) for "train" and, if the files have them, for "test".

    Raises DataError if the files cannot be read, or have no training images and labels.
    """
    try:
        if path.is_dir():
            return _parts(path, [file.stem for file in path.glob("*.npy")], lambda name: _load(path / f"{name}.npy"))
        if path.suffix == ".npz":
            # numpy would open the file itself, and leave it open if it is not an archive.
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                return _parts(path, archive.files, archive.__getitem__)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{path} cannot be read as arrays: {error}") from None
    raise DataError(f"{path} alone has no labels; give a folder with images.npy and labels.npy, or one .npz file")


def _load(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, allow_pickle=False)
    return array


def _parts(
    path: Path, names: Iterable[str], load: Callable[[str], np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    names = set(names)
    parts = {}
    for part in _NAMES:
        pair = _find(names, part)
        if pair is not None:
            parts[part] = (load(pair[0]), load(pair[1]))
    if "train" not in parts:
        pairs = ", ".join(f"{images} and {labels}" for images, labels in _NAMES["train"])
        raise DataError(f"{path} has the arrays {', '.join(sorted(names)) or 'none'}; expected {pairs}")
    return parts


def _find(names: set[str], part: str) -> tuple[str, str] | None:
    return next((pair for pair in _NAMES[part] if names.issuperset(pair)), None)
