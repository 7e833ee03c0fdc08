"""What a run to be resumed has of a model, where a crash or a full disk came between model and checkpoint."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import adam_mp
from adam_mp.compute.model import MODEL_FILE, load, write_model
from adam_mp.errors import CheckpointError, RunFolderError, SettingsError
from adam_mp.training.data.data_plan import DRAWN
from adam_mp.training.folder.checkpoint import find_checkpoints, read_checkpoint, write_checkpoint
from adam_mp.training.folder.figures import Figures
from adam_mp.training.folder.run_folder import RUN_FILE, read_record
from adam_mp.training.plan import plan
from adam_mp.training.plan.resuming import BestModel, check_same_run, find_best, resume_settings
from adam_mp.training.settings.settings import FIELDS, TrainSettings, make_settings
from tests.compute.test_model import make
from tests.conftest import LAYERS, make_images
from tests.training.folder.test_checkpoint import make as make_checkpoint

pytestmark = pytest.mark.usefixtures("forks")

EPOCHS = 3


def resumed(epochs_done, best, accuracy, last, part=None):
    figures = Figures(
        epochs_done=epochs_done, best_epoch=best, validation_accuracy=accuracy, last_validation_accuracy=last,
        epoch_part=part or {},
    )  # fmt: skip
    return dataclasses.replace(make_checkpoint(), epoch=epochs_done, progress=dataclasses.asdict(figures))


def save(folder, epoch, accuracy=None):
    write_model(folder / MODEL_FILE, dataclasses.replace(make(), epoch=epoch, validation_accuracy=accuracy))


@pytest.mark.parametrize(
    ("saved", "checkpoint", "best"),
    [
        ((2, 0.8), resumed(2, 2, 0.8, 0.8), BestModel(2, 0.8, False)),  # all is well
        ((1, 0.9), resumed(2, 1, 0.9, 0.8), BestModel(1, 0.9, False)),
        ((3, 0.9), resumed(2, 2, 0.8, 0.8, {"seconds": 1.0}), BestModel(3, 0.9, False)),  # the model came first
        ((1, 0.7), resumed(2, 2, 0.8, 0.8), BestModel(2, 0.8, True)),  # the checkpoint came first, and has the weights
        ((1, 0.7), resumed(2, 2, 0.8, 0.8, {"seconds": 1.0}), BestModel(1, 0.7, False)),  # and trained on with them
        ((1, 0.7), resumed(3, 2, 0.8, 0.6), BestModel(1, 0.7, False)),
        (None, resumed(2, 2, 0.8, 0.8), BestModel(2, 0.8, True)),
        (None, resumed(3, 2, 0.8, 0.6), BestModel(3, 0.6, True)),  # the best is lost: the last is the best there is
        (None, resumed(2, 2, 0.8, 0.8, {"seconds": 1.0}), BestModel(None, None, False)),
        (None, resumed(0, None, None, None, {"seconds": 1.0}), BestModel(None, None, False)),
        ((0, None), resumed(0, None, None, None, {"seconds": 1.0}), BestModel(None, None, False)),  # an interruption's
        ((0, None), resumed(1, 1, 0.5, 0.5), BestModel(1, 0.5, True)),
        ((None, None), resumed(2, 1, 0.9, 0.8), BestModel(1, 0.9, False)),  # of before, which does not say
    ],
)
def test_the_best_model_is_the_one_that_is_there(tmp_path, saved, checkpoint, best):
    if saved is not None:
        save(tmp_path, *saved)
    assert find_best(tmp_path, checkpoint) == best


@pytest.mark.parametrize("run", [True, False])
def test_a_file_is_no_folder_to_resume(tmp_path, run):
    save(tmp_path, 1)
    if run:
        (tmp_path / RUN_FILE).write_text("{}")
    with pytest.raises(RunFolderError) as caught:
        resume_settings(TrainSettings(resume=tmp_path / MODEL_FILE), {}, pytest.fail)
    named = f", {tmp_path}" if run else ""
    assert str(caught.value) == f"{tmp_path / MODEL_FILE} is a file; give the folder of the run to resume{named}"


JOINED = {"join": "127.0.0.1:7700", "wire": "float16", "exchange_images": 64, "key_file": "run.key"}
FED = {"data_from": "127.0.0.1:7800"}
SERVED = {"servers": 2, "replicas": 3, "protocol": "deltas"}


@pytest.mark.parametrize(
    ("stored", "given", "expected", "without"),
    [
        (JOINED, {}, JOINED, None),
        (JOINED, {"join": "none"}, {}, "the run of many machines at 127.0.0.1:7700"),
        (JOINED, {"join": None}, {}, "the run of many machines at 127.0.0.1:7700"),
        (JOINED, {"servers": 0}, JOINED, None),
        (JOINED, {"join": "127.0.0.1:7701"}, {**JOINED, "join": "127.0.0.1:7701"}, None),
        (JOINED, {"servers": 1}, {**JOINED, "join": None, "servers": 1}, None),
        (JOINED | FED, {"join": "none"}, {**FED, "key_file": "run.key"}, "the run"),
        (JOINED | FED, {"join": "none", "data_from": "none"}, {}, "the run"),
        (SERVED, {"join": "none"}, SERVED, None),
        (SERVED, {"servers": 0}, {}, "its 2 parameter servers"),
        (SERVED, {"servers": None}, {}, "its 2 parameter servers"),
        (SERVED, {"servers": 1}, {**SERVED, "servers": 1}, None),
        (SERVED, {"join": "127.0.0.1:7700"}, {"join": "127.0.0.1:7700", "protocol": "deltas"}, None),
        ({}, {"join": "none", "servers": 0, "data_from": "none"}, {}, None),
    ],
)  # fmt: skip
def test_a_run_of_many_machines_may_go_on_alone_or_with_others(tmp_path, stored, given, expected, without):
    write_checkpoint(tmp_path, make_checkpoint())
    names = {"servers", "replicas", "join", "key_file", "data_from", "wire", "protocol", "exchange_images"}
    defaults = {name: FIELDS[name].default for name in names}
    (tmp_path / RUN_FILE).write_text(json.dumps({"settings": {**defaults, **stored}}))
    told = []
    given = {**given, "resume": str(tmp_path)}
    settings, _ = resume_settings(make_settings(given), given, told.append)
    assert {name: getattr(settings, name) for name in names} == {**defaults, **expected}
    assert len(told) == (without is not None)
    assert all("goes on alone from its checkpoint in epoch" in line and without in line for line in told)


def test_a_run_of_an_older_version_goes_on_in_its_own_way(tmp_path):
    write_checkpoint(tmp_path, make_checkpoint())
    given = {"resume": str(tmp_path)}
    noted = {"ignore_orientation": False, "white": 4095.0, "decay_all": False}
    for stored, ignored, white in (({}, True, 65535), (noted, False, 4095)):
        (tmp_path / RUN_FILE).write_text(json.dumps({"settings": stored}))
        settings, _ = resume_settings(TrainSettings(**given), given, pytest.fail)
        assert (settings.ignore_orientation, settings.white, settings.decay_all) == (ignored, white, not stored)
    with pytest.raises(RunFolderError, match=r"belongs to a run with white 4095.0, not 1023"):
        resume_settings(TrainSettings(**given), {**given, "white": 1023}, pytest.fail)


def test_who_goes_on_alone_may_not_say_what_is_for_many(tmp_path):
    write_checkpoint(tmp_path, make_checkpoint())
    (tmp_path / RUN_FILE).write_text(json.dumps({"settings": JOINED}))
    given = {"resume": str(tmp_path), "join": "none", "wire": "float16"}
    with pytest.raises(SettingsError, match="wire is for runs of many machines"):
        resume_settings(TrainSettings(resume=str(tmp_path)), given, pytest.fail)


def test_a_damaged_model_is_told_before_anything_is_trained(tmp_path):
    (tmp_path / MODEL_FILE).write_bytes(b"x")
    with pytest.raises(CheckpointError, match="remove it"):
        find_best(tmp_path, resumed(1, 1, 0.5, 0.5))


def test_a_run_is_done_when_its_model_is_there_too(tmp_path):
    checkpoint = resumed(EPOCHS, EPOCHS, 0.8, 0.8)
    arguments = (checkpoint.network, checkpoint.identity, len(checkpoint.ledger))
    check_same_run(tmp_path, checkpoint, *arguments, EPOCHS)
    save(tmp_path, EPOCHS, 0.8)
    check_same_run(tmp_path, checkpoint, *arguments, EPOCHS + 1)
    with pytest.raises(RunFolderError, match="has done its 3 epochs"):
        check_same_run(tmp_path, checkpoint, *arguments, EPOCHS)
    with pytest.raises(RunFolderError, match="has 3 batches an epoch, now 4; resume with as many"):
        check_same_run(tmp_path, checkpoint, *arguments[:2], 4, EPOCHS + 1)


def test_a_lost_model_is_made_of_the_checkpoint(tmp_path):
    data = (*make_images(400, 1), *make_images(100, 2))
    settings = {"cores": 1, "quiet": True, "run_dir": tmp_path / "run"}
    before = adam_mp.train(list(LAYERS), data, epochs=1, **settings)
    model = load(before.run_dir)
    assert (model.epoch, model.validation_accuracy) == (1, before.validation_accuracy)
    (tmp_path / "run" / MODEL_FILE).unlink()
    after = adam_mp.train(list(LAYERS), data, resume=True, **settings)
    assert (after.best_epoch, after.validation_accuracy) == (1, before.validation_accuracy)
    assert (after.epochs, after.updates, after.test_accuracy) == (1, before.updates, before.test_accuracy)
    for name, weights in load(before.run_dir).weights.items():
        np.testing.assert_array_equal(weights, model.weights[name])
    assert read_checkpoint(tmp_path / "run").number == len(find_checkpoints(tmp_path / "run")) == 1


def test_a_run_of_an_earlier_version_goes_on_with_its_division(tmp_path, monkeypatch):
    """Earlier versions drew the images to validate on from all images alike, and noted no way in the checkpoint."""
    images, labels = make_images(62, 1)
    labels = np.r_[np.zeros(30), np.ones(30), [2, 2]].astype(int)
    settings = {"cores": 1, "quiet": True, "run_dir": tmp_path / "run", "validation": 0.2, "seed": 10}
    with monkeypatch.context() as before:
        before.setattr(plan, "BY_CLASS", DRAWN)
        adam_mp.train(list(LAYERS), (images, labels), epochs=1, **settings)
    assert "division" not in read_checkpoint(tmp_path / "run").identity
    adam_mp.train(list(LAYERS), (images, labels), epochs=2, resume=True, **settings)
    understood = read_record(tmp_path / "run")["data"]
    assert understood["class_counts"]["train"][2] == 0
    assert understood["notes"] == ["no image to train on of the class 2"]
    adam_mp.train(list(LAYERS), (images, labels), epochs=1, **{**settings, "run_dir": tmp_path / "new"})
    assert read_checkpoint(tmp_path / "new").identity["division"] == "by class"
    assert read_record(tmp_path / "new")["data"]["class_counts"]["train"][2] > 0
