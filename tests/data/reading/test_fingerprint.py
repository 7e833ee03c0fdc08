"""Fingerprints: the same data have the same wherever they lie, other data another, and a line says what differs."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest

from adam_mp.data.reading import fingerprint as module
from adam_mp.data.reading.fingerprint import Fingerprint
from adam_mp.data.reading.loading import load_data
from adam_mp.data.reading.options import LoadOptions
from adam_mp.errors import RunFolderError
from adam_mp.training.plan.same_data import check_same_data, data_difference, data_identity
from tests.data.pictures_on_disk import encode, pixels, write_folder, write_shard
from tests.system.conftest import write_idx


def identity_of(source):
    data = load_data(source)
    kept = {"data": data_identity(data), "data_digest": data.digest}
    return json.loads(json.dumps(kept))  # as a checkpoint has it


def folder_of_parts(place):
    for part, count in (("train", 4), ("val", 2), ("test", 2)):
        write_folder(place / part, count)
    return place


def plain_folder(place):
    write_folder(place, 4)
    return place


def shards(place):
    place.mkdir()
    for number in range(2):
        samples = [{"jpg": encode(pixels(name, 2 * number + k), "JPEG"), "cls": b"%d" % label}
                   for k in range(2) for label, name in enumerate(("red", "blue"))]  # fmt: skip
        write_shard(place / f"set-{number}.tar", samples)
    return place


def array_file(place):
    place.mkdir()
    generator = np.random.default_rng(1)
    np.savez(place / "data.npz", images=generator.integers(0, 99, (40, 4, 4), np.uint8), labels=np.arange(40) % 2)
    return place / "data.npz"


def idx_files(place):
    place.mkdir()
    for part, count in (("train", 20), ("t10k", 6)):
        write_idx(place / f"{part}-images-idx3-ubyte", np.arange(count * 16, dtype=np.uint8).reshape(count, 4, 4))
        write_idx(place / f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 2)
    return place


KINDS = {each.__name__: each for each in (folder_of_parts, plain_folder, shards, array_file, idx_files)}


@pytest.mark.parametrize("kind", KINDS)
def test_data_that_moved_are_the_same(tmp_path, monkeypatch, kind):
    place = KINDS[kind](tmp_path / "here")
    identity = identity_of(str(place))
    monkeypatch.chdir(tmp_path)
    shutil.move("here", "there")
    moved = "there" + str(place).removeprefix(str(tmp_path / "here"))
    for spelled in (moved, moved + "/" * (not moved.endswith("npz")), os.path.abspath(moved)):
        assert data_difference(identity, load_data(spelled)) is None
        assert load_data(spelled).digest == identity["data_digest"]


def test_what_differs_is_said(tmp_path):
    place = folder_of_parts(tmp_path / "c")
    identity = identity_of(place)
    red = place / "train" / "red"

    def changed(change, back):
        change()
        why = data_difference(identity, load_data(place))
        back()
        assert data_difference(identity, load_data(place)) is None
        return why

    first = red / "0000.jpg"
    content = first.read_bytes()
    assert changed(first.unlink, lambda: first.write_bytes(content)) == (
        "they have 11 images to train on, and had 12 (red has 3, had 4)"
    )
    other = (red / "0001.jpg").read_bytes()
    assert changed(lambda: first.write_bytes(other), lambda: first.write_bytes(content)) == (
        f"the images to train on have other contents, such as {first}"
    )
    assert changed(lambda: first.rename(red / "new.jpg"), lambda: (red / "new.jpg").rename(first)) == (
        "the images to train on have other names or another order"
    )
    moved = place / "train" / "blue" / "new.jpg"
    assert "have other classes (blue has 5, had 4; red has 3, had 4)" in changed(
        lambda: first.rename(moved), lambda: moved.rename(first)
    )
    for part, what in (("val", "validate"), ("test", "test")):
        inside = place / part / "red" / "0000.jpg"
        assert f"they have 5 images to {what} on, and had 6" in changed(
            inside.unlink, lambda inside=inside: inside.write_bytes(encode(pixels("red", 0), "JPEG"))
        )
    assert changed(
        lambda: (place / "val").rename(tmp_path / "val"), lambda: (tmp_path / "val").rename(place / "val")
    ) == ("they have no validation part any more")


def test_other_classes_are_named(tmp_path):
    identity = identity_of(plain_folder(tmp_path / "c"))
    (tmp_path / "c" / "red").rename(tmp_path / "c" / "rot")
    assert data_difference(identity, load_data(tmp_path / "c")) == (
        "they have the classes blue, green, rot, and had blue, green, red"
    )


def test_a_test_part_may_come(tmp_path):
    images, labels = np.random.default_rng(1).integers(0, 99, (40, 4, 4), np.uint8), np.arange(40) % 2
    identity = identity_of((images, labels))
    assert data_difference(identity, load_data((images, labels, images[:9], labels[:9]))) is None
    other = images.copy()
    other[3, 1, 1] ^= 1
    assert data_difference(identity, load_data((other, labels))) == "the images to train on have other contents"
    assert data_difference(identity, load_data((images, labels[::-1]))) == "the images to train on have other labels"
    assert "float32 4x4x1, and were uint8 4x4x1" in data_difference(identity, load_data((images / 2, labels)))


def test_a_shard_with_another_member_is_other_data(tmp_path):
    identity = identity_of(str(shards(tmp_path / "s")))
    path = tmp_path / "s" / "set-1.tar"
    content = path.read_bytes()
    at = content.index(encode(pixels("red", 2), "JPEG")[-40:])
    path.write_bytes(content[:at] + b"x" + content[at + 1 :])
    assert "members" not in (why := data_difference(identity, load_data(str(tmp_path / "s"))))
    assert f"have other contents, such as {path}, byte" in why


class Table:
    """A data set object; `draws` says whether its images change from call to call."""

    def __init__(self, seed, draws=False):
        self.images = np.random.default_rng(seed).integers(0, 99, (60, 8, 8), np.uint8)
        self.draws = draws

    def __len__(self):
        return 60

    def __getitem__(self, index):
        shift = np.random.randint(0, 9) if self.draws else 0
        return np.roll(self.images[index], shift, 1), index % 2


def test_items_are_known_by_their_images():
    identity = identity_of(Table(1))
    assert data_difference(identity, load_data(Table(1))) is None
    assert data_difference(identity, load_data(Table(2))) == "the images to train on have other contents"
    assert data_difference(identity, load_data(Table(2, draws=True))) is None  # it cannot be told
    assert data_difference(identity_of(Table(1, draws=True)), load_data(Table(1, draws=True))) is None


def test_an_unreadable_file_tells_nothing(tmp_path):
    identity = identity_of(plain_folder(tmp_path / "c"))
    first = tmp_path / "c" / "blue" / "0000.jpg"
    data = load_data(tmp_path / "c")
    first.unlink()  # after it was found
    assert data_difference(identity, data) is None


def test_of_many_files_some_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ALL", 10)
    monkeypatch.setattr(module, "_SOME", 6)
    read = []
    monkeypatch.setattr(module, "sample_checksum", lambda table, sample: read.append(sample) or 7)
    data = load_data(plain_folder(tmp_path / "c"))
    assert len(data.fingerprints["train"].contents) == 6
    assert sorted(read) == [0, 2, 4, 6, 8, 11]


def test_of_a_long_file_the_pieces_are_read(tmp_path):
    data = load_data(plain_folder(tmp_path / "c"))
    path = tmp_path / "c" / "blue" / "0000.jpg"
    content = bytearray(np.random.default_rng(0).bytes(200_000))
    found = set()
    for at in (None, 0, 100_000, 199_999):
        changed = content.copy()
        if at is not None:
            changed[at] ^= 1
        path.write_bytes(changed)
        found.add(module.sample_checksum(data.train.table, 0))
    assert len(found) == 4


def test_the_digest_of_an_earlier_version_is_known(tmp_path):
    """Earlier versions noted only a digest, of shards with their paths: what stays in its place goes on."""
    place = shards(tmp_path / "s")
    data = load_data(str(place))
    assert data.digest_before != data.digest
    assert data_difference({"data_digest": data.digest_before}, data) is None
    shutil.move(place, tmp_path / "t")
    moved = load_data(str(tmp_path / "t"))
    assert "have moved since an earlier version" in data_difference({"data_digest": data.digest_before}, moved)
    folder = load_data(plain_folder(tmp_path / "c"))
    assert folder.digest_before == folder.digest
    assert data_difference({"data_digest": folder.digest}, folder) is None


def test_a_fingerprint_outlives_the_checkpoint():
    data = load_data("mnist")
    for each in data.fingerprints.values():
        assert Fingerprint.of_dict(json.loads(json.dumps(each.as_dict()))) == each
    whole = dataclasses.asdict(data.fingerprints["train"])
    assert (whole["kind"], whole["count"], sum(whole["classes"])) == ("uint8 28x28x1", 60000, 60000)


def test_arrays_that_were_changed_in_place_are_other_data():
    images = np.random.default_rng(0).integers(0, 200, (12, 4, 4)).astype(np.uint8)
    data = load_data((images, np.arange(12) % 2))
    identity, values = identity_of(data), data.values
    assert data_difference(identity, load_data(data)) is None
    images //= 2
    again = load_data(data)
    assert "other contents" in data_difference(identity, again)
    assert again.values.high < values.high


def test_images_of_an_object_to_test_on_are_known():
    def load(value):
        items = [[(np.full((4, 4), 9 * n + at, np.uint8), n % 2) for n in range(6)] for at in (0, value)]
        return load_data(items)

    identity = identity_of(load(1))
    assert data_difference(identity, load(1)) is None
    assert "images to test on have other contents" in data_difference(identity, load(2))
    assert not load(1).draws


def test_images_that_are_turned_otherwise_are_other_data(tmp_path):
    write_folder(tmp_path, 2)
    identity = identity_of(load_data(tmp_path))
    stored = load_data(tmp_path, LoadOptions(turned=False))
    check_same_data(tmp_path, identity, load_data(tmp_path))
    with pytest.raises(RunFolderError, match="not turned as their EXIF orientation asks"):
        check_same_data(tmp_path, identity, stored)
    del identity["data"]["turned"]  # of an earlier version
    check_same_data(tmp_path, identity, stored)
