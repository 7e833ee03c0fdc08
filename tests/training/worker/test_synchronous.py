"""Synchronous steps of two workers in one process: one update for the batches of both."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from adam_mp.memory.board import STOP
from adam_mp.memory.ledger import LEASED, TRAINED
from adam_mp.memory.ring import Tag
from adam_mp.memory.steps import step_key
from adam_mp.training.worker.step import Outcome
from adam_mp.training.worker.synchronous import left_to_a_successor
from tests.training.worker.conftest import BATCHES, COUNT, EPOCH, RATE
from tests.training.worker.test_asynchronous import descend


def settle_all(world):
    """Let all workers see the step through at once, as their processes would."""
    done = []
    threads = [
        threading.Thread(target=lambda worker=worker: done.append(worker.step.settle())) for worker in world.workers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert done == [True] * len(world.workers)


@pytest.mark.parametrize("rule", ["sgd", "momentum"])
def test_a_step_is_one_update_for_the_batches_of_all(make_world, rule):
    world = make_world(2, rule, in_steps=True, weight_decay=0.3)
    while world.server.fill_rings():
        pass
    first, second = world.workers
    before = world.store.weights.astype(np.float64)
    assert first.train_batch() is Outcome.DONE
    assert not first.step.settle()
    assert first.train_batch() is Outcome.WAITING_FOR_OTHERS
    np.testing.assert_array_equal(world.store.weights, before.astype(np.float32))
    assert second.train_batch() is Outcome.DONE
    settle_all(world)
    slopes = [before - descend(world, before, batch, 0.3) for batch in (0, 1)]
    np.testing.assert_allclose(world.store.weights, before - np.mean(slopes, axis=0), rtol=1e-4, atol=1e-6)
    assert world.store.read_updates() == 1
    assert [world.progress(worker).updates for worker in (0, 1)] == [1, 0]
    assert [world.progress(worker).images for worker in (0, 1)] == [4, 4]
    assert (world.memory.ledger.states()[:2] == TRAINED).all()
    for _ in range(BATCHES // 2 - 1):
        assert [worker.train_batch() for worker in world.workers] == [Outcome.DONE] * 2
        settle_all(world)
    assert [worker.train_batch() for worker in world.workers] == [Outcome.NOTHING_THERE] * 2
    assert sum(world.progress(worker).images for worker in (0, 1)) == COUNT


def test_who_has_no_image_arrives_all_the_same(make_world):
    world = make_world(2, in_steps=True, weight_decay=0.0)
    world.server.fill_rings()
    for slot in (ring.slots[ring.peek()] for ring in world.memory.rings):
        tag = slot.read_tag()
        if tag.batch == 1:
            slot.write_tag(Tag(tag.epoch, tag.batch, 0, tag.server))
    before = world.store.weights.astype(np.float64)
    assert [worker.train_batch() for worker in world.workers] == [Outcome.DONE] * 2
    settle_all(world)
    np.testing.assert_allclose(world.store.weights, descend(world, before, 0, 0.0), rtol=1e-4, atol=1e-6)
    assert (world.memory.ledger.states()[:2] == TRAINED).all()


@pytest.mark.parametrize("rule", ["sgd", "momentum"])
def test_the_mean_gradient_of_all_is_clipped_by_its_whole_norm(make_world, rule):
    bound = 0.02
    world = make_world(2, rule, in_steps=True, weight_decay=0.0, clip_norm=bound)
    while world.server.fill_rings():
        pass
    for _ in range(BATCHES // 2):
        before = world.store.weights.astype(np.float64)
        states = {name: state.copy() for name, state in world.store.states.items()}
        assert [worker.train_batch() for worker in world.workers] == [Outcome.DONE] * 2
        sizes = [each.step._steps.contribution(number).images for number, each in enumerate(world.workers)]
        batches = [each.step._steps.contribution(number).batch for number, each in enumerate(world.workers)]
        settle_all(world)
        steps = [before - descend(world, before, batch, 0.0) for batch in batches]
        mean = np.average(steps, axis=0, weights=sizes) / RATE
        assert np.linalg.norm(mean) > bound
        speed = 0.9 * states["v"] if states else 0.0
        expected = before - RATE * (mean * bound / np.linalg.norm(mean) + speed)
        np.testing.assert_allclose(world.store.weights, expected, rtol=1e-4, atol=1e-6)


def test_the_end_of_the_run_ends_the_wait_for_the_norm_without_an_update(make_world):
    world = make_world(2, in_steps=True, clip_norm=0.1)
    world.server.fill_rings()
    for worker in world.workers:
        worker.train_batch()
    before, done = world.store.weights.copy(), []
    thread = threading.Thread(target=lambda: done.append(world.workers[0].step.settle()), daemon=True)
    thread.start()
    thread.join(0.1)
    assert not done  # the other has not told its part of the norm
    world.memory.board.give_order(STOP)
    thread.join(10)
    assert done == [False]
    np.testing.assert_array_equal(world.store.weights, before)
    assert world.progress(0).updates == 0


def test_between_rounds_there_is_nothing_to_take(make_world):
    world = make_world(2, in_steps=True)
    world.memory.ledger.open(-1, np.zeros(0, np.uint8))
    assert world.workers[0].step.take() is Outcome.NOTHING_THERE


def test_the_end_of_the_run_ends_the_wait_for_others(make_world):
    world = make_world(2, in_steps=True)
    world.server.fill_rings()
    for worker in world.workers:
        worker.train_batch()
    done = []
    thread = threading.Thread(target=lambda: done.append(world.workers[0].step.settle()), daemon=True)
    thread.start()
    thread.join(0.1)
    assert not done  # the other has not applied its slice
    assert (world.progress(0).updates, world.progress(0).images) == (1, 4)  # counted, should this one die as it waits
    world.memory.board.give_order(STOP)
    thread.join(10)
    assert done == [True]


def test_the_rate_follows_the_mean_loss_of_all(make_world):
    world = make_world(2, in_steps=True)
    world.server.fill_rings()
    for worker in world.workers:
        worker.train_batch()
    surprise = 2.5 * np.log(3) * 8  # of both batches together: twice what may be
    steps = world.workers[0].step._steps
    key = step_key(EPOCH, 0)
    for worker, share in ((0, 0.25), (1, 0.75)):
        brought = steps.contribution(worker)
        steps.arrive(worker, key, brought.__class__(brought.batch, brought.images, share * surprise))
    settle_all(world)
    for worker in world.workers:
        assert worker.step._numbers.rate == pytest.approx(RATE / 2)


def test_a_dead_workers_arrival_is_left_to_its_successor(make_world):
    world = make_world(2, in_steps=True)
    world.server.fill_rings()
    first, _ = world.workers
    steps, ledger = first.step._steps, world.memory.ledger
    assert not left_to_a_successor(steps, ledger, 0)
    first.train_batch()
    assert ledger.states()[0] == LEASED
    assert left_to_a_successor(steps, ledger, 0)
    assert not left_to_a_successor(steps, ledger, 1)
    ledger.open(EPOCH + 1, np.full(BATCHES, LEASED, np.uint8))  # the same batch is leased in a later epoch
    assert not left_to_a_successor(steps, ledger, 0)
