"""Runs that diverge, and runs that are asked what they are doing, with real processes."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from adam_mp.training.folder.checkpoint import read_checkpoint
from tests.system.conftest import metrics, wait_until

IMAGES = 1900


@pytest.fixture
def command(small_data, tmp_path):
    """A command line, to which a test adds."""
    return (
        "train", "--data", str(small_data), "--model", "lenet", "--cores", "2", "--json", "--run-dir",
        str(tmp_path / "run"),
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_a_run_that_diverges_goes_back_with_half_the_rate(here, command, tmp_path, mode):
    # In the second epoch the rate is more than a network bears for a while.
    rate = f"0.1 + 40 * exp(-abs(step - {170 if mode == 'async' else 85}))"
    ended = here(*command, "--epochs", "3", "--lr", rate, "--rollbacks", "20", "--consistency", mode)
    assert ended.code == 0, ended.err
    assert "with 0.5 of the learning rate from here on" in ended.err
    assert ended.summary["images_trained"] == 3 * IMAGES
    assert ended.summary["test_accuracy"] > 0.3  # at a small part of the rate
    rows = metrics(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["images_trained"] for row in rows] == [IMAGES] * 3
    assert all(row["loss"] < 5 for row in rows)
    # What was undone is not counted: each update that is left stands once in the histograms.
    assert sum(ended.summary["staleness"].values()) == ended.summary["updates"] == rows[-1]["updates"]
    updates = [row["updates"] for row in rows]
    assert [sum(row["staleness"].values()) for row in rows] == np.diff([0, *updates]).tolist()
    # What a worker did is told by all of its time, that of what was undone included.
    worker = ended.summary["per_worker"][0]
    assert worker["images"] / worker["images_per_second"] > sum(row["seconds"] for row in rows)


def test_a_run_that_diverges_again_and_again_is_given_up(here, command, tmp_path):
    ended = here(*command, "--epochs", "3", "--lr", "1e6 * 1e30", "--rollbacks", "2")
    assert ended.code == 3
    assert ended.err.count("went back to update") == 2
    assert "though the learning rate was halved 2 times; use a lower --lr" in ended.err
    assert "Traceback" not in ended.err
    kept = read_checkpoint(tmp_path / "run")  # a run that is killed after it went back knows of it when it is resumed
    assert (kept.progress["rollbacks"], kept.progress["rate_share"]) == (2, 0.25)


def test_processes_say_what_they_are_doing(start, command, tmp_path):
    run = start(*command, "--epochs", "300")
    wait_until(lambda: metrics(tmp_path / "run"), "the first epoch")
    stopped = run.wait_for_child("data server 0")
    os.kill(stopped, signal.SIGSTOP)
    run.signal(signal.SIGUSR1)
    said = wait_until(lambda: (text := run.read(run.err)) and "data server 0 (" in text and text, "the stacks")
    for words in ("supervisor (", "in step", "worker 0 (", "worker 1 (", "in run\n", "does not answer: stopped"):
        assert words in said, said
    os.kill(stopped, signal.SIGCONT)
    run.signal(signal.SIGTERM)
    assert run.finish().code == 143


def test_a_run_that_stalls_says_what_its_processes_are_doing(start, command, tmp_path):
    run = start(*command, "--epochs", "300", "--stall-seconds", "1")
    wait_until(lambda: metrics(tmp_path / "run"), "the first epoch")
    os.kill(run.wait_for_child("data server 0"), signal.SIGSTOP)
    ended = run.finish()
    assert ended.code == 4
    assert "nothing moves; what the processes are doing:" in ended.err
    assert "worker 1 (" in ended.err
    assert "does not answer: stopped" in ended.err
