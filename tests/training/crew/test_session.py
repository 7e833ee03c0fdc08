"""A session whose processes are played by the test: who is behind an order, what a pause waits for, an evaluation."""

from __future__ import annotations

import dataclasses
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest

from adam_mp.errors import DataError, ProcessError
from adam_mp.memory.board import IDLE, STOP, TEST, TRAIN, VALIDATE
from adam_mp.memory.ledger import FREE, SKIPPED
from adam_mp.process.interruption import Interruption
from adam_mp.training.crew import crew as crews
from adam_mp.training.crew import preparation
from adam_mp.training.crew.copies import average_epoch, begin_average, restore, take_checkpoint, take_model
from adam_mp.training.crew.session import Session
from adam_mp.training.folder.checkpoint import read_checkpoint, write_checkpoint
from adam_mp.training.folder.figures import Figures
from adam_mp.training.plan.plan import make_plan
from adam_mp.training.settings.averages import AVERAGE
from tests.conftest import LAYERS, make_images


class FakeChild:
    """A process that lives until the test says otherwise."""

    def __init__(self, name):
        self.name, self.exit_code, self.pid, self.started = name, None, 1, time.monotonic()
        self.wanted_memory = False

    def describe_end(self):
        return f"ended with exit code {self.exit_code}"

    def last_words(self):
        return ""

    def last_lines(self):
        return ""

    def own_fault(self):
        return ""

    def wait(self, deadline):
        return True

    def close(self):
        pass


@pytest.fixture
def make(monkeypatch, tmp_path):
    """Make sessions of two workers, at work, with whatever settings."""
    entered = []
    monkeypatch.setattr(crews, "start_child", lambda name, *_: FakeChild(name))

    def made(**settings):
        given = {"model": list(LAYERS), "data": (*make_images(100, 1), *make_images(40, 2)), "cores": 2, **settings}
        given = {"epochs": 1, "batch_size": 16, "run_dir": tmp_path, "consistency": "deterministic", **given}
        notices = []
        plan = make_plan(given, lambda event: None)
        session = Session(plan, Interruption(), lambda *notice: notices.append(notice[0])).__enter__()
        entered.append(session)
        session.start()
        return SimpleNamespace(session=session, notices=notices)

    yield made
    for session in entered:
        session.__exit__(None, None, None)


def acknowledge(session, *workers):
    for number in workers:
        session.memory.board.counters[number].publish("acknowledged", session.memory.board.order()[0])


def die(session, number):
    session.crew.members[number].child.exit_code = 1
    session.step_while_starting()


def test_the_successor_of_one_that_had_acknowledged_is_behind(make):
    made = make()
    session = made.session
    assert session.behind() == frozenset()  # nothing is ordered yet
    session.order(TRAIN)
    session.order(IDLE)
    assert session.behind() == {0, 1}
    acknowledge(session, 0)
    assert session.behind() == {1}
    die(session, 0)
    assert session.behind() == {0, 1}
    die(session, 2)  # a data server, which obeys no orders
    assert session.behind() == {0, 1}
    acknowledge(session, 0, 1)
    assert session.behind() == frozenset()
    assert [notice.split(" ended")[0] for notice in made.notices] == ["worker 0", "data server 0"]


def test_who_is_given_up_is_waited_for_no_more(make):
    session = make(consistency="async", on_failure="continue", cores=4).session
    workers = session.plan.split.workers
    assert workers > 1
    session.order(IDLE)
    acknowledge(session, *range(1, workers))
    die(session, 0)
    assert session.behind() == frozenset()


def test_a_pause_looks_until_all_are_idle(make):
    session, ticks = make().session, []

    def step():
        ticks.append(session.memory.board.order()[1])
        if len(ticks) == 3:
            acknowledge(session, 0)
        if len(ticks) == 4:
            die(session, 0)
        if len(ticks) >= 5:
            acknowledge(session, 1)
        if len(ticks) == 6:
            acknowledge(session, 0)

    session.pause(step)
    assert ticks == [IDLE] * 6


def play_workers(session, images, orders):
    """Return a step in which one worker evaluates a chunk, or acknowledges."""

    def step():
        order = session.memory.board.order()[1]
        orders.append(order)
        ledger = session.memory.evaluation
        if order != IDLE and (chunk := ledger.claim_lease(ledger.round, 0)) is not None:
            session.memory.results[chunk] = (0.5 * images, 0.75 * images, images)
            ledger.finish(ledger.round, chunk, 0)
        acknowledge(session, 0, 1)

    return step


@pytest.mark.parametrize(("part", "kind"), [("validation", VALIDATE), ("test", TEST)])
def test_an_evaluation_is_of_all_chunks_and_leaves_the_workers_idle(make, part, kind):
    session, orders = make(validation=0.2).session, []
    count = 40 if part == "test" else 20
    for number in (1, 2):
        assert session.evaluate(part, play_workers(session, 16, orders)) == (0.5, 0.75)
        assert session.memory.evaluation.round == number  # one that slept through the first cannot touch the second
    assert orders == ([kind] * math.ceil(count / 16) + [IDLE]) * 2
    assert session.behind() == frozenset()


def test_an_evaluation_of_nothing_that_can_be_read_names_a_sample(make):
    session = make().session
    with pytest.raises(DataError, match="none of the 40 test images can be read; such as "):
        session.evaluate("test", play_workers(session, 0, []))


def test_an_evaluation_ends_where_the_run_cannot_go_on(make):
    session = make(on_failure="stop").session
    session.crew.members[1].child.exit_code = 1
    with pytest.raises(ProcessError, match="worker 1 ended"):
        session.evaluate("test")


def test_an_epoch_in_steps_deals_what_its_quorum_needs(make):
    session = make(quorum=0.5, validation=0.0).session
    session.open_epoch(0, np.zeros(session.plan.batches, np.uint8))
    states = session.memory.ledger.states()
    assert states.tolist() == [FREE] * 4 + [SKIPPED] * 3  # 50 of 100 images
    assert sorted(session.memory.sample_order.tolist()) == sorted(session.plan.data.training.tolist())


def test_without_steps_all_batches_are_free(make):
    session = make(quorum=0.5, validation=0.0, consistency="async").session
    session.open_epoch(3, np.zeros(session.plan.batches, np.uint8))
    assert session.memory.ledger.round == 3
    assert session.memory.ledger.statistics().free == session.plan.batches


def test_a_run_that_goes_back_has_the_average_of_that_time(make):
    session = make(average="ema:0.5", optimizer="momentum").session
    plan, store = session.plan, session.store
    store.weights[...], store.states[AVERAGE][...], store.states["v"][...] = 1.0, 2.0, 3.0
    store.set_updates(40)
    checkpoint = take_checkpoint(plan, store, Figures(averaged_epochs=2), 0, np.zeros(plan.batches, np.uint8), None)
    store.weights[...], store.states[AVERAGE][...], store.states["v"][...] = 4.0, 5.0, 6.0
    store.note_average(60)
    restore(store, checkpoint, checkpoint.updates)
    assert [set(space.tolist()) for space in (store.weights, *store.states.values())] == [{1.0}, {3.0}, {2.0}]
    assert store.note_average(41) == store.read_updates() == 40  # the next move is for the updates after these
    assert checkpoint.progress["averaged_epochs"] == 2


def test_the_mean_over_the_last_epochs_is_the_model(make):
    session = make(average="last:3", epochs=4).session
    plan, store = session.plan, session.store
    averages, averaged = [], 0
    for epoch, value in enumerate((8.0, 1.0, 2.0, 6.0)):
        store.weights[...] = value
        averaged = average_epoch(plan, store, epoch, averaged)
        model = take_model(plan, store, {}, Figures(), None)
        averages.append((averaged, {float(each) for tensor in model.weights.values() for each in tensor.flat}))
    assert averages == [(0, {8.0}), (1, {1.0}), (2, {1.5}), (3, {3.0})]
    begin_average(plan, store)
    assert set(store.states[AVERAGE].tolist()) == {6.0}


def test_other_averages_and_none_do_not_change_at_the_end_of_an_epoch(make):
    for settings in ({"average": "ema:0.5"}, {}):
        session = make(**settings).session
        before = {name: state.copy() for name, state in session.store.states.items()}
        session.store.weights[...] += 1.0
        assert average_epoch(session.plan, session.store, 0, 7) == 0
        begin_average(session.plan, session.store)
        assert all((session.store.states[name] == state).all() for name, state in before.items())


def test_it_may_be_stopped_twice(make):
    session = make().session
    session.stop()
    assert session.memory.board.order()[1] == STOP
    assert session.crew.children() == {}
    session.stop()


@pytest.mark.parametrize(("cores", "consistency"), [(4, "async"), (1, "async"), (2, "sync")])
def test_a_checkpoint_has_the_sum_of_all_velocities_and_each_worker_gets_its_part(make, tmp_path, cores, consistency):
    """Whatever number of workers a checkpoint is from, and whatever number goes on from it."""
    first = make(cores=3, consistency="async", optimizer="nesterov", data_servers=1).session
    for worker in range(first.plan.split.workers):
        first.store.states_of(worker)["v"][:] = 2.0**worker
    figures = Figures()
    states = np.zeros(first.plan.batches, np.uint8)
    total = 2.0**first.plan.split.workers - 1
    copy = take_checkpoint(first.plan, first.store, figures, 0, states, None)
    assert (copy.spaces["v"] == total).all()
    assert take_checkpoint(first.plan, first.store, figures, 0, states, copy.spaces).spaces["v"] is copy.spaces["v"]
    assert (copy.spaces["v"] == total).all()
    restore(first.store, copy, 7)  # as a run does that has diverged
    assert first.store.read_updates() == 7
    for worker in range(first.plan.split.workers):
        np.testing.assert_allclose(first.store.states_of(worker)["v"], total / first.plan.split.workers)
    write_checkpoint(tmp_path, copy)
    second = make(cores=cores, consistency=consistency, optimizer="nesterov", data_servers=1).session
    owners, layout = second.plan.owners, second.plan.layout
    assert (owners > 1) == (cores > 2)
    preparation._fill_store(dataclasses.replace(second.plan, resumed=read_checkpoint(tmp_path)), second.store)
    for worker in range(owners):
        for velocity in layout.views(second.store.states_of(worker)["v"]).values():  # no file has what lies between
            np.testing.assert_allclose(velocity, total / owners)
