"""Files of named tensors in the safetensors format: whole or absent, and checked when they are read.

A file is written beside its final name, flushed to the disk, and renamed; a reader never sees half of one. A checksum
over tensors and text stands in the metadata, so that a file damaged later is recognised too.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from adam_mp.errors import CheckpointError, refusal


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write tensors and text metadata to `path`, atomically. Raises OSError if the disk does not take it."""
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    content = save(whole, {**metadata, "checksum": _checksum(whole, metadata)})
    write_file(path, content)


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path`, atomically and durably. Raises OSError if the disk does not take it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # makes the new name itself durable
    finally:
        os.close(folder)


def read_tensors(path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read (tensors, metadata) from `path`, a file whose metadata says `format` = `kind`.

    Raises CheckpointError if it is missing, of another kind, or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected a file of format {kind}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except (OSError, MemoryError) as error:
        raise CheckpointError(f"cannot read {path}: {refusal(error)}") from None
    except (SafetensorError, ValueError, TypeError):  # its words are about the format
        raise CheckpointError(f"{path} is no model or checkpoint file of adam_mp, or is damaged") from None
    if metadata.get("format") != kind:
        raise CheckpointError(f"{path} has format {metadata.get('format')!r}, expected {kind!r}")
    if metadata.pop("checksum", None) != _checksum(tensors, metadata):
        raise CheckpointError(f"{path} is damaged: its contents do not match its checksum")
    return tensors, metadata


def _checksum(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    value = zlib.crc32(repr(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].reshape(-1).view(np.uint8).data, zlib.crc32(name.encode(), value))
    return f"{value:08x}"
