from __future__ import annotations

import json

import numpy as np
import pytest

from adam_mp.data.reading.faults import Fault
from adam_mp.data.reading.loading import load_data
from adam_mp.errors import DataError
from adam_mp.training.epoch.bad_samples import BadSamples
from tests.data.pictures_on_disk import write_folder


def lines(folder):
    return [json.loads(line) for line in (folder / "bad_samples.jsonl").read_text().splitlines()]


@pytest.fixture
def data(tmp_path):
    write_folder(tmp_path / "data", 3)
    (tmp_path / "data" / "red" / "notes.txt").write_text("no image")
    return load_data(tmp_path / "data")


def test_each_is_named_once(tmp_path, data):
    flags = np.zeros(9, np.uint8)
    bad = BadSamples(data, flags, tmp_path, False, pytest.fail)
    assert bad.count == 1
    flags[[2, 5]] = Fault.DAMAGED, Fault.CRASHED
    bad.step()
    bad.step()
    flags[7] = Fault.MISSING
    bad.step()
    assert bad.count == 4
    assert [(line["fault"], line["number"]) for line in lines(tmp_path)] == [
        ("NOT_AN_IMAGE", None), ("DAMAGED", 2), ("CRASHED", 5), ("MISSING", 7),
    ]  # fmt: skip
    assert lines(tmp_path)[1]["sample"] == data.place(2)
    assert "cut short" in lines(tmp_path)[1]["reason"]
    order = np.array([0, 2, 7, 8, 1, 3, 4, 5])  # three batches, the last of two
    assert bad.failed_in(np.array([0, 1, 2]), order, 3) == {0: 2, 2: 1}
    assert bad.failed_in(np.array([1]), order, 3) == bad.failed_in(np.array([], int), order, 3) == {}
    assert BadSamples(data, None, None, False, pytest.fail).failed_in(np.array([0]), order, 3) == {}


def test_a_resumed_run_knows_them_and_tries_again_what_may_have_come_back(tmp_path, data):
    flags = np.zeros(9, np.uint8)
    flags[[2, 5, 6]] = Fault.DAMAGED, Fault.CRASHED, Fault.MISSING
    BadSamples(data, flags, tmp_path, False, pytest.fail).step()
    with open(tmp_path / "bad_samples.jsonl", "a") as file:
        file.write('{"sample": "half a li')
    again = np.zeros(9, np.uint8)
    bad = BadSamples(data, again, tmp_path, False, pytest.fail)
    assert np.flatnonzero(again).tolist() == [2, 5, 6]
    bad.forgive()
    assert np.flatnonzero(again).tolist() == [2, 5]
    again[6] = Fault.UNREADABLE
    bad.step()
    assert (tmp_path / "bad_samples.jsonl").read_text().count("\n") == 4
    assert bad.count == 4


def test_strict_ends_with_the_first(tmp_path, data):
    flags = np.zeros(9, np.uint8)
    bad = BadSamples(data, flags, tmp_path, True, pytest.fail)
    bad.step()
    flags[4] = Fault.EMPTY
    with pytest.raises(DataError, match=r"green/0001.jpg: the file is empty; .* --strict"):
        bad.step()


def test_a_disk_that_does_not_take_it_is_told(tmp_path, data):
    notices = []
    (tmp_path / "bad_samples.jsonl").mkdir()
    with pytest.raises(IsADirectoryError):
        BadSamples(data, None, tmp_path, False, notices.append)
    BadSamples(data, None, tmp_path / "gone", False, notices.append)
    assert "cannot write" in notices[0]
