"""What a run keeps, on a disk that refuses."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest

from adam_mp.compute.model import MODEL_FILE, load
from adam_mp.errors import DiskError
from adam_mp.training import keeper as keepers
from adam_mp.training.checkpoint import read_checkpoint
from adam_mp.training.keeper import Keeper
from tests.compute.test_model import make
from tests.training.test_checkpoint import make as make_checkpoint


@pytest.fixture
def keeper(tmp_path):
    made = Keeper(tmp_path, lambda text: None, remembers=False)
    yield made
    made.close()


@pytest.fixture
def refusing(monkeypatch):
    """Whether the disk refuses models: a list that is empty when it does not."""
    refuses, write_model = [True], keepers.write_model

    def write(path, model):
        if refuses:
            raise OSError(28, "No space left on device")
        write_model(path, model)

    monkeypatch.setattr(keepers, "write_model", write)
    return refuses


def flush(keeper):
    assert keeper.say_what_is_kept()


def test_a_refused_model_is_tried_again_with_each_checkpoint(keeper, refusing, tmp_path):
    keeper.save_model(dataclasses.replace(make(), epoch=3))
    keeper.keep(make_checkpoint(7))
    flush(keeper)
    assert not (tmp_path / MODEL_FILE).exists()
    assert read_checkpoint(tmp_path).updates == 7
    refusing.clear()
    keeper.keep(make_checkpoint(8))
    flush(keeper)
    assert load(tmp_path).epoch == 3
    (tmp_path / MODEL_FILE).unlink()
    keeper.keep(make_checkpoint(9))
    flush(keeper)
    assert not (tmp_path / MODEL_FILE).exists()  # what was written is not written again


def test_a_model_that_is_slow_to_write_is_written_once(keeper, monkeypatch):
    begun, write_model = threading.Event(), keepers.write_model
    written = []

    def write(path, model):
        begun.set()
        time.sleep(0.05)
        write_model(path, model)
        written.append(model.epoch)

    monkeypatch.setattr(keepers, "write_model", write)
    for epoch in (1, 2):
        begun.clear()
        keeper.save_model(dataclasses.replace(make(), epoch=epoch))
        assert begun.wait(10)
        keeper.keep(make_checkpoint(epoch))
        flush(keeper)
    assert load(keeper.finish(make)).epoch == 2
    assert written == [1, 2]


def test_a_disk_that_does_not_take_the_model_is_no_wrong_input(keeper, refusing):
    with pytest.raises(DiskError, match=r"model\.safetensors: No space left on device; free some, then use --resume"):
        keeper.finish(make)
    assert DiskError.exit_code == 1
