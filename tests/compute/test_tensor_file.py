"""Files of tensors: what safetensors itself reads and writes, and how little memory that takes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load, save

from adam_mp.compute.tensor_file import TensorFile, _checksum_of, read_tensors, write_tensors
from adam_mp.errors import CheckpointError

TENSORS = {
    "weights/a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "weights/b": np.arange(5, dtype=np.float32)[::2],  # not contiguous
    "ledger": np.array([1, 2, 3], np.uint8),
    "wide": np.arange(4, dtype=">f8"),
    "one": np.array(2.5, np.float32),
    "none": np.zeros((0, 3), np.int64),
}
METADATA = {"format": "test", "state": '{"\u00e9": 1}'}
LARGE = 24 << 20


def check(tensors):
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, TENSORS[name])
        assert (tensor.dtype.name, tensor.shape) == (TENSORS[name].dtype.name, TENSORS[name].shape)


def test_safetensors_reads_what_is_written_and_the_other_way_round(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, METADATA)
    check(load(path.read_bytes()))
    tensors, metadata = read_tensors(path, "test")
    check(tensors)
    assert metadata == METADATA
    whole = {name: np.ascontiguousarray(tensor).reshape(tensor.shape) for name, tensor in TENSORS.items()}
    path.write_bytes(save(whole, {**METADATA, "checksum": _checksum_of(TENSORS, METADATA)}))
    check(read_tensors(path, "test")[0])


def test_tensors_are_read_into_their_places_and_all_of_the_file_is_checked(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, METADATA)
    place = np.zeros((2, 3), np.float32)
    TensorFile(path, "test").read({"weights/a": place})
    np.testing.assert_array_equal(place, TENSORS["weights/a"])
    with pytest.raises(CheckpointError, match=r"has weights/a as float32 \[2, 3\]; expected float32 \[6\]"):
        TensorFile(path, "test").read({"weights/a": place.reshape(6)})
    with pytest.raises(CheckpointError, match="lacks weights/c"):
        TensorFile(path, "test").read({"weights/c": place})
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # of another tensor
    with pytest.raises(CheckpointError, match="checksum"):
        TensorFile(path, "test").read({"weights/a": place})


def test_neither_way_takes_the_memory_of_a_copy(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {name: np.ones((64, LARGE // 512), np.float32) for name in ("a", "b")}
    places = {name: np.zeros_like(tensor) for name, tensor in tensors.items()}
    tracemalloc.start()
    try:
        write_tensors(path, tensors, METADATA)
        TensorFile(path, "test").read(places)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert places["b"].all()
    assert most < LARGE // 2
