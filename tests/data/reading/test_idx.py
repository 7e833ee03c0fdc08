from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.data.reading.idx import exchanged_axes, find_idx, read_idx
from adam_mp.data.reading.loading import load_data
from adam_mp.data.reading.options import LoadOptions
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


@pytest.mark.parametrize("prefixed", ["t10k", "train", "images", "labels"])
def test_files_of_two_prefixes_are_not_mixed(tmp_path, prefixed):
    for part in ("train", "t10k"):
        for kind, shape in (("images-idx3-ubyte", (4, 2, 2)), ("labels-idx1-ubyte", (4,))):
            name = f"{part}-{kind}"
            write_idx(tmp_path / (f"fashion-{name}" if prefixed in name else name), np.arange(4).repeat(
                int(np.prod(shape)) // 4).reshape(shape).astype(np.uint8))  # fmt: skip
    with pytest.raises(DataError, match="IDX files of several data sets: without a prefix, fashion; move"):
        load_data(tmp_path)
    if prefixed != "train":  # the files to test on are of one
        with pytest.raises(DataError, match="several data sets"):
            load_data(tmp_path, LoadOptions(only_test=True))


def test_a_packed_file_beside_a_plain_one_must_be_the_same(tmp_path):
    write_idx(tmp_path / "labels", np.arange(4, dtype=np.uint8))
    content = (tmp_path / "labels").read_bytes()
    (tmp_path / "labels.gz").write_bytes(gzip.compress(content))
    assert find_idx(tmp_path, "labels").name == "labels"
    (tmp_path / "labels.gz").write_bytes(gzip.compress(content[:-1] + b"9"))
    with pytest.raises(DataError, match=r"labels and .*labels.gz are not the same; remove the one"):
        find_idx(tmp_path, "labels")


@pytest.mark.parametrize("name", ["emnist/train-images-idx3-ubyte", "set/emnist-letters-train-images-idx3-ubyte"])
def test_images_that_lie_on_their_side_are_told(tmp_path, name):
    (line,) = exchanged_axes([tmp_path / name, tmp_path / "labels"])
    assert "rows and columns of each image exchanged" in line
    assert exchanged_axes([tmp_path / name.replace("emnist", "kmnist")]) == []


def test_emnist_as_an_object_is_told_too():
    class Chosen:
        def __init__(self, dataset, indices):
            self.dataset, self.indices = dataset, indices

        def __len__(self):
            return len(self.indices)

        def __getitem__(self, index):
            return self.dataset[self.indices[index]]

    class Letters:
        def __init__(self, items):
            self.items = items

        def __len__(self):
            return len(self.items)

        def __getitem__(self, index):
            return self.items[index]

    items = [(np.full((4, 4), 9 * number, np.uint8), number % 2) for number in range(6)]
    emnist = type("EMNIST", (Letters,), {})(items)
    for source in (emnist, Chosen(emnist, [3, 4, 5])):
        (line,) = load_data(source).notices
        assert "exchanged, and is read as it is" in line
        assert "unless a transform turns them" in line
    for name in ("Letters", "KMNIST", "NoiseMNIST"):
        assert load_data(type(name, (Letters,), {})(items)).notices == ()
