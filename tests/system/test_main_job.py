"""The main job on the embedded data, and what it leaves."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from safetensors import safe_open

import adam_mp

KEYS = {
    "test_accuracy", "validation_accuracy", "epochs", "seconds", "images_per_second", "connections_per_second",
    "images_trained", "images_skipped", "data_wait_fraction", "staleness_mean",
}  # fmt: skip


def test_one_epoch_of_mnist_reaches_its_accuracy(start, here, tmp_path):
    run = start(
        "train",
        "--cores",
        "2",
        "--epochs",
        "1",
        "--seed",
        "1",
        "--json",
        "--run-dir",
        str(tmp_path / "run"),
        fresh=True,
    )
    run.wait_for_child("worker 1")
    ended = run.finish(120)
    assert ended.code == 0, ended.err
    summary = ended.summary
    assert summary.keys() >= KEYS
    assert summary["test_accuracy"] >= 0.983
    assert summary["images_trained"] == 57000
    assert summary["images_skipped"] == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"model.safetensors", "metrics.jsonl", "run.json", "curves.png"} <= names
    with safe_open(tmp_path / "run" / "model.safetensors", framework="numpy") as file:
        assert json.loads(file.metadata()["network"])["name"] == "mnist"
        assert file.get_tensor("dense2.weight").shape == (384, 10)
    with Image.open(tmp_path / "run" / "curves.png") as image:
        image.verify()

    evaluated = here("evaluate", str(tmp_path / "run"), "--json")
    assert evaluated.summary["accuracy"] == pytest.approx(summary["test_accuracy"])


@pytest.mark.parametrize("cores", [pytest.param("1", marks=pytest.mark.long), "8"])
def test_more_or_fewer_processes_than_cores_train_as_well(here, small_data, tmp_path, cores):
    ended = here(
        "train", "--cores", cores, "--data", str(small_data), "--epochs", "6", "--lr", "0.03 * warmup", "--json",
        "--run-dir", str(tmp_path / "run"),
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert ended.summary["test_accuracy"] > 0.9
    assert ended.summary["images_trained"] == 6 * 1900
    assert ended.err.count("usable here") == (1 if cores == "8" else 0)


@pytest.mark.long
def test_one_core_repeats_bit_for_bit(start, small_data, tmp_path):
    for name in ("first", "second"):
        run = start(
            "train", "--cores", "1", "--data", str(small_data), "--epochs", "2", "--run-dir", str(tmp_path / name)
        )
        assert run.finish().code == 0
    first, second = (adam_mp.load(tmp_path / name).weights for name in ("first", "second"))
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


def test_quorum_skips_and_counts_the_rest(here, small_data, tmp_path):
    ended = here(
        "train", "--cores", "2", "--data", str(small_data), "--epochs", "2", "--quorum", "0.75", "--json",
        "--run-dir", str(tmp_path / "run"),
    )  # fmt: skip
    summary = ended.summary
    assert summary["images_trained"] + summary["images_skipped"] == 2 * 1900
    assert summary["images_trained"] >= 2 * 1425
    assert summary["images_skipped"] > 0


def test_target_accuracy_stops_early(here, small_data, tmp_path):
    ended = here(
        "train", "--cores", "2", "--data", str(small_data), "--epochs", "50", "--target-accuracy", "0.5", "--json",
        "--run-dir", str(tmp_path / "run"),
    )  # fmt: skip
    summary = ended.summary
    assert summary["epochs"] < 50
    assert summary["validation_accuracy"] >= 0.5


def test_networks_from_toml_and_from_a_function_train(here, small_data, tmp_path):
    toml = tmp_path / "own.toml"
    toml.write_text(
        '[[layers]]\ntype = "conv"\nchannels = 6\nsize = 5\n[[layers]]\ntype = "max_pool"\nsize = 2\n'
        '[[layers]]\ntype = "relu"\n[[layers]]\ntype = "flatten"\n[[layers]]\ntype = "dense"\n'
        '[[layers]]\ntype = "softmax"\n'
    )
    for model, folder in ((str(toml), "toml"), ("adam_mp.network.zoo:mlp", "function")):
        ended = here("train", "--model", model, "--data", str(small_data), "--epochs", "2", "--json", "--run-dir",
                     str(tmp_path / folder))  # fmt: skip
        assert ended.code == 0, ended.err
        assert ended.summary["test_accuracy"] > 0.5


@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_every_rule_trains_with_its_own_rate(here, small_data, tmp_path, rule):
    ended = here(
        "train", "--data", str(small_data), "--epochs", "3", "--optimizer", rule, "--json", "--run-dir",
        str(tmp_path / "run"),
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert ended.summary["test_accuracy"] > 0.6


def test_formulas_for_rate_and_rule_train(here, small_data, tmp_path):
    ended = here(
        "train", "--data", str(small_data), "--epochs", "3", "--lr", "0.05 * 0.95 ** epoch", "--optimizer",
        "w - lr * (g + 0.0005 * w)", "--json", "--run-dir", str(tmp_path / "run"),
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert ended.summary["test_accuracy"] > 0.7
