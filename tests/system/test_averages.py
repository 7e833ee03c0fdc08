"""Averages of weights in runs of real processes: what is validated, tested and saved, and what a resume keeps."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest

import adam_mp
from adam_mp.memory.layout import Layout
from adam_mp.training.folder.checkpoint import find_checkpoints, read_checkpoint
from adam_mp.training.settings.averages import AVERAGE
from tests.conftest import LAYERS as SMALL
from tests.conftest import make_images
from tests.system.conftest import metrics, wait_until
from tests.system.test_consistency import IMAGES, cut_within_an_epoch, done
from tests.system.test_norms import LAYERS

KINDS = ["ema:0.98", "last:3"]


def spaces(folder):
    """Layout, weights and average of the newest checkpoint."""
    checkpoint = read_checkpoint(folder)
    layout = Layout.of(checkpoint.network.parameters)
    found = {name: np.zeros(layout.size, np.float32) for name in ("weights", AVERAGE)}
    checkpoint.read_into(found)
    return layout, found["weights"], found[AVERAGE]


def model_of(folder):
    """The weights of the model, flat, without the statistics of norms."""
    model = adam_mp.load(folder)
    layout = Layout.of(model.network.parameters)
    flat = np.zeros(layout.size, np.float32)
    for name, view in layout.views(flat).items():
        view[...] = model.weights[name]
    return flat


@pytest.fixture
def command(small_data, tmp_path):
    """Make the command line of a run with an average on a few digits; the folder's name tells runs apart."""

    def command(name, average, *more):
        data, folder = str(small_data), str(tmp_path / name)
        return ("train", "--data", data, "--json", "--run-dir", folder, "--average", average, *more)

    return command


@pytest.mark.parametrize("average", KINDS)
def test_an_average_has_the_same_bits_though_processes_die_and_the_run_is_resumed(
    start, here, command, tmp_path, average
):
    mode = ("--cores", "2", "--consistency", "deterministic", "--optimizer", "momentum", "--epochs", "5",
            "--model", "lenet", "--lr", "0.01")  # fmt: skip
    done(here(*command("whole", average, *mode)), 5 * IMAGES)
    run = start(*command("cut", average, *mode, "--checkpoint-seconds", "0.1"))
    os.kill(run.wait_for_child("worker 0"), signal.SIGKILL)
    wait_until(lambda: len(metrics(tmp_path / "cut")) > 2, "the third epoch")
    cut_within_an_epoch(run, tmp_path / "cut", 60)
    done(here("train", "--data", command("cut", average)[2], "--json", "--resume", str(tmp_path / "cut")), 5 * IMAGES)
    for once, again in zip(spaces(tmp_path / "whole")[1:], spaces(tmp_path / "cut")[1:], strict=True):
        np.testing.assert_array_equal(once, again)
    losses = [[each["validation_loss"] for each in metrics(tmp_path / name)] for name in ("whole", "cut")]
    assert losses[0] == losses[1]
    noted = json.loads((tmp_path / "cut" / "run.json").read_text())["settings"]
    assert noted["average"] == average


def test_the_model_is_the_mean_of_the_weights_at_the_ends_of_the_last_epochs(here, command, tmp_path):
    folder = tmp_path / "run"
    flags = ("--cores", "2", "--epochs", "3", "--model", "lenet", "--lr", "0.05", "--validation", "0")
    here(*command("run", "last:2", *flags))
    _, last, average = spaces(folder)
    np.testing.assert_array_equal(model_of(folder), average)
    newest = find_checkpoints(folder)[-1]
    newest.rename(tmp_path / newest.name)
    _, last_but_one, before = spaces(folder)
    np.testing.assert_array_equal(last_but_one, before)  # the first of the two
    assert (last != last_but_one).any()
    np.testing.assert_allclose(average, (last + last_but_one) / 2, rtol=1e-5, atol=1e-7)
    (tmp_path / newest.name).rename(newest)
    # Of three epochs two were averaged. With one more, the first of these is none of the last two.
    here("train", "--resume", str(folder), "--epochs", "4", "--json")
    _, last, average = spaces(folder)
    np.testing.assert_array_equal(last, average)


@pytest.mark.parametrize("average", KINDS)
def test_a_resumed_run_may_begin_to_average_and_end_it(here, command, tmp_path, average):
    folder = tmp_path / "run"
    flags = ("--cores", "2", "--epochs", "1", "--model", "lenet", "--lr", "0.05")
    here(*command("run", "none", *flags))
    assert AVERAGE not in read_checkpoint(folder).space_names
    again = ("train", "--resume", str(folder), "--json")
    assert here(*again, "--epochs", "4", "--average", average).code == 0
    _, trained, average = spaces(folder)
    assert (trained != average).any()
    assert here(*again, "--epochs", "5", "--average", "none", "--validation", "0.05").code == 0
    assert AVERAGE not in read_checkpoint(folder).space_names


def test_a_run_that_is_interrupted_in_its_first_epoch_has_the_weights_as_a_model(start, tmp_path):
    folder = tmp_path / "run"
    flags = ("--cores", "2", "--average", "last:2", "--model", "lenet", "--checkpoint-seconds", "0.1")
    run = start("train", *flags, "--run-dir", str(folder), "--json")
    wait_until(lambda: list(folder.glob("checkpoint-*")), "a checkpoint")
    run.signal(signal.SIGINT)
    run.finish()
    assert not metrics(folder)
    _, trained, average = spaces(folder)
    assert (trained != average).any()
    np.testing.assert_array_equal(model_of(folder), trained)


@pytest.mark.parametrize("average", KINDS)
@pytest.mark.parametrize("mode", [(), ("--consistency", "ssp:1"), ("--servers", "1", "--replicas", "2")])
def test_the_model_is_the_average_in_other_modes(here, command, tmp_path, average, mode):
    flags = ("--cores", "2", "--epochs", "3", "--model", "lenet", "--lr", "0.05", "--validation", "0", *mode)
    run = done(here(*command("run", average, *flags)), 3 * 2000)
    _, trained, average = spaces(tmp_path / "run")
    assert (trained != average).any()
    assert np.linalg.norm(trained - average) < 0.5 * np.linalg.norm(trained)
    np.testing.assert_array_equal(model_of(tmp_path / "run"), average)
    assert run.summary["test_accuracy"] == pytest.approx(here_accuracy(here, tmp_path / "run"))


def here_accuracy(here, folder):
    """The accuracy that `evaluate` measures of the model."""
    return json.loads(here("evaluate", str(folder), "--json").out)["accuracy"]


@pytest.mark.parametrize("average", KINDS)
def test_the_model_of_the_best_epoch_is_tested_though_the_average_went_on(tmp_path, average):
    """Labels are drawn at random, so that each epoch's model is right by chance, and on other images than the next."""
    draw = np.random.default_rng(3)
    images, labels = draw.integers(0, 256, (900, 12, 12)).astype(np.uint8), draw.integers(0, 3, 900)
    for seed in range(1, 9):  # until an epoch before the last happens to be the best
        folder = tmp_path / str(seed)
        result = adam_mp.train(
            list(SMALL), (images[:600], labels[:600], images[600:], labels[600:]), cores=1, epochs=6, lr=0.05,
            quiet=True, augment="none", validation=0.2, average=average, seed=seed, run_dir=folder,
        )  # fmt: skip
        if result.best_epoch < 6:
            break
    assert result.best_epoch < 6
    assert result.test_accuracy == pytest.approx(result.model.evaluate(images[600:], labels[600:]), abs=1e-9)
    _, _, last = spaces(folder)
    assert (model_of(folder) != last).any()


@pytest.mark.parametrize("average", KINDS)
def test_norms_are_measured_for_the_average(tmp_path, average):
    images, labels = make_images(600, 1)
    others, their_labels = make_images(200, 2)
    result = adam_mp.train(
        LAYERS, (images, labels, others, their_labels), cores=2, epochs=8, lr=0.1, quiet=True, augment="none",
        average=average, run_dir=tmp_path / "run",
    )  # fmt: skip
    assert result.test_accuracy > 0.8
    assert result.model.evaluate(others, their_labels) == pytest.approx(result.test_accuracy, abs=0.006)


@pytest.mark.parametrize("average", KINDS)
def test_an_average_is_good_though_the_run_diverges_and_a_worker_dies(start, command, tmp_path, average):
    # In the second epoch the rate is more than a network bears for a while.
    rate = "0.1 + 40 * exp(-abs(step - 170))"
    run = start(*command("run", average, "--model", "lenet", "--cores", "2", "--epochs", "5", "--lr", rate,
                         "--rollbacks", "20"))  # fmt: skip
    os.kill(run.wait_for_child("worker 0"), signal.SIGKILL)
    ended = done(run.finish(), 5 * IMAGES)
    assert "of the learning rate from here on" in ended.err
    _, trained, average = spaces(tmp_path / "run")
    assert np.isfinite(average).all()
    assert (trained != average).any()
    assert ended.summary["test_accuracy"] > 0.3
