"""Arrays in files: one `.npz` file or a folder of `.npy` files, which hold images and labels under usual names."""

from __future__ import annotations

import dataclasses
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from adam_mp.data.reading.account import Account
from adam_mp.data.reading.array_names import assign_arrays, meaning_of
from adam_mp.data.reading.part_names import TEST, TRAIN
from adam_mp.errors import DataError


@dataclasses.dataclass(frozen=True)
class ArrayParts:
    """(images, labels) of each part ("train", "validation", "test"), and the account of what the files have."""

    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]
    account: Account


def has_array_files(folder: Path, part: str = TRAIN) -> bool:
    """Tell whether a folder has images and labels of a part as .npy files."""
    found = {meaning_of(path.stem) for path in _arrays_in(folder)}
    return {(part, "images"), (part, "labels")} <= found


def read_array_files(path: Path, only_test: bool = False) -> ArrayParts:
    """Return the arrays of an .npz file, or of a folder of .npy files.

    With `only_test`, those of the test part alone if there is one. Raises DataError if the files cannot be read, or
    have no training images and labels.
    """
    try:
        if path.is_dir():
            names = [file.stem for file in _arrays_in(path)]
            return _parts(path, names, lambda name: _load(path / f"{name}.npy"), only_test)
        if path.suffix.lower() == ".npz":
            # numpy would open the file itself, and leave it open if it is not an archive.
            with open(path, "rb") as file:
                found = np.load(file, allow_pickle=False)
                if isinstance(found, np.ndarray):
                    raise DataError(f"{path} is one array, as .npy files are, and no archive of images and labels")
                with found as archive:
                    return _parts(path, archive.files, archive.__getitem__, only_test)
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        if "Object arrays" in str(error):
            raise DataError(
                f"{path} cannot be read as arrays: one is of Python objects, and unpickling these could run any "
                "program; save it as numbers or text: numpy.array(labels.tolist())"
            ) from None
        if "allow_pickle" in str(error):  # numpy takes any file that does not begin as its own do for pickled objects
            raise DataError(f"{path} cannot be read as arrays: it is no file of numpy's, or a damaged one") from None
        raise DataError(f"{path} cannot be read as arrays: {error}") from None
    raise DataError(f"{path} alone has no labels; give a folder with images.npy and labels.npy, or one .npz file")


def _arrays_in(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.npy") if path.is_file()]


def _load(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, allow_pickle=False)
    return array


def _parts(path: Path, names: Iterable[str], load: Callable[[str], np.ndarray], only_test: bool) -> ArrayParts:
    found = assign_arrays(names, str(path), only_test)
    chosen = {TEST: found.pairs[TEST]} if only_test and TEST in found.pairs else found.pairs
    pairs = {part: (load(images), load(labels)) for part, (images, labels) in chosen.items()}
    places = {part: " and ".join(pair) for part, pair in found.pairs.items()}
    return ArrayParts(pairs, Account("arrays", places, found.parts_named, found.notes))
