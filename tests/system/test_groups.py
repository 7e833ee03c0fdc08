"""Groups with partitions on machines of their own share parameter servers (here: commands that meet on loopback)."""

from __future__ import annotations

import json
import signal

import pytest

import adam_mp
from adam_mp.training.folder.checkpoint import find_checkpoints
from tests.system.conftest import metrics, wait_until
from tests.system.test_machines import IMAGES, Commands

EPOCHS = 4
QUICK = ("--exchange-images", "128")


@pytest.fixture
def servers(start, tmp_path):
    """Start two parameter servers; return them, and where the first of them is."""

    def serve(number, *more):
        path = tmp_path / f"params-{number}.address"
        server = start("serve-params", "--listen", "127.0.0.1:0", "--address-file", str(path), *more)
        wait_until(path.exists, "the server to listen")
        return server, path.read_text().strip()

    first, place = serve(0, "--servers", "2")
    second, _ = serve(1, "--join", place)
    return [first, second], place


def group(start, data, place, folder, *more):
    return Commands(start, folder, data, 2, "--join", place, *QUICK, *more)


def trained(folder):
    return [row["images_trained"] for row in metrics(folder)]


def test_two_groups_over_machines_learn_as_one(start, small_data, tmp_path, servers):
    started, place = servers
    folders = [tmp_path / "one", tmp_path / "two"]
    groups = [group(start, small_data, place, folder, "--epochs", "3") for folder in folders]
    ends = [each.finish() for each in groups]
    for server in started:
        assert server.finish(60).code == 0
    assert [ended.summary["images_trained"] for ended in ends] == [3 * IMAGES] * 2
    [accuracy] = [found for ended in ends if (found := ended.summary["test_accuracy"]) is not None]
    assert accuracy > 0.85
    models = [adam_mp.load(folder) for folder in folders]
    for model in models:
        assert {name: tensor.shape for name, tensor in model.weights.items()} == dict(model.network.parameters)


@pytest.mark.parametrize(
    ("part", "which"),
    [
        (2, "synchronizer"),
        pytest.param(1, "synchronizer", marks=pytest.mark.long),
        pytest.param(1, "worker 0", marks=pytest.mark.long),
        pytest.param(2, "worker 0", marks=pytest.mark.long),
        pytest.param(2, "courier", marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_a_process_of_a_group_that_is_killed_is_replaced(start, small_data, tmp_path, servers, part, which):
    folder = tmp_path / "run"
    machines = group(start, small_data, servers[1], folder, "--epochs", str(EPOCHS))
    machines.trained()
    machines.kill_twice(part, which)
    ended = machines.finish()
    assert trained(folder) == [IMAGES] * EPOCHS
    assert ended.summary["test_accuracy"] > 0.9


def test_a_group_that_loses_a_machine_begins_again_with_the_servers_weights(start, small_data, tmp_path, servers):
    one, two = tmp_path / "one", tmp_path / "two"
    groups = [group(start, small_data, servers[1], folder, "--epochs", "8") for folder in (one, two)]
    for each in groups:
        each.trained()
    lost = groups[1]
    lost.others[2].see_children()
    lost.others[2].signal(signal.SIGKILL)
    lost.others[2].check_nothing_left()
    lost.others[2] = lost.follow(2)
    ends = [each.finish() for each in groups]
    assert "going back to the last checkpoint" in ends[1].err
    assert trained(one) == [IMAGES] * len(trained(one))
    assert [ended.summary["images_trained"] for ended in ends] == [8 * IMAGES] * 2


def test_a_group_that_was_stopped_goes_on_alone(start, here, small_data, tmp_path, servers):
    folder = tmp_path / "run"
    machines = group(start, small_data, servers[1], folder, "--epochs", "50")
    machines.trained()
    machines.leader.signal(signal.SIGTERM)
    ended = machines.leader.finish()
    assert ended.code == 128 + signal.SIGTERM, ended.err
    assert find_checkpoints(folder)
    done = len(metrics(folder))
    alone = here(
        "train", "--resume", str(folder), "--partition", "none", "--partitions", "1", "--join", "none", "--epochs",
        str(done + 1), "--json",
    )  # fmt: skip
    assert alone.code == 0, alone.err
    assert trained(folder) == [IMAGES] * (done + 1)
    assert alone.summary["test_accuracy"] > 0.9


def test_a_group_that_is_resumed_after_its_end_only_writes_its_model(start, small_data, tmp_path, servers):
    folder = tmp_path / "run"
    group(start, small_data, servers[1], folder, "--epochs", "2").finish()
    (folder / "model.safetensors").unlink()
    leader = start("train", "--resume", str(folder), "--json")
    other = start("train", "--join", json.loads((folder / "run.json").read_text())["settings"]["listen"], "--partition",
                  "2/2")  # fmt: skip
    ended = leader.finish()
    assert ended.code == 0, ended.err
    assert ended.summary["test_accuracy"] > 0.8
    assert ended.summary["images_trained"] == 2 * IMAGES
    assert other.finish(60).code == 0
    assert adam_mp.load(folder).weights
