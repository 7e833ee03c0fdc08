"""The evaluation of a model, with real processes."""

from __future__ import annotations

import numpy as np
import pytest

from adam_mp.compute.model import Model
from adam_mp.errors import DataError
from adam_mp.network.description import load_network
from adam_mp.network.initialization import initial_weights
from adam_mp.training.epoch.guard import DivergedError, DivergenceGuard
from adam_mp.training.evaluation import evaluate_model


def test_a_finished_model_is_tested_whatever_its_training_met(monkeypatch):
    """What a worker met after the last checkpoint ends no test: there is nothing to go back for."""

    def look(*_):
        raise DivergedError("the loss became NaN")

    monkeypatch.setattr(DivergenceGuard, "look", look)
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
    with pytest.raises(DataError, match="test images of class 'fox', which the model does not know"):
        evaluate_model(model, (*data, *data), 1, lambda event: None)
