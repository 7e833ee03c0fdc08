from __future__ import annotations

import json

import numpy as np
import pytest

from adam_mp.data.reading.faults import REASONS, Fault
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
    with pytest.raises(DataError, match=r"green/0001.jpg: the file is empty; .* strict"):
        bad.step()


def test_a_disk_that_does_not_take_it_is_told(tmp_path, data):
    notices = []
    (tmp_path / "bad_samples.jsonl").mkdir()
    with pytest.raises(IsADirectoryError):
        BadSamples(data, None, tmp_path, False, notices.append)
    BadSamples(data, None, tmp_path / "gone", False, notices.append)
    assert "cannot write" in notices[0]


def test_a_class_without_a_good_image_to_train_on_is_told_once(tmp_path):
    write_folder(tmp_path / "c", 3)
    data, notices = load_data(tmp_path / "c"), []
    flags = np.zeros(data.count, np.uint8)
    training = np.array([0, 1, 2, 3, 4, 6, 7, 8])  # 5, of the second class, is held out
    bad = BadSamples(data, flags, None, False, notices.append, training)
    for sample in (0, 3, 4, 1):
        flags[sample] = Fault.DAMAGED
        bad.step()
    assert notices == [
        "the class green has no image left to train on: all of its 2 cannot be read (see bad_samples.jsonl)"
    ]
    flags[2] = Fault.MISSING
    for _ in range(2):
        bad.step()
        bad.forgive()
        flags[2] = Fault.MISSING
    assert len(notices) == 2


def test_what_no_figure_counts_is_told_once_a_part(tmp_path, data):
    notices: list[str] = []
    flags = np.zeros(data.count, np.uint8)
    bad = BadSamples(data, flags, None, False, notices.append)
    bad.tell_left_out("test", np.arange(9))
    flags[[3, 4, 5]] = flags[8] = Fault.DAMAGED
    for _ in range(2):
        bad.tell_left_out("test", np.arange(9))
        bad.tell_left_out("validation", np.array([0, 7, 8]))
    second = data.class_names[1]
    assert [line.partition(";")[0] for line in notices] == [
        f"4 of 9 test images could not be used, and count neither way, among them all of the class {second}",
        "1 of 3 validation images could not be used, and count neither way",
    ]
    assert notices[0].endswith(f"4 of 4: {REASONS[Fault.DAMAGED]} ({data.place(3)})")


def test_what_was_left_out_is_named_once_wherever_the_data_move(tmp_path, data):
    flags = np.zeros(data.count, np.uint8)
    assert BadSamples(data, flags, tmp_path, False, pytest.fail).count == 1
    (tmp_path / "data").rename(tmp_path / "moved")
    assert BadSamples(load_data(tmp_path / "moved"), flags, tmp_path, False, pytest.fail).count == 1
    assert len(lines(tmp_path)) == 1
