"""The moving average of weights: what it is after updates of one worker and of several, in steps, and after a death."""

from __future__ import annotations

import numpy as np
import pytest

from adam_mp.compute.context import TrainingContext
from adam_mp.kernels import average as kernels
from adam_mp.memory.board import TEST
from adam_mp.memory.steps import StepMemory
from adam_mp.training.settings.averages import AVERAGE, Average
from adam_mp.training.worker import averaging
from adam_mp.training.worker.averaging import MovingAverage
from adam_mp.training.worker.step import Outcome
from tests.training.worker.conftest import BATCH, BATCHES, COUNT, NETWORK
from tests.training.worker.test_synchronous import settle_all

DECAY = 0.6


class DeathError(Exception):
    """A worker dies."""


def averaged(average, weights, update):
    """The average after the update, by the formula, in double precision."""
    keep = min(DECAY, update / (9 + update))  # (1 + t) / (10 + t), with t updates before this one
    return keep * average + (1 - keep) * weights


@pytest.mark.parametrize("bound", [None, 1])
def test_after_each_update_the_average_is_what_the_formula_says(make_world, bound):
    world = make_world(2, average=Average(DECAY), bound=bound, rule="momentum")
    while world.server.fill_rings():
        pass
    expected = world.store.weights.astype(np.float64)
    for update in range(1, BATCHES + 1):
        assert any(worker.train_batch() is Outcome.DONE for worker in world.workers)
        expected = averaged(expected, world.store.weights, update)
        np.testing.assert_allclose(world.store.states[AVERAGE], expected, rtol=1e-4, atol=1e-6)
    assert np.abs(world.store.weights - expected).max() > 1e-3


@pytest.mark.parametrize("rule", ["sgd", "momentum"])
def test_in_steps_each_worker_moves_its_slice(make_world, rule):
    world = make_world(2, rule, in_steps=True, average=Average(DECAY))
    while world.server.fill_rings():
        pass
    expected = world.store.weights.astype(np.float64)
    for step in range(1, BATCHES // 2 + 1):
        assert [worker.train_batch() for worker in world.workers] == [Outcome.DONE] * 2
        settle_all(world)
        expected = averaged(expected, world.store.weights, step)
        np.testing.assert_allclose(world.store.states[AVERAGE], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("half", [False, True])
def test_a_successor_makes_a_step_again_with_the_same_bits(make_world, monkeypatch, half):
    """A worker dies before it marks its slice as applied; its average has moved, or half of it."""
    ends = []
    for dies in (False, True):
        world = make_world(2, "momentum", in_steps=True, average=Average(DECAY))
        while world.server.fill_rings():
            pass
        for worker in world.workers:
            worker.train_batch()
        first = world.workers[0]
        if dies:

            def die(*arguments):
                raise DeathError

            def move_half(average, w, share):
                kernels.move_average(average[: w.size // 2], w[: w.size // 2], share)
                raise DeathError

            with monkeypatch.context() as patch:
                if half:
                    patch.setattr(averaging, "move_average", move_half)
                patch.setattr(StepMemory, "applied", die)
                before = world.store.states[AVERAGE].copy()
                with pytest.raises(DeathError):
                    first.step.settle()
                assert (world.store.states[AVERAGE] != before).any()
        settle_all(world)
        ends.append([space.copy() for space in (world.store.weights, *world.store.states.values())])
    for once, again in zip(*ends, strict=True):
        np.testing.assert_array_equal(once, again)


def test_an_average_that_was_cut_short_lies_between_what_it_was_and_the_weights(make_world, monkeypatch):
    world = make_world(average=Average(DECAY))
    average, store = MovingAverage(Average(DECAY), world.store), world.store
    store.weights[...] += np.random.default_rng(1).standard_normal(store.weights.size).astype(np.float32)
    begun = store.states[AVERAGE].copy()

    def move_half(average, w, share):
        kernels.move_average(average[: w.size // 2], w[: w.size // 2], share)

    monkeypatch.setattr(averaging, "move_average", move_half)
    store.count_update()
    average.after_update(1)
    monkeypatch.undo()
    store.count_update()
    average.after_update(2)
    first, both = averaged(begun, store.weights, 2), averaged(averaged(begun, store.weights, 1), store.weights, 2)
    middle = store.weights.size // 2
    np.testing.assert_allclose(average.space[:middle], both[:middle], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(average.space[middle:], first[middle:], rtol=1e-4, atol=1e-6)


def test_updates_that_nobody_moved_for_and_those_of_other_replicas_count_in_the_next_move(make_world):
    world = make_world(average=Average(0.999))
    average, store = MovingAverage(Average(0.999), world.store), world.store
    begun = store.weights.copy()
    store.weights[...] += 1.0
    store.set_updates(50_000)
    store.note_average(50_000)
    store.set_elsewhere(1000)  # of other replicas
    average.after_update(50_001)
    np.testing.assert_array_equal(average.space, begun)  # it moves at every 32nd update
    store.set_updates(50_016)
    average.after_update(50_016)
    np.testing.assert_allclose(average.space, begun + (1 - 0.999**1016), rtol=1e-4, atol=1e-5)
    store.set_elsewhere(0)  # the run has gone back: nothing is to be moved by
    average.after_update(50_048)
    np.testing.assert_allclose(average.space, begun + (1 - 0.999**1016), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("average", [Average(DECAY), Average(epochs=2)])
def test_the_average_is_evaluated_and_the_weights_are_trained(make_world, average):
    world = make_world(average=average)
    (worker,) = world.workers
    world.server.fill_rings()
    world.store.states[AVERAGE][...] *= -1.0
    kept = world.store.states[AVERAGE].copy()
    world.memory.evaluation.open(0, np.zeros(-(-COUNT // BATCH), np.uint8))
    while worker.evaluator.evaluate_chunk(TEST):
        pass
    images, labels = world.pictures
    context = TrainingContext(NETWORK, world.store.layout.views(kept), COUNT)
    program = context.program(images, labels, training=False)
    program.run_forward()
    np.testing.assert_allclose(world.memory.results.sum(axis=0), [*program.totals, COUNT], rtol=1e-5)
    assert worker.train_batch() is Outcome.DONE
    assert (world.store.states[AVERAGE] != kept).any() == average.moves
