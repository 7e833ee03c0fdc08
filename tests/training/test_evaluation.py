"""The evaluation of a model, with real processes."""

from __future__ import annotations

import numpy as np

from adam_mp.compute.model import Model
from adam_mp.network.description import load_network
from adam_mp.network.initialization import initial_weights
from adam_mp.training.epoch.guard import DivergedError, DivergenceGuard
from adam_mp.training.evaluation import evaluate_model


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
