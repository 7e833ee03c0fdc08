"""The consistency dial with real processes: a step of all workers is the same, whatever happens to any of them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from adam_mp.memory.layout import Layout
from adam_mp.network.initialization import initial_weights
from adam_mp.training.folder.checkpoint import read_checkpoint
from tests.system.conftest import metrics, wait_until
from tests.training.folder.test_checkpoint import read_spaces

IMAGES, BATCHES = 1900, 119  # of an epoch


@pytest.fixture
def command(small_data, tmp_path):
    """Make the command line of a run on a few digits; the folder's name tells runs apart."""

    def command(name, *more):
        folder = str(tmp_path / name)
        return ("train", "--data", str(small_data), "--model", "lenet", "--json", "--run-dir", folder, *more)

    return command


@pytest.fixture
def train(start, command):
    """Start a run as a process of its own, to do something to it."""
    return lambda name, *more: start(*command(name, *more))


@pytest.fixture
def trained(here, command):
    """Train in this process; return how that ended."""
    return lambda name, *more: here(*command(name, *more))


def weights(folder: Path) -> np.ndarray:
    """Return the weights at the end of a run."""
    return read_spaces(read_checkpoint(folder))["weights"]


def done(ended, images):
    assert ended.code == 0, ended.err
    assert ended.summary["images_trained"] == images
    return ended


def stop_in_bursts(run, name, seconds, stopped=0.05, going=None):
    """Stop and continue a process again and again; it goes as long as it is `stopped`, unless told otherwise."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and run.process.poll() is None:
        for number, burst in ((signal.SIGSTOP, stopped), (signal.SIGCONT, stopped if going is None else going)):
            try:
                os.kill(run.wait_for_child(name), number)
            except ProcessLookupError:
                return
            time.sleep(burst)


def cut_within_an_epoch(run, folder, updates):
    """Kill the supervisor once a checkpoint is from within an epoch, which has so many `updates`."""
    while read_checkpoint(folder).updates % updates == 0:
        assert run.process.poll() is None, "the run ended without a checkpoint in an epoch"
        stop_in_bursts(run, "worker 0", 0.2, 0.2, 0.01)  # slow enough for one, whatever the machine
    run.see_children()
    run.signal(signal.SIGKILL)
    assert run.finish().code == -signal.SIGKILL


def test_several_processes_repeat_bit_for_bit_though_one_is_slow_and_one_is_killed(train, trained, tmp_path):
    modes = ("--cores", "3", "--epochs", "3", "--consistency", "deterministic", "--optimizer", "momentum")
    done(trained("calm", *modes), 3 * IMAGES)
    run = train("stormy", *modes)
    stop_in_bursts(run, "worker 1", 1.0)
    for name in ("worker 0", "worker 2", "data server 0", "worker 0"):
        os.kill(run.wait_for_child(name), signal.SIGKILL)
        time.sleep(0.3)
    ended = done(run.finish(), 3 * IMAGES)
    assert "was killed by SIGKILL" in ended.err
    assert ended.summary["updates"] == 3 * -(-BATCHES // 3)
    assert ended.summary["staleness"] == {"0": ended.summary["updates"]}
    assert np.array_equal(weights(tmp_path / "calm"), weights(tmp_path / "stormy"))


DETERMINISTIC = ("--cores", "2", "--consistency", "deterministic")


@pytest.mark.parametrize(
    ("mode", "images", "updates"),
    [
        pytest.param(DETERMINISTIC, IMAGES, 60, id="two workers", marks=pytest.mark.long),
        pytest.param((*DETERMINISTIC, "--quorum", "0.75"), 90 * 16, 45, id="two workers and a quorum"),
        pytest.param(("--cores", "1"), IMAGES, BATCHES, id="one core", marks=pytest.mark.long),
    ],
)
def test_a_run_that_is_killed_and_resumed_ends_with_the_same_weights(train, trained, tmp_path, mode, images, updates):
    mode = (*mode, "--epochs", "6")
    done(trained("whole", *mode), 6 * images)
    run = train("cut", *mode, "--checkpoint-seconds", "0.1")
    wait_until(lambda: metrics(tmp_path / "cut"), "the first epoch")
    wait_until(lambda: list((tmp_path / "cut").glob("checkpoint-*")), "a checkpoint")
    cut_within_an_epoch(run, tmp_path / "cut", updates)
    ended = done(trained("cut", *mode, "--resume"), 6 * images)
    assert ended.summary["updates"] == 6 * updates
    assert np.array_equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


@pytest.mark.long
def test_a_cut_epoch_goes_on_with_another_quorum(train, trained, tmp_path):
    run = train("run", *DETERMINISTIC, "--epochs", "2", "--quorum", "0.5", "--checkpoint-seconds", "0.05")
    wait_until(lambda: list((tmp_path / "run").glob("checkpoint-*")), "a checkpoint")
    run.see_children()
    run.signal(signal.SIGKILL)
    run.finish()
    cut = read_checkpoint(tmp_path / "run")
    ended = trained("run", *DETERMINISTIC, "--epochs", "4", "--quorum", "1", "--resume")
    assert ended.code == 0, ended.err
    assert ended.summary["images_trained"] == cut.epoch * 60 * 16 + (4 - cut.epoch) * IMAGES


def test_synchronous_workers_train_as_one_process_with_all_their_images(trained, tmp_path):
    same = ("--epochs", "1", "--augment", "none", "--lr", "0.001")
    done(trained("one", *same, "--cores", "1", "--batch-size", "32"), IMAGES)
    ended = done(trained("many", *same, "--cores", "4", "--batch-size", "8", "--consistency", "sync"), IMAGES)
    assert ended.summary["updates"] == -(-IMAGES // 32)
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    network = read_checkpoint(tmp_path / "one").network
    first = Layout.of(network.parameters)
    start = np.zeros(first.size, np.float32)
    for name, view in first.views(start).items():
        view[...] = initial_weights(network, 1)[name]
    assert np.linalg.norm(many - one) < 0.01 * np.linalg.norm(one - start)


def test_a_quorum_ends_synchronous_epochs_and_all_images_are_counted(trained):
    ended = trained("run", "--cores", "3", "--epochs", "3", "--consistency", "sync", "--quorum", "0.5")
    assert ended.code == 0, ended.err
    assert ended.summary["images_trained"] == 3 * 60 * 16  # just enough, whoever is quick
    assert ended.summary["images_skipped"] == 3 * (IMAGES - 60 * 16)


def test_with_bounded_staleness_the_quick_wait_for_the_slow(train, tmp_path):
    run = train("run", "--cores", "3", "--epochs", "8", "--consistency", "ssp:2")
    wait_until(lambda: metrics(tmp_path / "run"), "the first epoch")
    stop_in_bursts(run, "worker 1", 2.0, 0.2)
    ended = done(run.finish(), 8 * IMAGES)
    workers = ended.summary["per_worker"]
    assert max(worker["lead"] for worker in workers) == 2
    assert sum(worker["images"] for worker in workers) == 8 * IMAGES
    assert max(workers[0]["held_seconds"], workers[2]["held_seconds"]) > 0.2


def test_the_histogram_of_staleness_has_every_update(trained, tmp_path):
    ended = done(trained("run", "--cores", "3", "--epochs", "2", "--consistency", "ssp:1"), 2 * IMAGES)
    assert sum(ended.summary["staleness"].values()) == ended.summary["updates"] == 2 * BATCHES
    rows = metrics(tmp_path / "run")
    assert [sum(row["staleness"].values()) for row in rows] == [BATCHES] * 2
    assert sum(worker["share"] for worker in ended.summary["per_worker"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("mode", "before", "after"),
    [("async", "2", "1"), pytest.param("async", "1", "4", marks=pytest.mark.long), ("deterministic", "2", "3")],
)
def test_a_run_is_resumed_with_another_number_of_cores(train, trained, tmp_path, mode, before, after):
    modes = ("--epochs", "6", "--consistency", mode)
    run = train("run", *modes, "--cores", before, "--checkpoint-seconds", "0.1")
    wait_until(lambda: list((tmp_path / "run").glob("checkpoint-*")), "a checkpoint")
    run.signal(signal.SIGINT)
    assert run.finish().code == 130
    done(trained("run", *modes, "--cores", after, "--resume"), 6 * IMAGES)


@pytest.mark.parametrize(("what", "code"), [("stop", 1), ("continue", 0)])
def test_what_comes_after_a_worker_died(train, what, code):
    run = train("run", "--cores", "2", "--epochs", "4", "--on-failure", what)
    run.wait_for_child("worker 0")
    os.kill(run.wait_for_child("worker 1"), signal.SIGKILL)
    ended = run.finish()
    assert ended.code == code, ended.err
    assert "worker 1 was killed by SIGKILL" in ended.err
    assert ("going on without it" in ended.err) == (code == 0)
    if code == 0:
        assert ended.summary["images_trained"] == 4 * IMAGES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--consistency", "ssp:0"), "expected async, ssp:K"),
        (("--consistency", "sync", "--on-failure", "continue"), "give --on-failure restart or stop"),
        (("--consistency", "sync", "--servers", "1"), "replicas take async or ssp:K"),
        (("--on-failure", "panic"), "expected restart, continue or stop"),
    ],
)
def test_wrong_settings(trained, arguments, message):
    ended = trained("run", *arguments)
    assert ended.code == 2
    assert message in ended.err
