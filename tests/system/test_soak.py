"""The soak of tools/soak.py, in small: a run whose processes are killed every few seconds, and what must hold of it."""

from __future__ import annotations

import collections
import dataclasses

import pytest

from tests.conftest import loaded_tool
from tests.system.conftest import TEST_IMAGES

IMAGES, BATCHES = 1900, 119  # of an epoch
SLACK = 10  # a few samples of processes that have just been started say little of memory


@pytest.fixture(scope="module")
def tool():
    with loaded_tool("soak") as module:
        yield module


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_whose_processes_are_killed_all_the_time_is_as_good_as_another(tool, small_data, tmp_path):
    plan = tool.Plan(0.5, every=(2, 5), more=("--data", str(small_data), "--model", "lenet", "--cores", "2"))
    outcome = tool.soak(plan, tmp_path, print)
    assert [check for check in tool.checks(outcome, SLACK) if not check.held] == []
    assert outcome.kills[tool.SUPERVISOR] >= 1
    assert outcome.kills.total() >= 3


@pytest.fixture
def good(tool):
    """What a soak of two epochs sees when all holds."""
    summary = {"images_trained": 2 * IMAGES, "images_failed": 0, "images_skipped": 0, "updates": 2 * BATCHES,
               "test_accuracy": 0.97}  # fmt: skip
    return tool.Outcome(
        epochs=2,
        seconds=40.0,
        kills=collections.Counter({"worker": 2, tool.SUPERVISOR: 1}),
        samples=[tool.Sample(400e6, 34, 4, 2)] * 40,
        disturbed=summary,
        alone=summary,
        plan={"train_images": IMAGES, "test_images": TEST_IMAGES, "batch_size": 16, "servers": 0},
        rows=[{"epoch": epoch, "images_trained": IMAGES} for epoch in (1, 2)],
        away=set(),
        left="",
        files=collections.Counter(),
    )


def test_nothing_is_said_of_a_good_run(tool, good):
    assert all(check.held for check in tool.checks(good))
    worker_died_late = dataclasses.replace(good, disturbed={**good.disturbed, "updates": 2 * BATCHES + 2})
    assert all(check.held for check in tool.checks(worker_died_late))


def summary_with(**values):
    return lambda good: {"disturbed": {**good.disturbed, **values}}


def samples_with(**values):
    return lambda good: {"samples": [*good.samples[:25], *[dataclasses.replace(good.samples[0], **values)] * 15]}


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("processes killed", lambda _: {"kills": collections.Counter()}),
        ("images trained", summary_with(images_trained=2 * IMAGES - 16)),
        ("images trained", summary_with(images_skipped=16)),
        ("epochs in metrics.jsonl", lambda good: {"rows": good.rows[:1]}),
        ("epochs in metrics.jsonl", lambda good: {"rows": [*good.rows, good.rows[1]]}),
        ("epochs in metrics.jsonl", lambda good: {"rows": good.rows[:1], "away": {2}}),  # there are no others
        ("epochs in metrics.jsonl", lambda good: {"rows": [good.rows[0], {"epoch": 2, "images_trained": 1884}]}),
        ("updates", summary_with(updates=2 * BATCHES - 1)),
        ("updates", summary_with(updates=2 * BATCHES + 3)),
        ("test accuracy", summary_with(test_accuracy=0.9)),
        ("test accuracy", summary_with(test_accuracy=None)),
        ("MB of memory", samples_with(memory=425e6)),
        ("open files", samples_with(files=39)),
        ("processes, second", samples_with(processes=3)),
        ("segments", samples_with(segments=3)),
        ("samples", lambda good: {"samples": good.samples[:3]}),
        ("left of processes", lambda _: {"left": "worker 1"}),
        ("left of files", lambda _: {"files": collections.Counter([".checkpoint-N.safetensors.partial"])}),
    ],
)
def test_each_check_sees_what_it_is_for(tool, good, what, change):
    failed = [check.what for check in tool.checks(dataclasses.replace(good, **change(good))) if not check.held]
    assert len(failed) == 1
    assert failed[0].startswith(what)
