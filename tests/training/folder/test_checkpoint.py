from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from adam_mp import Dense, Flatten, Network, Softmax
from adam_mp.compute.tensor_file import TensorFile
from adam_mp.data.normalization import Normalization
from adam_mp.errors import CheckpointError, refusal
from adam_mp.memory.layout import Layout
from adam_mp.training.folder.checkpoint import (
    CHECKPOINT_FORMAT,
    BackgroundWriter,
    Checkpoint,
    checkpoint_path,
    find_checkpoints,
    read_checkpoint,
    write_checkpoint,
)

NETWORK = Network.build([Flatten(), Dense(4), Dense(), Softmax()], (3, 3, 1), 2)
NORMALIZATION = Normalization((1.5, 2.5), (3.0, 4.0), 0.5, ((1.0, 0.0), (0.0, 2.0)))


def read_spaces(stored):
    """Return the numbers of a checkpoint that has weights and v, or weights alone."""
    names = {name.partition("/")[0] for name in TensorFile(stored.path, CHECKPOINT_FORMAT).forms} - {"ledger"}
    size = Layout.of(stored.network.parameters).size
    spaces = {name: np.zeros(size, np.float32) for name in names}
    stored.read_into(spaces)
    return spaces


def make(updates=7):
    layout = Layout.of(NETWORK.parameters)
    generator = np.random.default_rng(updates)
    spaces = {}
    for name in ("weights", "v"):
        spaces[name] = np.zeros(layout.size, np.float32)
        for view in layout.views(spaces[name]).values():
            view[...] = generator.standard_normal(view.shape)
    return Checkpoint(
        NETWORK, NORMALIZATION, np.array([3, 0, 3], np.uint8), 2, updates, {"seed": 1}, {"seconds": 1.5}, spaces
    )


def test_what_is_written_is_read_and_the_last_two_are_kept(tmp_path):
    for updates in (7, 300, 20_000):
        write_checkpoint(tmp_path, make(updates))
    assert find_checkpoints(tmp_path) == [checkpoint_path(tmp_path, 2), checkpoint_path(tmp_path, 3)]
    read, written = read_checkpoint(tmp_path), make(20_000)
    assert (read.network, read.epoch, read.updates, read.number) == (NETWORK, 2, 20_000, 3)
    assert (read.identity, read.progress) == ({"seed": 1}, {"seconds": 1.5})
    assert read.ledger.tolist() == [3, 0, 3]
    assert read.normalization == NORMALIZATION
    spaces = read_spaces(read)
    for name, space in written.spaces.items():
        np.testing.assert_array_equal(spaces[name], space)


@pytest.mark.parametrize("updates", [50, 100, 200])
def test_the_newest_is_what_was_written_last_whatever_its_updates(tmp_path, updates):
    for count in (200, 100, updates):  # a run that goes on with more workers in steps has made fewer
        write_checkpoint(tmp_path, make(count))
        assert read_checkpoint(tmp_path).updates == count
    newest = find_checkpoints(tmp_path)[-1]
    newest.unlink()
    assert read_checkpoint(tmp_path).updates == 100


def test_a_folder_of_before_whose_numbers_were_updates_goes_on(tmp_path):
    os.rename(write_checkpoint(tmp_path, make(9000)), checkpoint_path(tmp_path, 9000))
    write_checkpoint(tmp_path, make(100))
    assert read_checkpoint(tmp_path).updates == 100
    assert find_checkpoints(tmp_path) == [checkpoint_path(tmp_path, 9000), checkpoint_path(tmp_path, 9001)]


def test_damage_is_recognised_and_the_older_one_recommended(tmp_path):
    write_checkpoint(tmp_path, make(7))
    path = write_checkpoint(tmp_path, make(8))
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="remove it to resume from checkpoint-0000000001"):
            read_checkpoint(tmp_path)


def test_a_checkpoint_that_is_damaged_after_it_was_found_is_not_gone_on_with(tmp_path):
    path = write_checkpoint(tmp_path, make(7))
    found, content = read_checkpoint(tmp_path), path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(CheckpointError, match="checksum"):
        read_spaces(found)
    path.unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        read_spaces(found)


def test_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_checkpoint(tmp_path)


def test_the_writer_takes_the_newest_and_reports_what_fails():
    problems, done, gate = [], [], threading.Event()
    writer = BackgroundWriter(problems.append)
    writer.submit("first", lambda: gate.wait(10))
    writer.submit("checkpoint", lambda: done.append("old"))
    writer.submit("checkpoint", lambda: done.append("new"))
    assert not writer.flush(0.01)
    gate.set()
    assert writer.flush(10)
    assert done == ["new"]

    def refuse():
        raise OSError(28, "No space left on device")

    writer.submit("model", refuse)
    assert writer.flush(10)
    writer.submit("model", refuse)
    assert writer.flush(10)
    assert len(problems) == 1  # it is said once
    assert problems[0].startswith("cannot write model: No space left on device; free some; the run goes on without it")
    writer.submit("model", lambda: done.append("after"))
    assert writer.close(10)
    assert done == ["new", "after"]
    assert problems[1:] == ["model is written again"]


@pytest.mark.parametrize("error", [MemoryError(), ValueError("x"), BrokenPipeError(32, "Broken pipe")])
def test_the_writer_lives_on_whatever_a_job_or_the_notice_raises(error):
    told, done = [], []

    def fail():
        raise error

    def tell(text):
        told.append(text)
        raise error

    writer = BackgroundWriter(tell)
    writer.submit("model", fail)
    assert writer.flush(10)
    writer.submit("model", lambda: done.append("after"))
    assert writer.close(10)
    assert done == ["after"]
    assert told[0].startswith(f"cannot write model: {refusal(error)}; the run goes on without it")
    assert told[1:] == ["model is written again"]


def test_a_tensor_of_another_type_is_no_weight(tmp_path):
    path = write_checkpoint(tmp_path, make(7))
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"', 1))  # same bytes, same checksum
    with pytest.raises(CheckpointError, match="int32"):
        read_checkpoint(tmp_path)
