"""Batch norm in whole runs: what is validated, saved, tested and predicted has the statistics of its own weights."""

from __future__ import annotations

import json

import numpy as np
import pytest

import adam_mp
from adam_mp import BatchNorm, Conv, Dense, GlobalAveragePool, MaxPool, ReLU, Residual, Softmax
from adam_mp.network.initialization import initial_weights
from tests.conftest import make_images

LAYERS = [
    Conv(8, 3, padding="same", bias=False), BatchNorm(), ReLU(), MaxPool(2),
    Residual([Conv(8, 3, padding="same", bias=False), BatchNorm(), ReLU(), Conv(8, 3, padding="same"), BatchNorm()]),
    ReLU(), GlobalAveragePool(), Dense(16), BatchNorm(), ReLU(), Dense(), Softmax(),
]  # fmt: skip
TOML = """
[[layers]]
type = "conv"
channels = 8
size = 5
stride = 2
bias = false
[[layers]]
type = "batch_norm"
[[layers]]
type = "relu"
[[layers]]
type = "flatten"
[[layers]]
type = "dense"
[[layers]]
type = "softmax"
"""


@pytest.mark.parametrize("validation", [0.2, 0.0])
def test_a_network_with_norms_trains_and_its_model_knows_the_images(tmp_path, validation):
    images, labels = make_images(600, 1)
    others, their_labels = make_images(200, 2)
    result = adam_mp.train(
        LAYERS, (images, labels, others, their_labels), cores=2, epochs=8, lr=0.1, validation=validation, quiet=True,
        augment="none", run_dir=tmp_path / "run",
    )  # fmt: skip
    assert result.test_accuracy > 0.8
    model = result.model
    assert set(model.network.statistics) <= set(model.weights)
    assert all((model.weights[name] > 0).all() for name in model.weights if name.endswith("variance"))
    assert model.evaluate(others, their_labels) == pytest.approx(result.test_accuracy, abs=0.006)


def test_it_is_resumed_bit_for_bit_and_evaluated(here, small_data, tmp_path):
    path = tmp_path / "norms.toml"
    path.write_text(TOML)
    same = ("--data", str(small_data), "--model", str(path), "--cores", "2", "--consistency", "deterministic", "--lr",
            "0.05", "--json")  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ended = here("train", *same, "--epochs", "3", "--run-dir", str(whole))
    assert ended.code == 0, ended.err
    assert here("train", *same, "--epochs", "1", "--run-dir", str(cut)).code == 0
    (cut / "model.safetensors").unlink()  # so that the checkpoint's is written again
    assert here("train", "--resume", str(cut), "--epochs", "3", "--json").code == 0
    first, second = adam_mp.load(whole).weights, adam_mp.load(cut).weights
    assert all(np.array_equal(first[name], second[name]) for name in first)
    evaluated = here("evaluate", str(whole), "--json")
    assert evaluated.code == 0, evaluated.err
    assert json.loads(evaluated.out)["accuracy"] == ended.summary["test_accuracy"]


def test_batches_of_one_are_refused(here, small_data, tmp_path):
    path = tmp_path / "norms.toml"
    path.write_text(TOML)
    ended = here("train", "--data", str(small_data), "--model", str(path), "--batch-size", "1")
    assert ended.code == 2
    assert "batch_norm1 takes mean and variance of a batch, but --batch-size is 1; give at least 2" in ended.err


def test_replicas_measure_for_their_own_weights(here, small_data, tmp_path):
    path = tmp_path / "norms.toml"
    path.write_text(TOML)
    ended = here(
        "train", "--data", str(small_data), "--model", str(path), "--servers", "1", "--replicas", "2", "--cores", "2",
        "--epochs", "2", "--lr", "0.05", "--json", "--run-dir", str(tmp_path / "run"),
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert ended.summary["test_accuracy"] > 0.7
    assert (adam_mp.load(tmp_path / "run").weights["batch_norm1.variance"] > 0).all()


def test_training_images_that_cannot_be_read_are_no_statistics(tmp_path):
    """Norms would else keep those of older weights, or of none."""

    class Images:
        classes = ("a", "b")

        def __init__(self):
            self.images, self.targets = make_images(96, 1)[0], [number % 2 for number in range(96)]

        def __len__(self):
            return 96

        def __getitem__(self, number):
            raise OSError("the disk is gone")

    with pytest.raises(adam_mp.AdamError, match=r"can be read|cannot be read"):
        adam_mp.train([Conv(4, 3), BatchNorm(), ReLU(), GlobalAveragePool(), Dense(), Softmax()], Images(), cores=1,
                      epochs=1, validation=0.0, quiet=True, run_dir=tmp_path / "run")  # fmt: skip


def test_a_last_batch_of_one_image_is_refused_where_norms_need_two():
    images, labels = make_images(33, 1)
    with pytest.raises(adam_mp.AdamError, match="the last batch of an epoch has one image: there are 33 to train on"):
        adam_mp.train([Dense(8), BatchNorm(), ReLU(), Dense(), Softmax()], (images.reshape(33, -1), labels), cores=1,
                      epochs=1, validation=0.0, batch_size=16, quiet=True)  # fmt: skip


def test_a_model_without_statistics_does_not_predict():
    network = adam_mp.Network.build([Conv(4, 3), BatchNorm(), GlobalAveragePool(), Dense(), Softmax()], (8, 8, 1), 3)
    model = adam_mp.Model(network, initial_weights(network, 1), (0.0,), (1.0,))
    with pytest.raises(adam_mp.AdamError, match="batch_norm1 has no statistics: the model lacks its mean and variance"):
        model.predict(np.zeros((2, 8, 8, 1), np.float32))
