from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from adam_mp.compute.model import load
from adam_mp.errors import CheckpointError, DiskError
from adam_mp.training.folder.checkpoint import find_checkpoints
from adam_mp.training.folder.direct_keeper import DirectKeeper
from tests.training.folder.test_checkpoint import make as make_checkpoint
from tests.training.folder.test_keeper import model_of


def refuse(*_):
    raise OSError(28, "No space left on device")


@pytest.fixture
def keeper(tmp_path):
    told: list[str] = []
    made = DirectKeeper(tmp_path, told.append)
    made.told = told  # type: ignore[attr-defined]
    yield made
    made.close()


def test_a_checkpoint_is_on_disk_at_once_and_is_what_a_run_goes_back_to(keeper, tmp_path):
    with pytest.raises(CheckpointError):
        _ = keeper.last
    live = make_checkpoint(1)
    keeper.remember(lambda place: live if place is None else None)
    live.spaces["weights"][...] = 5  # training goes on
    assert keeper.last.updates == 1
    found = np.zeros_like(live.spaces["weights"])
    keeper.last.read_into({"weights": found})
    np.testing.assert_array_equal(found, make_checkpoint(1).spaces["weights"])
    assert keeper.say_what_is_kept() == "The last good checkpoint was kept"


def test_after_going_back_the_same_state_is_written_with_other_figures(keeper):
    keeper.keep(lambda _: make_checkpoint(3))
    keeper.write_last(lambda last: dataclasses.replace(last, progress={"rollbacks": 1}))
    assert (keeper.last.updates, dict(keeper.last.progress)) == (3, {"rollbacks": 1})


def test_after_a_refused_write_the_state_gone_back_to_is_the_one_that_is_written_again(keeper, monkeypatch):
    keeper.keep(lambda _: make_checkpoint(3))
    with monkeypatch.context() as patched:
        patched.setattr("adam_mp.training.folder.direct_keeper.write_checkpoint", refuse)
        keeper.keep(lambda _: make_checkpoint(9))
    assert keeper.last.updates == 3
    keeper.write_last()
    assert keeper.last.updates == 3


def test_what_the_disk_refuses_is_said_once_and_tried_again(keeper, tmp_path, monkeypatch):
    module = "adam_mp.training.folder.direct_keeper"

    with monkeypatch.context() as patched:
        patched.setattr(f"{module}.write_checkpoint", refuse)
        patched.setattr(f"{module}.write_model", refuse)
        for _ in range(2):
            keeper.keep(lambda _: make_checkpoint(1))
            keeper.save_model(lambda _: model_of(1, None))
        assert [text.partition(":")[0] for text in keeper.told] == ["cannot write checkpoint", "cannot write model"]
        with pytest.raises(DiskError, match="No space left on device"):
            keeper.finish(lambda: model_of(2, None))
    assert not find_checkpoints(tmp_path)
    keeper.keep(lambda _: make_checkpoint(2))
    assert keeper.told[-1] == "checkpoint is written again"
    path = keeper.finish(lambda: model_of(2, None))  # the best model was refused, so the present one is written
    assert load(path).epoch == 2


def test_the_best_model_stays_at_the_end(keeper):
    keeper.save_model(lambda _: model_of(4, None))
    assert load(keeper.finish(lambda: model_of(9, None))).epoch == 4
