"""What a run is said to need, and that it is refused by one line that names the parts."""

from __future__ import annotations

import gc
import os
import re

import pytest

from adam_mp import Dense, Flatten, Softmax
from adam_mp.data.reading.loading import LoadOptions, load_data
from adam_mp.errors import SpaceError
from adam_mp.memory import segment as segments
from adam_mp.memory.segment import live_segments
from adam_mp.training.crew import preparation
from adam_mp.training.data import data_plan
from adam_mp.training.data.kept_images import KeptImages
from adam_mp.training.plan.memory_need import launch_need, run_need
from adam_mp.training.plan.plan import make_plan
from adam_mp.training.settings.settings import make_settings
from tests.conftest import make_images
from tests.data.reading.test_loading import Items

WIDE = (Flatten(), Dense(2048), Dense(2048), Dense(), Softmax())
COPIES = "2 copies of a checkpoint"


def own_segments():
    gc.collect()  # an earlier test may have left a segment in a circle of references, and a dying child may hold one
    return sorted((segment.purpose, segment.size) for segment in live_segments() if segment.owner == os.getpid())


def plan(**settings):
    given = {"model": list(WIDE), "data": make_images(400, 1), "cores": 1, "epochs": 1, **settings}
    return make_plan(given, lambda event: None)


@pytest.mark.parametrize(("optimizer", "spaces"), [("sgd", 1), ("momentum", 2), ("adam", 3)])
def test_all_copies_of_the_weights_are_counted(optimizer, spaces):
    made = plan(optimizer=optimizer)
    weights = 4 * made.layout.size
    kept, unkept = (run_need(made, None, keeps) for keeps in (True, False))
    assert kept.shared["weights and optimizer state"] == spaces * weights
    assert "velocities of the workers" not in kept.shared  # of one worker
    assert (kept.private[COPIES], kept.private["the best model"]) == (2 * spaces * weights, weights)
    assert kept.kept == kept.total - unkept.total == 2 * spaces * weights + weights
    working = kept.private["gradients and activations"]
    assert working > weights if spaces > 1 else working < weights / 4  # plain descent goes without dense gradients


@pytest.mark.parametrize(("average", "journaled"), [("ema:0.99", 1), ("last:2", 0)])
def test_an_average_is_counted_with_all_its_copies_and_what_evaluates_it(average, journaled):
    settings = {"consistency": "sync", "epochs": 2, "optimizer": "momentum"}
    without, made = plan(**settings), plan(**settings, average=average)
    weights = 4 * made.layout.size
    before, need = run_need(without, None, True), run_need(made, None, True)
    assert need.shared["weights and optimizer state"] == 3 * weights
    assert need.private[COPIES] == 6 * weights
    assert need.private["the best model"] == weights
    assert need.shared["gradients of a step"] - before.shared["gradients of a step"] == journaled * weights
    images = 4 * 16 * 2048
    assert images < need.private["activations of the average"] < weights / 8  # and no gradient


def test_more_workers_steps_and_other_machines_need_more():
    one, two = run_need(plan(), None, True), run_need(plan(cores=2), None, True)
    assert two.private["gradients and activations"] > one.private["gradients and activations"]
    assert one.private["pictures to evaluate"] == 2 * 4 * 16 * 12 * 12
    steps = plan(consistency="sync", cores=2)
    assert run_need(steps, None, True).shared["gradients of a step"] > 4 * steps.layout.size * 3
    replica = plan(servers=2, replicas=2)
    alone, all_of_it = run_need(replica, None, True), launch_need(replica, None)
    assert alone.shared["the exchange with the parameter servers"] > 2 * 4 * replica.layout.size
    assert all_of_it.total > 2 * alone.total + 4 * replica.layout.size


def test_each_worker_needs_a_velocity_but_a_checkpoint_has_one():
    made = plan(optimizer="nesterov", cores=4, data_servers=1)
    assert made.split.workers > 1
    weights = 4 * made.layout.size
    need = run_need(made, None, True)
    assert need.shared["velocities of the workers"] == made.split.workers * weights
    assert need.shared["weights and optimizer state"] == weights
    assert need.private[COPIES] == 2 * 2 * weights
    before = own_segments()
    shared = preparation.prepare_memory(made)
    (store,) = (size for purpose, size in own_segments() if purpose == "store" and (purpose, size) not in before)
    assert 0 <= store - made.store_bytes < 1 << 16
    assert made.store_bytes == (1 + made.split.workers) * weights
    shared.close()
    assert plan(optimizer="nesterov", cores=4, consistency="sync").store_bytes == 2 * weights


def test_a_run_is_refused_before_any_memory_is_taken(monkeypatch, tmp_path):
    made = plan(optimizer="adam")
    need, before = run_need(made, None, True), own_segments()
    monkeypatch.setattr(segments, "free_memory", lambda: need.total)  # and a reserve is missing
    with pytest.raises(SpaceError) as refused:
        preparation.prepare_memory(made)
    text = str(refused.value)
    assert "\n" not in text
    parts = r"\(.*2 copies of a checkpoint \d+ MB, weights and optimizer state \d+ MB, .*the best model \d+ MB.*\)"
    assert re.fullmatch(rf"the run needs \d+ MB {parts}, but memory has \d+ MB free; use a smaller .*", text), text
    assert own_segments() == before
    monkeypatch.setattr(segments, "free_memory", lambda: need.total + (64 << 20))
    preparation.prepare_memory(made).close()
    folded = plan(optimizer="adam", memory_dir=tmp_path)
    monkeypatch.setattr(segments, "free_memory", lambda: sum(need.private.values()) + (64 << 20))
    preparation.prepare_memory(folded).close()  # what is shared lies on the disk
    monkeypatch.setattr(segments, "free_memory", lambda: sum(need.private.values()))
    with pytest.raises(SpaceError, match="2 copies of a checkpoint"):
        preparation.prepare_memory(folded)


def test_a_run_that_keeps_nothing_needs_less(monkeypatch):
    made = plan(optimizer="adam")
    monkeypatch.setattr(segments, "free_memory", lambda: run_need(made, None, False).total + (64 << 20))
    preparation.prepare_memory(made, keeps=False).close()
    with pytest.raises(SpaceError):
        preparation.prepare_memory(made)


def test_what_the_survey_kept_is_given_up_where_the_run_needs_its_room(monkeypatch):
    need = run_need(plan(), None, True)
    free = need.total + segments._RESERVE - 1
    with KeptImages() as kept:
        kept.make(1 << 20, 1000, None, 0)
        monkeypatch.setattr(segments, "free_memory", lambda: free + (kept.cache is None))
        need.check("the run", None, kept)
        assert kept.cache is None
        free -= 1
        with pytest.raises(SpaceError, match="the run needs"):
            need.check("the run", None, kept)
    with pytest.raises(SpaceError, match="the run needs"):
        need.check("the run", None)


def test_a_survey_keeps_no_more_than_there_is_room_for_whatever_the_cache_may_take(monkeypatch):
    data = load_data(Items(60), LoadOptions("512"))
    free = 600 << 20
    for module in (segments, data_plan):
        monkeypatch.setattr(module, "free_memory" if module is segments else "free_space", lambda _folder=None: free)
    with KeptImages() as kept:
        made = data_plan.plan_data(data, make_settings({"cache": "60GB"}), None, 1, lambda event: None, kept)
        assert kept.cache.handle.chunk * kept.cache.handle.chunks < free // 2
    assert made.cache_bytes < free  # its images are small as decoded


@pytest.mark.parametrize(("settings", "numbers"), [({"rates": "dense2=0.5"}, 2048**2), ({"clip_norm": 1.0}, None)])
def test_a_weight_that_is_not_updated_directly_has_a_gradient(settings, numbers):
    plans = [
        make_plan({"model": list(WIDE), "data": make_images(60, 1), "cores": 1, **more}, lambda event: None)
        for more in ({}, settings)
    ]
    if numbers is None:
        numbers = sum(tensor.size for tensor in plans[0].layout.tensors if tensor.name.endswith("weight"))
    usual, more = (run_need(plan, None, keeps=False).private["gradients and activations"] for plan in plans)
    assert abs(more - usual - 4 * numbers) < 1 << 20  # the activations are measured
