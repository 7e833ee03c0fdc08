"""A model whose partitions are on machines of their own (here: commands of their own, which meet on loopback)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time

import pytest

import adam_mp
from tests.system.conftest import metrics, wait_until
from tools.drilling.machines import Machines
from tools.drilling.partitions import PartitionGroup

EPOCHS, IMAGES = 6, 1900


def free_place() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Commands:
    """The commands of a group: the leader, and the other partitions."""

    def __init__(self, start, folder, data, parts: int = 2, *more: str) -> None:
        self.start, self.folder, self.place, self.parts = start, folder, free_place(), parts
        self.leader = start(
            "train", "--model", "lenet", "--data", str(data), "--cores", "2", "--json", "--augment", "none",
            "--run-dir", str(folder), "--partition", f"1/{parts}", "--listen", self.place, *more,
        )  # fmt: skip
        self.others = {part: self.follow(part) for part in range(2, parts + 1)}

    def follow(self, part: int):
        return self.start("train", "--join", self.place, "--partition", f"{part}/{self.parts}")

    def trained(self) -> None:
        wait_until(lambda: metrics(self.folder), "the first epoch")

    def kill_twice(self, part: int, which: str) -> None:
        """Kill a process of a partition's machine, and its successor too, and wait for the successor of that."""
        command = self.leader if part == 1 else self.others[part]
        for _ in range(2):
            first = command.wait_for_child(which)
            os.kill(first, signal.SIGKILL)
            wait_until(lambda first=first: command.see_children().get(which) not in (None, first), "a successor")
            time.sleep(0.3)

    def finish(self):
        ended = self.leader.finish()
        assert ended.code == 0, ended.err
        for other in self.others.values():
            try:
                told = other.finish(60)
            except AssertionError as error:
                raise AssertionError(f"{error} {other.read(other.out)}") from None
            assert told.code == 0, told.err
            assert "the run is done" in told.out
        return ended


def test_partitions_on_three_machines_learn_as_one_and_go_on_alone(start, here, small_data, tmp_path):
    machines = Commands(start, tmp_path / "run", small_data, 3, "--epochs", "2", "--average", "ema:0.98")
    ended = machines.finish()
    assert ended.summary["images_trained"] == 2 * IMAGES
    model = adam_mp.load(tmp_path / "run")
    assert {name: tensor.shape for name, tensor in model.weights.items()} == dict(model.network.parameters)
    alone = here("train", "--resume", str(tmp_path / "run"), "--partition", "none", "--partitions", "1", "--epochs",
                 "3", "--json")  # fmt: skip
    assert alone.code == 0, alone.err
    assert alone.summary["images_trained"] == 3 * IMAGES
    assert alone.summary["test_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("part", "which"),
    [
        (1, "worker 0"), (2, "courier"),
        pytest.param(1, "courier", marks=pytest.mark.long), pytest.param(2, "worker 0", marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_a_process_that_is_killed_is_replaced_and_no_image_is_lost(start, small_data, tmp_path, part, which):
    machines = Commands(start, tmp_path / "run", small_data, 2, "--epochs", str(EPOCHS))
    machines.trained()
    machines.kill_twice(part, which)
    ended = machines.finish()
    assert [row["images_trained"] for row in metrics(tmp_path / "run")] == [IMAGES] * EPOCHS
    assert ended.summary["test_accuracy"] > 0.9


def test_a_machine_that_is_lost_comes_again_and_the_run_goes_back_to_its_checkpoint(start, small_data, tmp_path):
    machines = Commands(start, tmp_path / "run", small_data, 2, "--epochs", str(EPOCHS))
    machines.trained()
    machines.others[2].see_children()
    machines.others[2].signal(signal.SIGKILL)
    machines.others[2].check_nothing_left()
    time.sleep(3)
    machines.others[2] = machines.follow(2)
    ended = machines.finish()
    assert "going back to the last checkpoint" in ended.err
    assert [row["images_trained"] for row in metrics(tmp_path / "run")] == [IMAGES] * EPOCHS
    assert ended.summary["test_accuracy"] > 0.9


def test_a_leader_that_is_killed_goes_on_with_the_partitions_that_wait(start, small_data, tmp_path):
    machines = Commands(start, tmp_path / "run", small_data, 2, "--epochs", str(EPOCHS))
    machines.trained()
    machines.leader.see_children()
    machines.leader.signal(signal.SIGKILL)
    machines.leader.check_nothing_left()
    machines.leader = start("train", "--resume", str(tmp_path / "run"), "--json")
    machines.finish()
    assert [row["images_trained"] for row in metrics(tmp_path / "run")] == [IMAGES] * EPOCHS


def test_signals_end_both_sides_in_order(start, small_data, tmp_path):
    machines = Commands(start, tmp_path / "run", small_data, 2, "--epochs", "50")
    machines.trained()
    machines.leader.signal(signal.SIGTERM)
    ended = machines.leader.finish()
    assert ended.code == 128 + signal.SIGTERM, ended.err
    told = machines.others[2].finish(60)
    assert told.code == 1
    assert "the leader was stopped" in told.err
    again = start("train", "--resume", str(tmp_path / "run"), "--json", "--epochs", "50")
    other = machines.follow(2)
    wait_until(lambda: len(metrics(tmp_path / "run")) > 2, "another epoch")
    other.signal(signal.SIGINT)
    assert other.finish(60).code == 128 + signal.SIGINT
    again.signal(signal.SIGINT)
    time.sleep(1)
    with contextlib.suppress(ProcessLookupError):
        again.signal(signal.SIGINT)
    assert again.finish().code != 0


def test_a_run_that_diverges_goes_back_on_all_machines(start, small_data, tmp_path):
    machines = Commands(
        start, tmp_path / "run", small_data, 2, "--lr", "100", "--optimizer", "momentum", "--epochs", "2",
        "--rollbacks", "2", "--stall-seconds", "20",
    )  # fmt: skip
    ended = machines.leader.finish()
    assert "went back to update 0" in ended.err
    assert ended.code == 3, ended.err
    told = machines.others[2].finish(60)
    assert told.code == 1
    assert "the run ended: " in told.err


@pytest.mark.long
@pytest.mark.skipif(not Machines.can_be_made(), reason="needs root and network namespaces")
def test_four_machines_with_keys_outlive_a_cut_cable_a_stop_and_the_loss_of_each(small_data, tmp_path):
    settings = ["--model", "lenet", "--data", str(small_data), "--epochs", str(2 * EPOCHS), "--augment", "none"]
    with Machines(4) as machines, PartitionGroup(machines, 4, tmp_path, [*settings, "--cores", "2"]) as group:
        group.wait(lambda: len(group.epochs()) > 0, "the first epoch")
        machines.cut(3)
        time.sleep(5)
        machines.heal(3)
        group.signal(2, signal.SIGSTOP)
        time.sleep(10)
        group.signal(2, signal.SIGCONT)
        for part in (2, 3, 4, 1):
            before = len(group.epochs())
            group.wait(lambda before=before: len(group.epochs()) > before, "another epoch")
            group.kill(part)
            group.start(part)
        summary = group.finish(600)
    assert summary["images_trained"] == 2 * EPOCHS * IMAGES
    assert [row["images_trained"] for row in group.epochs()] == [IMAGES] * 2 * EPOCHS
    assert summary["test_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--partition", "1/2"), "--partition 1/2 needs --listen HOST:PORT"),
        (("--partition", "2/2"), "--partition 2/2 needs --join HOST:PORT"),
        (("--partition", "3/2"), "--partition is '3/2'; expected K/P"),
        (("--partition", "2/2", "--join", "127.0.0.1:1", "--lr", "0.1"), "--lr is given with --partition 2/2"),
        (("--partition", "1/2", "--listen", "10.9.8.7:7700"), "without keys would let anyone join"),
        (("--partition", "1/2", "--listen", "0.0.0.0:7700"), "without keys"),
        (("--partition", "1/2", "--partitions", "3", "--listen", "127.0.0.1:1"), "give --partition alone"),
        (("--listen", "127.0.0.1:1"), "--listen is for partition 1"),
        (("--partition", "1/2", "--listen", "127.0.0.1:1", "--servers", "1"), "started by adam-mp serve-params"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(here, tmp_path, arguments, says):
    ended = here("train", *arguments)
    assert ended.code == 2
    assert says in ended.err
