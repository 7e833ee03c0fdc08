"""The evaluation of a model, with real processes."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

import adam_mp
from adam_mp.compute.model import Model
from adam_mp.data.reading.loading import load_data
from adam_mp.data.reading.options import LoadOptions
from adam_mp.errors import DataError
from adam_mp.network.description import load_network
from adam_mp.network.initialization import initial_weights
from adam_mp.training.data.data_plan import BY_CLASS
from adam_mp.training.epoch.guard import DivergedError, DivergenceGuard
from adam_mp.training.evaluation import TrainedOn, evaluate_model
from adam_mp.training.plan.same_data import data_identity
from tests.data.pictures_on_disk import write_folder

pytestmark = pytest.mark.usefixtures("forks")


def test_a_finished_model_is_tested_whatever_its_training_met(monkeypatch):
    """What a worker met after the last checkpoint ends no test: there is nothing to go back for."""

    def check(*_):
        raise DivergedError("the loss became NaN")

    monkeypatch.setattr(DivergenceGuard, "check", check)
    network = load_network("lenet", (28, 28, 1), 10)
    model = Model(network, initial_weights(network, 0), (30.0,), (70.0,), 0.0)
    images = np.random.default_rng(0).integers(0, 256, (80, 28, 28), dtype=np.uint8)
    labels = np.arange(80) % 10
    result = evaluate_model(model, (images, labels, images, labels), 1, lambda event: None)
    assert result.images == 80
    assert result.loss > 0


def test_classes_are_those_of_the_model_by_name():
    network = load_network("mlp", (1, 1, 4), 3)
    model = Model(network, initial_weights(network, 0), (0.0,) * 4, (1.0,) * 4, class_names=("cat", "dog", "eel"))
    images = np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)
    found = np.array(model.class_names)[model.predict(images).argmax(axis=1)]
    two = np.unique(found)[-2:]  # classes that the data set numbers 0 and 1, and the model otherwise
    few = np.isin(found, two)
    assert len(two) == 2
    data = images[few], found[few]
    assert evaluate_model(model, (*data, *data), 1, lambda event: None).accuracy == 1
    data = images[:4], ["dog", "fox"] * 2
    with pytest.raises(DataError, match="class 'fox', which the model does not know"):
        evaluate_model(model, (*data, *data), 1, lambda event: None)


def test_labels_are_counted_as_those_to_train_on_were(tmp_path):
    images = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    labels = np.arange(60) % 3
    model = adam_mp.train(
        [adam_mp.Flatten(), adam_mp.Dense(), adam_mp.Softmax()], (images, labels + 1), cores=1, epochs=1, quiet=True,
        run_dir=str(tmp_path / "run"),
    ).model  # fmt: skip
    assert adam_mp.load(tmp_path / "run").untrained == (0,)
    told = []
    with pytest.raises(DataError, match=r"labels go from 0 to 2, but those to train on went from 1 to 3"):
        evaluate_model(model, (images, labels, images, labels), 1, told.append)
    right = labels + (labels > 0)
    evaluate_model(model, (images, right), 1, told.append)
    assert [event.text for event in told if "without" in event.text] == [
        "20 images of arrays are of classes without an image to train on: 0"
    ]


@pytest.mark.parametrize("shape", [(40, 48, 4), (1, 1, 12)])
def test_pictures_are_refused_for_a_model_that_takes_none(tmp_path, shape):
    network = load_network("mlp", shape, 3)
    model = Model(network, initial_weights(network, 0), (0.0,) * shape[2], (1.0,) * shape[2])
    write_folder(tmp_path / "plain", 3)
    with pytest.raises(DataError, match=r"has pictures, but the model takes .*, which is none; give arrays"):
        evaluate_model(model, str(tmp_path / "plain"), 1, lambda event: None)


def test_classes_are_matched_by_their_names(tmp_path):
    """A model that always says class 2 is right for the images of that class, wherever it is among the data's."""
    network = load_network(
        [adam_mp.Flatten(), adam_mp.Dense(), adam_mp.Softmax()], (40, 48, 3), 4
    )  # fmt: skip
    weights = {name: np.zeros_like(array) for name, array in initial_weights(network, 0).items()}
    next(array for name, array in weights.items() if name.endswith("bias"))[2] = 9.0
    model = Model(network, weights, (0.0,) * 3, (1.0,) * 3, 0.0, ("grey", "blue", "green", "red"))
    write_folder(tmp_path / "plain", 3)
    shutil.rmtree(tmp_path / "plain" / "blue")
    told = []
    result = evaluate_model(model, str(tmp_path / "plain"), 1, lambda event: told.append(event.text))
    assert (result.images, result.accuracy) == (6, 0.5)
    assert result.classes == {"grey": 0, "blue": 0, "green": 3, "red": 3}
    assert told == [f"{tmp_path}/plain has no image of grey, blue, of 4 classes that the model knows"]
    for name in ("a.gif", "b.gif"):
        (tmp_path / "plain" / "red" / name).write_bytes(b"GIF89a")
    told.clear()
    assert evaluate_model(model, str(tmp_path / "plain"), 1, lambda event: told.append(event.text)).images == 6
    assert told[0] == (
        f"left out of {tmp_path}/plain: 2 files, 2 (.gif images are not read; convert them to JPEG or PNG)"
    )
    told.clear()
    plain, tell = str(tmp_path / "plain"), lambda event: told.append(event.text)
    evaluate_model(model, plain, 1, tell, trained_on=TrainedOn({}, True))
    assert "was trained on images of" in told[0]
    identity = {"data": data_identity(load_data(plain)), "data_digest": load_data(plain).digest, "division": BY_CLASS}
    shutil.move(plain, tmp_path / "moved")
    told.clear()
    evaluate_model(model, str(tmp_path / "moved"), 1, tell, trained_on=TrainedOn(identity, False))
    assert "was trained on images of" in told[0]
    pictures = sorted((tmp_path / "moved").glob("*/*.jpg"))
    shutil.copytree(tmp_path / "moved", tmp_path / "others")
    for path, other in zip(pictures, reversed(pictures), strict=True):  # the same names, other pictures
        shutil.copy(other, tmp_path / "others" / path.relative_to(tmp_path / "moved"))
    told.clear()
    evaluate_model(model, str(tmp_path / "others"), 1, tell, trained_on=TrainedOn(identity, False))
    assert not any("was trained on images of" in line for line in told)
    with pytest.raises(DataError, match="no part of test images, and the model was trained on the others; give data"):
        evaluate_model(model, str(tmp_path / "moved"), 1, tell, trained_on=TrainedOn(identity, False), own=True)
    told.clear()
    run = TrainedOn(identity, True, 0.4, 3)
    result = evaluate_model(model, str(tmp_path / "moved"), 1, tell, trained_on=run, own=True)
    assert result.classes == {"grey": 0, "blue": 0, "green": 1, "red": 1}
    assert "is tested on the 2 images that its run held out to validate on" in told[0]
    (tmp_path / "moved" / "red" / "0000.jpg").unlink()
    with pytest.raises(
        DataError, match=r"not the data any more .* 5 images to train on, and had 6 \(red has 2, had 3\)"
    ):
        evaluate_model(model, str(tmp_path / "moved"), 1, tell, trained_on=run, own=True)
    write_folder(tmp_path / "parts" / "train", 2)
    write_folder(tmp_path / "parts" / "Test", 2)
    assert evaluate_model(model, str(tmp_path / "parts"), 1, told.append).images == 6
    (tmp_path / "parts" / "Test" / "red").rename(tmp_path / "parts" / "Test" / "rot")
    with pytest.raises(DataError, match="class 'rot', which the model does not know; the data have blue, green, rot"):
        evaluate_model(model, str(tmp_path / "parts"), 1, told.append)


def test_images_that_cannot_be_used_are_told(tmp_path):
    network = load_network([adam_mp.Flatten(), adam_mp.Dense(), adam_mp.Softmax()], (40, 48, 3), 3)
    model = Model(network, initial_weights(network, 0), (0.0,) * 3, (1.0,) * 3, 0.0, ("blue", "green", "red"))
    paths, told = write_folder(tmp_path, 3), []
    for path in paths[:2]:
        path.write_bytes(path.read_bytes()[:-100])
    evaluate_model(model, str(tmp_path), 1, lambda event: told.append(event.text))
    assert told == [
        "2 of 9 images could not be used, and count neither way; 2 of 2: the image is damaged or cut short "
        f"({paths[0]})"
    ]


@pytest.mark.parametrize("kind", ["arrays", "files"])
def test_images_with_light_and_dark_exchanged_are_told(tmp_path, kind):
    network = load_network([adam_mp.Flatten(), adam_mp.Dense(), adam_mp.Softmax()], (8, 8, 1), 2)
    model = Model(network, initial_weights(network, 0), (30.0,), (70.0,), 4.0)
    images = np.zeros((12, 8, 8), np.uint8)
    images[:, 2:6, 2:6] = 200
    told = []
    for values, lines in ((images, 0), (255 - images, 1)):
        source = values, np.arange(12) % 2
        if kind == "files":
            source = str(tmp_path / str(lines))
            for number, pixels in enumerate(values):
                path = tmp_path / str(lines) / str(number % 2) / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
        evaluate_model(model, source, 1, lambda event: told.append(event.text))
        assert len([line for line in told if "have a light background where that of the images" in line]) == lines
    uneven = dataclasses.replace(model, reading={"even_background": False})
    evaluate_model(uneven, source, 1, lambda event: told.append(event.text), LoadOptions())
    assert len([line for line in told if "a light background" in line]) == 1
