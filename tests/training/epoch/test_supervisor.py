"""Whatever fails as a supervisor is entered or left, its memory and its thread go; no process is started here."""

from __future__ import annotations

import dataclasses
import os
import threading
from types import SimpleNamespace

import pytest

from adam_mp.errors import SpaceError
from adam_mp.memory.segment import live_segments
from adam_mp.process.interruption import Interruption
from adam_mp.training.crew import preparation
from adam_mp.training.crew.crew import Crew
from adam_mp.training.epoch import supervisor
from adam_mp.training.epoch.driver import Driver
from adam_mp.training.epoch.machine import Saved, SaveWhole
from adam_mp.training.epoch.run_account import RunAccount
from adam_mp.training.epoch.supervisor import Supervisor
from adam_mp.training.folder.figures import Figures
from adam_mp.training.plan.plan import make_plan
from adam_mp.training.replica.leases import OwnLeases
from tests.conftest import LAYERS, make_images


@pytest.fixture
def plan(tmp_path):
    settings = {"cores": 1, "epochs": 1, "consistency": "deterministic", "run_dir": tmp_path}
    return make_plan({"model": list(LAYERS), "data": make_images(400, 1), **settings}, lambda event: None)


def left():
    segments = [segment.purpose for segment in live_segments() if segment.owner == os.getpid()]
    return segments + [thread.name for thread in threading.enumerate() if thread.name == "background-writer"]


def fail(*_):
    raise ValueError("it fails")


def test_a_failure_on_the_way_in_leaves_nothing(plan, tmp_path, monkeypatch):
    before = left()
    monkeypatch.setattr(supervisor, "BadSamples", fail)
    with pytest.raises(ValueError, match="it fails"), Interruption() as interruption:
        Supervisor(plan, tmp_path, interruption, lambda event: None).__enter__()
    assert left() == before


def test_no_room_for_the_last_segment_leaves_none(plan, monkeypatch):
    def refuse(*_):
        raise SpaceError("no room")

    before = left()
    monkeypatch.setattr(preparation.StepMemory, "create", refuse)
    with pytest.raises(SpaceError):
        preparation.prepare_memory(plan)
    assert left() == before


@pytest.mark.parametrize(("owner", "name"), [(OwnLeases, "leave"), (Crew, "stop")])
def test_a_failure_on_the_way_out_leaves_nothing(plan, tmp_path, monkeypatch, owner, name):
    before = left()
    monkeypatch.setattr(owner, name, fail)
    with Interruption() as interruption:
        entered = Supervisor(plan, tmp_path, interruption, lambda event: None).__enter__()
        assert len(left()) == len(before) + 4  # run, store, steps, and the writer
        with pytest.raises(ValueError, match="it fails"):
            entered.__exit__(KeyError, KeyError("the run's own"), None)
    assert left() == before


def test_a_model_is_not_replaced_by_one_that_is_worse_or_that_others_validate():
    figures = Figures()
    assert figures.note_validation(4, None)  # nothing is held out, or others always did
    assert figures.note_validation(5, 0.9)
    assert not figures.note_validation(6, 0.8)
    assert not figures.note_validation(7, None)
    assert (figures.best_epoch, figures.validation_accuracy, figures.last_validation_accuracy) == (6, 0.9, 0.8)
    assert figures.note_validation(8, 0.9)
    assert figures.best_epoch == 9


def test_who_leads_no_more_says_so_once():
    told = []
    figures = Figures(best_epoch=2, validation_accuracy=0.9)
    driver = SimpleNamespace(figures=figures, _leads=True, _notice=told.append)
    for leads, count in ((True, 0), (False, 1), (False, 1), (True, 1), (False, 2)):
        Driver._say_who_leads(driver, leads)
        assert len(told) == count
    assert "does not lead now" in told[0]
    assert "stays that of epoch 2" in told[0]


@pytest.mark.parametrize(("run", "notices"), [(2, 1), (3, 0), (5, 0)])
def test_a_resumed_replica_begins_where_the_run_is(run, notices):
    told, missed = [], []
    account = RunAccount(dataclasses.asdict(Figures(epochs_done=3, epoch_part={"seconds": 7.0})), dict, dict)
    supervisor = SimpleNamespace(
        plan=SimpleNamespace(resumed=SimpleNamespace(epoch=3)), cluster="here", account=account, _notice=told.append,
        leases=SimpleNamespace(next_epoch=lambda: run, missed=lambda: missed.append(run) or []),
    )  # fmt: skip
    assert Supervisor._first_epoch(supervisor) == account.figures.epochs_done == run
    assert len(told) == notices
    assert missed == ([] if run == 3 else [run])
    assert account.figures.epoch_part == ({"seconds": 7.0} if run == 3 else {})
    supervisor.cluster = None
    assert Supervisor._first_epoch(supervisor) == 3


def test_no_state_is_kept_where_there_is_no_way_back(plan, tmp_path):
    for rollbacks in (0, 3):
        object.__setattr__(plan.settings, "rollbacks", rollbacks)
        with Interruption() as interruption, Supervisor(plan, tmp_path, interruption, lambda event: None) as entered:
            assert entered.driver._do_one(SaveWhole(0)) == Saved()
            assert (entered.keeper.last is not None) == (rollbacks > 0)
