from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.data.reading.idx import find_idx, read_idx
from adam_mp.errors import DataError
from tests.system.conftest import write_idx


@given(st.lists(st.integers(0, 6), min_size=1, max_size=3), st.booleans())
def test_what_is_written_is_read(tmp_path_factory, shape, zipped):
    path = tmp_path_factory.getbasetemp() / ("idx.gz" if zipped else "idx")
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_idx(path, array)
    read = read_idx(path, len(shape))
    assert read.shape == tuple(shape)
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("zipped", [False, True])
def test_every_truncation_is_recognised(tmp_path, zipped):
    write_idx(tmp_path / "whole", np.ones((2, 3), np.uint8))
    content = (tmp_path / "whole").read_bytes()
    content = gzip.compress(content) if zipped else content
    path = tmp_path / "cut"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="cut"):
            read_idx(path, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes((0, 0, 8, 3)) + bytes(20), "begins with 00000803, expected 00000801"),
        (bytes((0, 0, 8, 1, 0, 0, 0, 2)) + b"abc", "too long"),
        (bytes((0, 0, 8, 1, 255, 255, 255, 255)), "truncated"),
        (bytes((0, 0, 13, 1, 0, 0, 0, 0)), "not an IDX file"),
        (b"\x1f\x8b" + b"nonsense", "gzip"),
    ],
)
def test_other_damage(tmp_path, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(path, 1)


def test_files_are_found_plain_or_zipped(tmp_path):
    with pytest.raises(DataError, match="has no labels"):
        find_idx(tmp_path, "labels")
    (tmp_path / "labels.gz").write_bytes(b"")
    assert find_idx(tmp_path, "labels").name == "labels.gz"
    (tmp_path / "labels").write_bytes(b"")
    assert find_idx(tmp_path, "labels").name == "labels"
    with pytest.raises(DataError, match="cannot read"):
        read_idx(tmp_path / "nothing", 1)
