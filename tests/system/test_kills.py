"""Whatever is killed: the run goes on or ends by itself, every image is counted, and nothing is left behind."""

from __future__ import annotations

import os
import signal

import pytest

from tests.system.conftest import metrics, wait_until

EPOCHS = 6  # of which one is over when a test begins
BATCHES = 119


@pytest.fixture
def long_run(start, small_data, tmp_path):
    """A run of some seconds, seen through its first epoch."""

    def begin(*more):
        run = start(
            "train", "--model", "lenet", "--cores", "2", "--data", str(small_data), "--epochs", str(EPOCHS), "--json",
            "--run-dir", str(tmp_path / "run"), *more,
        )  # fmt: skip
        wait_until(lambda: metrics(tmp_path / "run"), "the first epoch")
        run.see_children()
        return run

    return begin


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("worker 0", signal.SIGKILL),
        ("data server 0", signal.SIGSEGV),
        pytest.param("worker 1", signal.SIGSEGV, marks=pytest.mark.long),
        pytest.param("data server 0", signal.SIGKILL, marks=pytest.mark.long),
    ],
)
def test_a_killed_child_is_replaced_no_image_is_lost_and_its_last_words_are_kept(long_run, tmp_path, name, number):
    run = long_run()
    first = run.wait_for_child(name)
    os.kill(first, number)
    wait_until(lambda: run.see_children().get(name) not in (None, first), f"a successor of {name}")
    ended = run.finish()
    assert ended.code == 0, ended.err
    assert f"{name} was killed by {number.name}" in ended.err
    if number == signal.SIGSEGV:
        assert "Fatal Python error: Segmentation fault" in (tmp_path / "run" / "failures.log").read_text()
    assert ended.summary["images_trained"] == EPOCHS * 1900
    assert [row["images_trained"] for row in metrics(tmp_path / "run")] == [1900] * EPOCHS


def test_a_worker_killed_during_start_is_replaced(start, small_data, tmp_path):
    run = start("train", "--model", "lenet", "--cores", "2", "--data", str(small_data), "--epochs", "2", "--json",
                "--run-dir", str(tmp_path / "run"))  # fmt: skip
    os.kill(run.wait_for_child("worker 0"), signal.SIGKILL)
    ended = run.finish()
    assert ended.code == 0, ended.err
    assert ended.summary["images_trained"] == 2 * 1900


def test_the_run_goes_on_with_one_worker_when_the_other_is_given_up(long_run):
    run = long_run("--restarts", "0")
    os.kill(run.wait_for_child("worker 1"), signal.SIGKILL)
    ended = run.finish()
    assert ended.code == 0, ended.err
    assert "given up" in ended.err
    assert ended.summary["images_trained"] == EPOCHS * 1900


def test_the_run_ends_when_nobody_is_left(long_run):
    run = long_run("--restarts", "0")
    os.kill(run.wait_for_child("data server 0"), signal.SIGKILL)
    ended = run.finish()
    assert ended.code == 1
    assert "data server 0 was killed by SIGKILL" in ended.err
    assert "Traceback" not in ended.err


def test_a_run_in_which_nothing_moves_ends(long_run):
    run = long_run("--stall-seconds", "1")
    os.kill(run.wait_for_child("data server 0"), signal.SIGSTOP)
    ended = run.finish()
    assert ended.code == 4
    assert "nothing moved for" in ended.err


@pytest.mark.parametrize("stopped", [None, "worker 0"])
def test_children_die_with_a_killed_supervisor(long_run, stopped):
    run = long_run()
    if stopped:
        os.kill(run.wait_for_child(stopped), signal.SIGSTOP)
    run.signal(signal.SIGKILL)
    assert run.finish().code == -signal.SIGKILL


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.long),
        pytest.param(signal.SIGQUIT, 131, marks=pytest.mark.long),
        pytest.param(signal.SIGXCPU, 152, marks=pytest.mark.long),
    ],
)
def test_an_interrupted_run_is_resumed_with_every_image_trained_once(long_run, here, tmp_path, number, code):
    run = long_run()
    run.signal(number)
    ended = run.finish()
    assert ended.code == code, ended.err
    assert ended.summary["stopped_by"] == number.name
    resumed = here("train", "--resume", "--run-dir", str(tmp_path / "run"), "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.summary["images_trained"] == EPOCHS * 1900
    assert resumed.summary["updates"] == EPOCHS * BATCHES  # none of the interrupted epoch was trained again
    rows = metrics(tmp_path / "run")
    assert [sum(row["staleness"].values()) for row in rows] == [BATCHES] * EPOCHS
    assert [row["epoch"] for row in metrics(tmp_path / "run")] == list(range(1, EPOCHS + 1))
    assert [row["images_trained"] for row in metrics(tmp_path / "run")] == [1900] * EPOCHS


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGUSR2, "adam_mp: SIGUSR2: writing a checkpoint; the run goes on"),
        pytest.param(signal.SIGALRM, "adam_mp: SIGALRM came; it changes nothing", marks=pytest.mark.long),
    ],
)
def test_a_signal_that_warns_is_told_and_the_run_goes_on(long_run, number, said):
    """Batch systems send it to the command alone, or to each process of the job."""
    run = long_run()
    for process in run.see_children().values():
        os.kill(process, number)
    run.signal(number)
    ended = run.finish()
    assert ended.code == 0, ended.err
    assert ended.err.splitlines().count(said) == 1
    assert "started again" not in ended.err
    assert ended.summary["images_trained"] == EPOCHS * 1900


def test_a_run_whose_supervisor_was_killed_is_resumed(long_run, here, tmp_path):
    run = long_run()
    wait_until(lambda: list((tmp_path / "run").glob("checkpoint-*")), "the first checkpoint")
    run.signal(signal.SIGKILL)
    run.finish()
    resumed = here("train", "--resume", str(tmp_path / "run"), "--cores", "1", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.summary["images_trained"] == EPOCHS * 1900


def test_a_second_signal_stops_at_once(long_run):
    run = long_run()
    for name in ("worker 0", "worker 1"):
        os.kill(run.wait_for_child(name), signal.SIGSTOP)  # so that the first signal cannot be obeyed
    run.signal(signal.SIGINT)
    wait_until(lambda: "SIGINT" in run.read(run.err), "the first signal to be noted")
    run.signal(signal.SIGINT)
    assert run.finish().code == 130


@pytest.mark.long
def test_two_runs_at_once_do_not_meet(long_run, here, small_data, tmp_path):
    first = long_run()
    stopped = [first.wait_for_child(name) for name in ("worker 0", "worker 1")]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)  # so that it is still there when the other comes
    intruder = here("train", "--resume", str(tmp_path / "run"))
    assert intruder.code == 2
    assert "in use by process" in intruder.err
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    other = here("train", "--data", str(small_data), "--epochs", "1", "--run-dir", str(tmp_path / "other"))
    assert other.code == 0
    ended = first.finish()
    assert ended.code == 0
    assert ended.summary["images_trained"] == EPOCHS * 1900
