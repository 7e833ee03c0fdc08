"""IDX files, plain or gzipped: the format of MNIST and its relatives.

A file has two zero bytes, a type code, the number of dimensions, the size of each dimension as a big-endian 32-bit
number, and then the values.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from adam_mp.errors import DataError

_UNSIGNED_BYTE = 0x08
_LARGEST = 1 << 40  # bytes that a header may announce
_MOST_ZIPPED = 3  # times that a file may be gzipped, one inside the other
# MNIST's four names with the points, prefixes and endings that mirrors and unpackers give them.
_NAME = re.compile(
    r"(?:(?P<prefix>.+?)[-_. ])?(?P<part>training|train|testing|test|t10k)[-_. ]?(?P<role>image|label)s?"
    r"(?P<rest>(?:[-_. ]?(?:idx[0-9]?|ubyte|gz|bin))+)", re.IGNORECASE,
)  # fmt: skip
_EMNIST = re.compile("(?<![A-Z])EMNIST|(?<![A-Za-z])[Ee]mnist")  # but not NoiseMNIST
_EXCHANGED = (
    "EMNIST is published with rows and columns of each image exchanged, and is read as it is: a model that was trained "
    "so gives upright images wrong classes"
)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the uint8 array in an IDX file; raises DataError unless the file holds one of `dimensions` dimensions."""
    try:
        content = _unzipped(path.read_bytes())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is truncated or damaged gzip ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise DataError(f"{path} is truncated: {len(content)} bytes, but the header alone has {header}")
    magic, expected = content[:4], bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if magic != expected:
        raise DataError(f"{path} is not an IDX file of {dimensions} dimensions of bytes: begins with "
                        f"{magic.hex()}, expected {expected.hex()}")  # fmt: skip
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    size = math.prod(shape)
    if size > _LARGEST or len(content) - header != size:
        verb = "truncated" if len(content) - header < size else "too long"
        sides = " x ".join(map(str, shape))
        raise DataError(f"{path} is {verb}: its header says {sides} = {size} bytes, it has {len(content) - header}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _unzipped(content: bytes) -> bytes:
    for _ in range(_MOST_ZIPPED):
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    return content


def has_idx(folder: Path) -> bool:
    """Tell whether a folder has IDX files, or folders, with names like those of MNIST's four."""
    return any(_slot(entry.name) is not None for entry in folder.iterdir())


def find_idx(folder: Path, name: str) -> Path:
    """Return the path of the IDX file `name` in `folder`, by its own name, gzipped, or by another that means the same.

    Other names are those with points (`train-images.idx3-ubyte`), in capitals, with one prefix that all four have
    (`emnist-letters-train-...`), or of a folder that holds the file. Raises DataError if there is none, or if there are
    files of several prefixes.
    """
    plain, packed = folder / name, folder / f"{name}.gz"
    if plain.is_file() and packed.is_file():
        _check_same(plain, packed)
    for path in (plain, packed):
        if path.is_file():
            return path
    wanted = _slot(name)
    alike = {entry: slot for entry in sorted(folder.iterdir()) if (slot := _slot(entry.name)) is not None}
    if wanted is not None:
        if len(prefixes := sorted({slot[0] for slot in alike.values()})) > 1:
            names = ", ".join(prefix or "without a prefix" for prefix in prefixes)
            raise DataError(
                f"data folder {folder} has IDX files of several data sets: {names}; move the four files of one into a "
                "folder of their own"
            )
        found = [file for entry, slot in alike.items() if slot[1:] == wanted[1:] for file in _files_in(entry)]
        if found:
            return min(found, key=lambda path: (path.suffix.lower() == ".gz", path.name))
    beside = [f"{entry.name}, a folder without such a file" if entry.is_dir() else entry.name for entry in alike]
    has = f"; it has {', '.join(beside[:8])}" if beside else ""
    raise DataError(
        f"data folder {folder} has no {name} (or {name}.gz); expected the four IDX files of MNIST's names{has}"
    )


def _check_same(plain: Path, packed: Path) -> None:
    """Raise DataError if a file is not what its gzipped neighbour holds."""
    try:
        same = _unzipped(plain.read_bytes()) == _unzipped(packed.read_bytes())
    except (OSError, EOFError, zlib.error, gzip.BadGzipFile):
        return  # it is told when the file is read
    if not same:
        raise DataError(f"{plain} and {packed} are not the same; remove the one that is not meant")


def unused_idx(folder: Path, used: Sequence[Path]) -> list[str]:
    """Return a line about IDX files of a folder that are not among those that are `used`, nor a packed copy of one."""
    taken = {path.relative_to(folder).parts[0] for path in used}
    known = taken | {name.lower().removesuffix(".gz") for name in taken} | {f"{name}.gz" for name in taken}
    names = sorted(entry.name for entry in folder.iterdir())
    spare = [name for name in names if name not in known and re.search("idx[0-9]?[-_. ]?ubyte", name, re.IGNORECASE)]
    return [f"not used in {folder}: {', '.join(spare[:8])}"] if spare else []


def exchanged_axes(used: Sequence[Path]) -> list[str]:
    """Return a line if files are those of EMNIST by their names, or their folder's: its images lie on their side."""
    if not any(_EMNIST.search(f"{path.absolute().parent.name}/{path.name}") for path in used):
        return []
    return [f"{_EXCHANGED}; to have upright ones, give arrays, images.transpose(0, 2, 1)"]


def exchanged_items(kinds: Iterable[str]) -> list[str]:
    """Return a line if one of the kinds of objects that items are from is EMNIST by its name, as torchvision's is."""
    if not any(map(_EMNIST.search, kinds)):
        return []
    return [f"{_EXCHANGED}, unless a transform turns them: image.transpose(PIL.Image.Transpose.TRANSPOSE)"]


def _slot(name: str) -> tuple[str, str, str] | None:
    """Return (prefix, "train" or "test", "image" or "label") for the name of an IDX file, None for another name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    part = "train" if match["part"].lower().startswith("train") else "test"
    return (match["prefix"] or "").lower(), part, match["role"].lower()


def _files_in(entry: Path) -> list[Path]:
    """Return the file itself, or the IDX file inside a folder that has its name, as some unpackers leave it."""
    if entry.is_file():
        return [entry]
    if not entry.is_dir():
        return []
    inside = sorted(path for path in entry.iterdir() if path.is_file() and path.name[0] != ".")
    named = [path for path in inside if _slot(path.name) is not None]
    return named[:1] or (inside if len(inside) == 1 else [])
