"""A model cut over the workers of one machine: it trains, resumes with another cut, and outlives its members."""

from __future__ import annotations

import json
import os
import signal
import time

import numpy as np
import pytest

import adam_mp
from tests.system.conftest import metrics, wait_until

EPOCHS, IMAGES = 6, 1900


def command(folder, data, *more):
    return ("train", "--model", "lenet", "--data", str(data), "--cores", "2", "--json", "--run-dir", str(folder), *more)


@pytest.mark.parametrize("cut", ["auto", pytest.param("rows", marks=pytest.mark.long)])
def test_a_cut_model_learns_as_a_whole_one_and_resumes_with_other_partitions(here, small_data, tmp_path, cut):
    whole = here(*command(tmp_path / "whole", small_data, "--epochs", "3", "--augment", "none"))
    assert whole.code == 0, whole.err
    parts = here(
        *command(
            tmp_path / "parts", small_data, "--epochs", "1", "--augment", "none", "--partitions", "2", "--cut", cut
        )
    )
    assert parts.code == 0, parts.err
    for partitions, epochs in ((3, 2), (1, 3)):
        resume = (
            "train",
            "--resume",
            str(tmp_path / "parts"),
            "--partitions",
            str(partitions),
            "--epochs",
            str(epochs),
        )
        ended = here(*resume, "--json")
        assert ended.code == 0, ended.err
    assert ended.summary["images_trained"] == 3 * IMAGES
    assert ended.summary["test_accuracy"] > whole.summary["test_accuracy"] - 0.03
    model = adam_mp.load(tmp_path / "parts")
    assert {name: tensor.shape for name, tensor in model.weights.items()} == dict(model.network.parameters)
    evaluated = here("evaluate", str(tmp_path / "parts"), "--data", str(small_data), "--json")
    assert json.loads(evaluated.out)["accuracy"] == pytest.approx(ended.summary["test_accuracy"])


def test_norms_residuals_an_average_and_views_over_three_partitions(here, tmp_path):
    generator = np.random.default_rng(1)
    labels = np.arange(240) % 2
    tint = np.where(labels[:, None], (150, 90, 100), (100, 90, 150))[:, None, None]
    pictures = (tint + generator.integers(-60, 60, (240, 16, 16, 3))).clip(0, 255).astype(np.uint8)
    path = tmp_path / "pictures.npz"
    np.savez(path, x_train=pictures[:192], y_train=labels[:192], x_test=pictures[192:], y_test=labels[192:])
    ended = here(
        "train", "--data", str(path), "--model", "resnet20", "--partitions", "3", "--cores", "2", "--epochs", "3",
        "--average", "ema:0.9", "--views", "reflect,shift=1", "--optimizer", "momentum", "--lr", "0.02",
        "--clip-norm", "5", "--validation", "0.1", "--run-dir", str(tmp_path / "run"), "--json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert ended.summary["test_accuracy"] > 0.9
    evaluated = here("evaluate", str(tmp_path / "run"), "--views", "reflect,shift=1", "--json")
    assert json.loads(evaluated.out)["accuracy"] == pytest.approx(ended.summary["test_accuracy"], abs=0.025)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGSEGV, marks=pytest.mark.long)])
def test_a_member_that_is_killed_is_replaced_and_no_image_is_lost(start, small_data, tmp_path, number, how):
    run = start(*command(tmp_path / "run", small_data, "--partitions", "2", "--epochs", str(EPOCHS)))
    wait_until(lambda: metrics(tmp_path / "run"), "the first epoch")
    for _ in range(2):
        first = run.wait_for_child(f"worker {number}")
        os.kill(first, how)
        wait_until(lambda first=first: run.see_children().get(f"worker {number}") not in (None, first), "a successor")
        time.sleep(0.3)
    ended = run.finish()
    assert ended.code == 0, ended.err
    assert f"worker {number} was killed by {how.name}" in ended.err
    assert [row["images_trained"] for row in metrics(tmp_path / "run")] == [IMAGES] * EPOCHS
    assert ended.summary["test_accuracy"] > 0.9


def test_a_member_that_stands_still_holds_up_its_group_and_no_more(start, small_data, tmp_path):
    run = start(*command(tmp_path / "run", small_data, "--partitions", "2", "--epochs", str(EPOCHS)))
    wait_until(lambda: metrics(tmp_path / "run"), "the first epoch")
    member = run.wait_for_child("worker 1")
    os.kill(member, signal.SIGSTOP)
    time.sleep(2)
    os.kill(member, signal.SIGCONT)
    ended = run.finish()
    assert ended.code == 0, ended.err
    assert [row["images_trained"] for row in metrics(tmp_path / "run")] == [IMAGES] * EPOCHS


@pytest.mark.parametrize("partitions", [2, 3])
def test_a_cut_run_that_diverges_goes_back_and_ends_by_itself(here, small_data, tmp_path, partitions):
    ended = here(
        *command(
            tmp_path / "run", small_data, "--partitions", str(partitions), "--cut", "dense*=none", "--lr", "100",
            "--optimizer", "momentum", "--epochs", "2", "--rollbacks", "2", "--stall-seconds", "20",
        )
    )  # fmt: skip
    assert "moved for" not in ended.err
    assert "went back to update 0" in ended.err
    assert ended.code in (0, 3), ended.err


def test_a_partition_that_updates_nothing_clips_with_the_others(here, tmp_path):
    model = tmp_path / "tiny.toml"
    convolution = 'type = "conv"\nchannels = 4\nsize = 1'
    kinds = (convolution, 'type = "global_average_pool"', 'type = "dense"', 'type = "softmax"')
    model.write_text("".join(f"[[layers]]\n{kind}\n" for kind in kinds))
    pictures = np.random.default_rng(1).integers(0, 255, (64, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x_train=pictures, y_train=np.arange(64) % 2)
    ended = here(
        "train", "--data", str(tmp_path / "data.npz"), "--model", str(model), "--partitions", "6", "--cut", "rows",
        "--clip-norm", "1", "--epochs", "1", "--json", "--run-dir", str(tmp_path / "run"), "--stall-seconds", "20",
    )  # fmt: skip
    assert ended.code == 0, ended.err


def test_groups_of_two_replicas_share_parameter_servers(here, small_data, tmp_path):
    ended = here(
        *command(
            tmp_path / "run", small_data, "--partitions", "2", "--replicas", "2", "--servers", "2", "--epochs", "3",
            "--exchange-images", "128",
        )
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert ended.summary["images_trained"] == 3 * IMAGES
    assert ended.summary["test_accuracy"] > 0.85


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--partitions", "30", "--cut", "conv1=rows"), "conv1 cannot be cut by rows over 30 partitions"),
        (("--partitions", "2", "--consistency", "sync"), "--consistency is sync with --partitions 2"),
        (("--cut", "rows"), "--cut is for a model that is cut; give --partitions P too"),
        (("--partitions", "0"), "--partitions is 0; expected"),
        (("--partitions", "2", "--on-failure", "continue"), "a group needs all its partitions"),
        (("--partitions", "2", "--cut", "conv9=rows"), "'conv9' fits no layer that can be cut"),
    ],
)
def test_a_cut_that_cannot_be_is_refused_before_anything_starts(here, small_data, tmp_path, more, says):
    ended = here(*command(tmp_path / "run", small_data, *more))
    assert ended.code == 2
    assert says in ended.err
    assert not (tmp_path / "run").exists()
