"""Files of named tensors in the safetensors format: whole or absent, and checked when they are read.

A file is written under another name, flushed to the disk, and renamed: so a reader never sees half a file. The metadata
has a checksum over tensors and text, so that a file damaged later is recognised. Arrays are written from their own
memory, and read in pieces into their final place: neither needs memory for a second copy.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from adam_mp.errors import CheckpointError, refusal

_PIECE = 4 << 20  # bytes read at once
_KINDS = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write tensors and text metadata to `path`, atomically. Raises OSError if the disk refuses.

    A tensor that is not contiguous is copied, one at a time; one that lies in parts is fetched in pieces, twice.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # large items first: so all are aligned
    header: dict[str, Any] = {"__metadata__": {**metadata, "checksum": _checksum_of(tensors, metadata)}}
    offset = 0
    for name in names:
        tensor, end = tensors[name], offset + tensors[name].nbytes
        kind = _KINDS[tensor.dtype.name]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    contents = (piece for name in names for piece in _bytes_of_all(tensors[name]))
    _write(path, (len(text).to_bytes(8, "little"), text), contents)


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path`, atomically and durably. Raises OSError if the disk refuses."""
    _write(path, (content,))


def _write(path: Path, *parts: Iterable[bytes | memoryview]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            for part in parts:
                file.writelines(part)
            file.flush()
            _make_durable(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        _make_durable(folder)  # the new name itself
    finally:
        os.close(folder)


def _make_durable(descriptor: int) -> None:
    """Have the disk take what was written; some file systems (FUSE, SMB) cannot be told so, and do it by themselves."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP):
            raise


def read_tensors(path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read (tensors, metadata) from `path`, whose `format` in the metadata must be `kind`.

    Raises CheckpointError if the file is missing, of another format, or damaged.
    """
    file = TensorFile(path, kind)
    try:
        tensors = {name: np.empty(shape, dtype) for name, (dtype, shape) in file.forms.items()}
    except MemoryError as error:
        raise CheckpointError(f"cannot read {path}: {refusal(error)}") from None
    file.read(tensors)
    return tensors, file.metadata


class TensorFile:
    """A file of tensors: its `metadata`, and `forms`: name -> (dtype, shape). `read` reads and checks the tensors.

    Raises CheckpointError if the file is missing, of another format than `kind`, or damaged.
    """

    def __init__(self, path: Path, kind: str) -> None:
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist; expected a file of format {kind}")
        self._path = path
        with _Reading(path) as file:
            self.metadata = dict(file.metadata() or {})
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, not a dict
            self.forms = {
                name: (_dtype(part.get_dtype()), tuple(part.get_shape())) for name, part in slices.items()
            }  # fmt: skip
        if self.metadata.get("format") != kind:
            raise CheckpointError(f"{path} has format {self.metadata.get('format')!r}, expected {kind!r}")
        self._checksum = self.metadata.pop("checksum", None)

    def check_form(self, name: str, dtype: np.dtype | type, shape: tuple[int, ...]) -> None:
        """Raise CheckpointError unless the file has a tensor of this name, dtype and shape."""
        if name not in self.forms:
            raise CheckpointError(f"{self._path} lacks {name}")
        if self.forms[name] != (np.dtype(dtype), shape):
            has, expected = (f"{np.dtype(kind)} {list(size)}" for kind, size in (self.forms[name], (dtype, shape)))
            raise CheckpointError(f"{self._path} has {name} as {has}; expected {expected}")

    def read(self, places: Mapping[str, Any]) -> None:
        """Read tensors into the arrays `places`, by name. Tensors that are not in `places` are only checked.

        Raises CheckpointError if a tensor is missing or has another dtype or shape, or if the file is damaged; arrays
        may have been filled by then.
        """
        for name, place in places.items():
            self.check_form(name, place.dtype, place.shape)
        value = _checksum_begun(self.metadata)
        with _Reading(self._path) as file:
            for name in sorted(self.forms):
                value = zlib.crc32(name.encode(), value)
                for rows, piece in _pieces(file, name, self.forms[name]):
                    value = zlib.crc32(_bytes_of(piece), value)
                    if name in places:
                        places[name][rows] = piece
        if self._checksum != f"{value:08x}":
            raise CheckpointError(f"{self._path} is damaged: its contents do not match its checksum")


class _Reading:
    """Opens a file of tensors, as a context; errors of reading it become CheckpointError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Any:
        try:
            opened: Any = safe_open(self._path, framework="numpy")
            self._file = opened.__enter__()
        except BaseException as error:
            self._translate(error)
            raise
        return self._file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._file.__exit__(kind, error, trace)
        if error is not None:
            self._translate(error)

    def _translate(self, error: BaseException) -> None:
        if isinstance(error, (OSError, MemoryError)):
            raise CheckpointError(f"cannot read {self._path}: {refusal(error)}") from None
        if isinstance(error, (SafetensorError, ValueError, TypeError, KeyError)):  # its text would not help a user
            raise CheckpointError(f"{self._path} is no model or checkpoint file of adam_mp, or is damaged") from None


def _dtype(kind: str) -> np.dtype:
    """Return the dtype of a name in the safetensors format, such as "F32"; raises KeyError."""
    return np.dtype({short: name for name, short in _KINDS.items()}[kind])


def _pieces(
    file: Any, name: str, form: tuple[np.dtype, tuple[int, ...]]
) -> Iterator[tuple[slice | tuple[()], np.ndarray]]:
    """Yield a tensor in pieces of some rows each, as (index of the piece in the tensor, piece)."""
    dtype, shape = form
    if not shape:
        yield (), file.get_tensor(name)
        return
    part = file.get_slice(name)
    for rows in _rows_of(shape, dtype.itemsize):
        yield rows, part[rows]


def _bytes_of_all(tensor: Any) -> Iterator[memoryview]:
    """Yield the bytes of a tensor; of one that lies in parts some rows at a time."""
    if isinstance(tensor, np.ndarray):
        yield _bytes_of(tensor)
        return
    for rows in _rows_of(tensor.shape, tensor.itemsize):
        yield _bytes_of(tensor[rows])


def _rows_of(shape: tuple[int, ...], itemsize: int) -> Iterator[slice]:
    """Yield the rows of the pieces in which a tensor of this shape is read and written."""
    step = max(1, _PIECE // max(itemsize * int(np.prod(shape[1:], dtype=np.int64)), 1))
    for first in range(0, shape[0], step):
        yield slice(first, min(first + step, shape[0]))


def _bytes_of(tensor: np.ndarray) -> memoryview:
    """Return a tensor's bytes as a file has them: contiguous, little-endian; a view where the tensor is so already."""
    return np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data


def _checksum_of(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    value = _checksum_begun(metadata)
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        for piece in _bytes_of_all(tensors[name]):
            value = zlib.crc32(piece, value)
    return f"{value:08x}"


def _checksum_begun(metadata: Mapping[str, str]) -> int:
    return zlib.crc32(repr(sorted(metadata.items())).encode())
