"""Several settings of recipes together, in runs of real processes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from adam_mp.memory.layout import Layout
from adam_mp.network.initialization import initial_weights
from adam_mp.training.folder.checkpoint import read_checkpoint
from tests.system.conftest import metrics, wait_until
from tests.system.test_consistency import IMAGES, cut_within_an_epoch, done, weights

RECIPE = {
    "rates": "conv1=0.0,*.bias=2.0", "label_smoothing": 0.1, "mixup": 0.4, "cutmix": 1.0, "clip_norm": 0.5,
    "weight_decay": 0.01,
    "augment": "shift=2,border=reflect,reflect=alternate,erase=0.5",
}  # fmt: skip
FLAGS = [part for name, value in RECIPE.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def frozen_and_others(folder: Path) -> tuple[bool, bool]:
    """Tell whether conv1's weights are those that a run began with, and whether all other weights are not."""
    network = read_checkpoint(folder).network
    ends, begun = Layout.of(network.parameters).views(weights(folder)), initial_weights(network, 1)
    same = {name: np.array_equal(ends[name], begun[name]) for name in begun}
    return same["conv1.weight"], not any(same[name] for name in same if name != "conv1.weight")


@pytest.fixture
def command(small_data, tmp_path):
    """Make the command line of a run with the recipe on a few digits; the folder's name tells runs apart."""

    def command(name, *more):
        folder = str(tmp_path / name)
        return ("train", "--data", str(small_data), "--model", "lenet", "--json", "--run-dir", folder, *FLAGS, *more)

    return command


def test_a_recipe_ends_with_the_same_bits_though_processes_die_and_the_run_is_resumed(start, here, command, tmp_path):
    mode = ("--cores", "2", "--consistency", "deterministic", "--optimizer", "momentum", "--epochs", "6",
            "--lr", "0.02 * one_cycle(0.3)")  # fmt: skip
    whole = done(here(*command("whole", *mode)), 6 * IMAGES)
    run = start(*command("cut", *mode, "--checkpoint-seconds", "0.1"))
    os.kill(run.wait_for_child("worker 0"), signal.SIGKILL)
    wait_until(lambda: metrics(tmp_path / "cut"), "the first epoch")
    wait_until(lambda: list((tmp_path / "cut").glob("checkpoint-*")), "a checkpoint")
    cut_within_an_epoch(run, tmp_path / "cut", 60)
    done(here("train", "--data", command("cut")[2], "--json", "--resume", str(tmp_path / "cut")), 6 * IMAGES)
    assert np.array_equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    noted = json.loads((tmp_path / "cut" / "run.json").read_text())["settings"]
    assert {name: noted[name] for name in RECIPE} == RECIPE
    assert frozen_and_others(tmp_path / "whole") == (True, True)
    assert metrics(tmp_path / "whole")[-1]["loss"] > metrics(tmp_path / "whole")[-1]["validation_loss"]
    assert whole.summary["updates"] == 6 * 60


@pytest.mark.parametrize(
    "mode", [("--consistency", "ssp:2"), ("--servers", "1", "--replicas", "2", "--protocol", "activations")]
)
def test_a_recipe_in_other_modes(here, command, tmp_path, mode):
    done(here(*command("run", "--cores", "2", "--epochs", "2", *mode)), 2 * IMAGES)
    assert frozen_and_others(tmp_path / "run") == (True, True)


def test_mixed_batches_are_the_same_from_any_number_of_data_servers(here, small_data, tmp_path):
    mode = ("--model", "lenet", "--consistency", "deterministic", "--cores", "2", "--epochs", "2", "--json")
    mixing = ("--mixup", "1", "--cutmix", "1", "--data-servers")
    for name, more in (("one", (*mixing, "1")), ("three", (*mixing, "3")), ("plain", ())):
        done(here("train", "--data", str(small_data), "--run-dir", str(tmp_path / name), *mode, *more), 2 * IMAGES)
    assert np.array_equal(weights(tmp_path / "one"), weights(tmp_path / "three"))
    plain, mixed = (metrics(tmp_path / name)[-1] for name in ("plain", "one"))
    assert mixed["loss"] > 2 * plain["loss"]
    assert mixed["loss"] > 2 * mixed["validation_loss"]  # whose labels are not mixed
