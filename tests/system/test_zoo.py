"""Networks of the zoo through every command, on small pictures: train, resume bit for bit, evaluate, predict."""

from __future__ import annotations

import json

import numpy as np
import pytest

import adam_mp

SHORT = ("resnet18", "mobilenet-v2")
LONG = ("resnet20", "resnet34", "resnet50", "vgg16", "cifar-fast")


@pytest.fixture
def pictures(tmp_path):
    """Pictures of 32x32 in two colours of noise, by class."""
    generator = np.random.default_rng(1)

    def make(count):
        labels = np.arange(count) % 2
        tint = np.where(labels[:, None], (150, 90, 100), (100, 90, 150))
        noise = generator.integers(-60, 60, (count, 32, 32, 3))
        return (tint[:, None, None] + noise).clip(0, 255).astype(np.uint8), labels

    path = tmp_path / "pictures.npz"
    (train, labels), (test, their_labels) = make(192), make(64)
    np.savez(path, x_train=train, y_train=labels, x_test=test, y_test=their_labels)
    return path, test, their_labels


@pytest.mark.parametrize("model", [*SHORT, *(pytest.param(name, marks=pytest.mark.long) for name in LONG)])
def test_a_network_trains_resumes_evaluates_and_predicts(here, pictures, tmp_path, model):
    path, test, labels = pictures
    same = ("--data", str(path), "--model", model, "--cores", "2", "--consistency", "deterministic", "--json",
            "--augment", "shift=2,reflect=0.5", "--validation", "0", "--lr", "0.02")  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ended = here("train", *same, "--epochs", "3", "--run-dir", str(whole))
    assert ended.code == 0, ended.err
    assert here("train", *same, "--epochs", "1", "--run-dir", str(cut)).code == 0
    assert here("train", "--resume", str(cut), "--epochs", "3", "--json").code == 0
    first, second = adam_mp.load(whole), adam_mp.load(cut)
    for name, values in first.weights.items():
        assert np.isfinite(values).all(), name
        assert np.array_equal(values, second.weights[name]), name

    evaluated = here("evaluate", str(whole), "--json")
    assert evaluated.code == 0, evaluated.err
    assert json.loads(evaluated.out)["accuracy"] == ended.summary["test_accuracy"]
    shares = first.predict(test)
    assert shares.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert (shares.argmax(axis=1) == labels).mean() == pytest.approx(ended.summary["test_accuracy"], abs=0.02)
