"""Networks with branches through every command: train, resume, evaluate, predict, inspect, parameter servers."""

from __future__ import annotations

import json

import numpy as np
import pytest

import adam_mp
from adam_mp import Concat, Conv, Dense, GlobalAveragePool, MaxPool, ReLU, Residual, Softmax
from adam_mp.memory.layout import Layout
from adam_mp.network.description import load_network
from adam_mp.params.replica.protocols import choose_protocols, factor_tensors
from adam_mp.training.folder.checkpoint import read_checkpoint
from tests.conftest import make_images
from tests.training.folder.test_checkpoint import read_spaces

RESIDUAL = """
[[layers]]
type = "conv"
name = "stem"
channels = 8
size = 3
padding = "same"
[[layers]]
type = "relu"
[[layers]]
type = "max_pool"
size = 2
[[layers]]
type = "residual"
layers = [
  {type = "conv", channels = 12, size = 3, stride = 2, padding = "same"},
  {type = "relu"},
  {type = "conv", channels = 12, size = 3, padding = "same", bias = false},
]
shortcut = [{type = "conv", channels = 12, size = 1, stride = 2}]
[[layers]]
type = "relu"
[[layers]]
type = "concat"
branches = [[{type = "global_average_pool"}], [{type = "flatten"}, {type = "dense", units = 20}, {type = "relu"}]]
[[layers]]
type = "dense"
[[layers]]
type = "softmax"
"""


@pytest.fixture
def residual(tmp_path):
    path = tmp_path / "residual.toml"
    path.write_text(RESIDUAL)
    return path


def test_a_graph_trains_resumes_evaluates_predicts_and_is_shown(here, small_data, tmp_path, residual):
    same = ("--data", str(small_data), "--model", str(residual), "--cores", "2", "--consistency", "deterministic",
            "--optimizer", "momentum", "--lr", "0.02", "--json")  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ended = here("train", *same, "--epochs", "3", "--run-dir", str(whole))
    assert ended.code == 0, ended.err
    assert ended.summary["test_accuracy"] > 0.6
    assert here("train", *same, "--epochs", "1", "--run-dir", str(cut)).code == 0
    assert here("train", "--resume", str(cut), "--epochs", "3", "--json").code == 0
    first, second = (read_spaces(read_checkpoint(folder))["weights"] for folder in (whole, cut))
    assert np.array_equal(first, second)

    model = adam_mp.load(whole)
    assert model.network.layers == load_network(str(residual), (28, 28, 1), 10).layers
    test = adam_mp.load_data(str(small_data)).test
    assert model.evaluate(test.images, test.labels) == pytest.approx(ended.summary["test_accuracy"], abs=0.005)
    evaluated = here("evaluate", str(whole), "--json")
    assert evaluated.code == 0, evaluated.err
    shown = here("inspect", str(whole))
    for line in ("add1", "of conv3, conv4", "concat1", "of global_average_pool1, relu4", "padding same, bias False"):
        assert line in shown.out
    facts = json.loads(here("inspect", str(whole), "--json").out)
    assert [layer["name"] for layer in facts["layers"]] == list(model.network.names)
    assert facts["parameters"] == sum(array.size for array in model.weights.values())


def test_another_graph_is_no_way_to_resume(here, small_data, tmp_path, residual):
    folder = str(tmp_path / "run")
    same = ("train", "--data", str(small_data), "--cores", "1", "--epochs", "1", "--run-dir", folder)
    assert here(*same, "--model", str(residual)).code == 0
    residual.write_text(
        RESIDUAL.replace('shortcut = [{type = "conv", channels', 'shortcut = [{type = "conv", name = "s", channels')
    )
    ended = here(*same, "--model", str(residual), "--resume")
    assert ended.code == 2
    assert "its conv4 is named s now" in ended.err


@pytest.mark.parametrize(
    ("find", "put", "words"),
    [
        ("channels = 12, size = 1, stride = 2", "channels = 12, size = 1", "add1 adds conv3 of shape (7, 7, 12) and"),
        ('name = "stem"', 'name = "relu1"', "are both named 'relu1'"),
        ('name = "stem"', 'name = "stem"\ninputs = ["add1"]', "reads max_pool1 reads relu1 reads stem: a cycle"),
        ('"global_average_pool"', '"global_avg_pool"', "did you mean 'global_average_pool'"),
    ],
)  # fmt: skip
def test_graphs_that_cannot_be_are_one_line_and_exit_code_2(here, small_data, residual, find, put, words):
    residual.write_text(RESIDUAL.replace(find, put, 1))
    ended = here("train", "--data", str(small_data), "--model", str(residual))
    assert ended.code == 2
    assert words in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_the_dense_layers_of_a_graph_go_as_activations(here, small_data, tmp_path, residual):
    network = load_network(str(residual), (28, 28, 1), 10)
    protocols = choose_protocols(network, 16, 1, "activations", True)
    names = [
        Layout.of(network.parameters).tensors[n].name for n in factor_tensors(Layout.of(network.parameters), protocols)
    ]
    assert names == ["dense1.weight", "dense2.weight"]
    ended = here("train", "--data", str(small_data), "--model", str(residual), "--servers", "1", "--replicas", "2",
                 "--cores", "2", "--epochs", "2", "--protocol", "activations", "--json", "--run-dir",
                 str(tmp_path / "run"))  # fmt: skip
    assert ended.code == 0, ended.err
    assert ended.summary["test_accuracy"] > 0.4


def test_a_graph_written_in_python_trains_on_features_too(tmp_path):
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=600)
    features = generator.standard_normal((600, 12)).astype(np.float32)
    features[np.arange(600), labels] += 3
    layers = [Dense(24), ReLU(), Residual([Dense(24), ReLU(), Dense(24)]), Concat([Dense(4)], []), Dense(), Softmax()]
    result = adam_mp.train(layers, (features, labels), cores=1, epochs=5, lr=0.05, quiet=True, run_dir=tmp_path / "run")
    assert result.model.evaluate(features, labels) > 0.85


def test_images_with_branches_from_python(tmp_path):
    images, labels = make_images(300, 1)
    layers = [
        Conv(6, 3, padding="same"), MaxPool(2), Residual([ReLU(), Conv(6, 3, padding=1)]),
        Concat([ReLU()], [Conv(2, 1)]), GlobalAveragePool(), Dense(16), ReLU(), Dense(), Softmax(),
    ]  # fmt: skip
    result = adam_mp.train(layers, (images, labels), cores=2, epochs=2, quiet=True, run_dir=tmp_path / "run")
    assert result.model.predict(images[:5]).shape == (5, 3)
