"""IDX files, plain or gzipped: the format of MNIST and its relatives.

A file has two zero bytes, a type code, the number of dimensions, the size of each dimension as a big-endian 32-bit
number, and then the values.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from adam_mp.errors import DataError

_UNSIGNED_BYTE = 0x08
_LARGEST = 1 << 40  # bytes that a header may announce


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the uint8 array in an IDX file; raises DataError unless the file holds one of `dimensions` dimensions."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
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


def find_idx(folder: Path, name: str) -> Path:
    """Return the path of the IDX file `name` or `name.gz` in `folder`; raises DataError if the folder has neither."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"data folder {folder} has no {name} (or {name}.gz); expected the four IDX files of MNIST's names")
