"""Asynchronous steps: each batch's update is in the weights at once, and is what gradient descent says."""

from __future__ import annotations

import numpy as np
import pytest

from adam_mp.compute.context import TrainingContext
from adam_mp.data.mixing import Mixing
from adam_mp.memory.ledger import LEASED
from adam_mp.training.settings.schedule import share_of_rate
from adam_mp.training.worker.bounded import BoundedStep
from adam_mp.training.worker.step import Outcome
from tests.training.worker.conftest import BATCHES, EPOCH, NETWORK, RATE


def descend(world, weights, batch, weight_decay, decay_all=False, smoothing=0.0):
    """Plain descent on a batch, in double precision; without `decay_all`, biases are not decayed."""
    images, labels = world.pictures
    numbers = world.numbers(batch)
    images, labels = images[numbers], labels[numbers]
    mixed = world.server.spec.mixing.mix(images, 1, EPOCH, batch)
    layout = world.store.layout
    flat = weights.astype(np.float64)
    context = TrainingContext(NETWORK, layout.views(flat), len(numbers), np.float64, smoothing=smoothing)
    program = context.program(images.astype(np.float64), labels, mixed=np.array([mixed]))
    program.run_forward()
    program.run_backward()
    rate = RATE * share_of_rate(program.totals[0] / len(numbers), NETWORK.classes)
    decayed = np.zeros_like(weights)
    for name, part in layout.views(decayed).items():
        part[...] = decay_all or not name.endswith(".bias")
    return weights - rate * (context.gradient + weight_decay * decayed * weights)


@pytest.mark.parametrize(("weight_decay", "decay_all"), [(0.0, False), (0.3, False), (0.3, True)])
def test_each_batch_is_a_step_of_gradient_descent(make_world, weight_decay, decay_all):
    world = make_world(weight_decay=weight_decay, decay_all=decay_all)
    (worker,) = world.workers
    expected = world.store.weights.astype(np.float64)
    while world.server.fill_rings():
        pass
    for _ in range(BATCHES):
        found = worker.step.take()
        expected = descend(world, expected, found.tag.batch, weight_decay, decay_all)
        assert worker.train_batch() is Outcome.DONE
        np.testing.assert_allclose(world.store.weights, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("clip_norm", "clips"), [(0.05, True), (1e3, False)])
@pytest.mark.parametrize("rule", ["sgd", "w - lr * (g + weight_decay * w)"])
def test_a_gradient_is_clipped_before_weight_decay(make_world, rule, clip_norm, clips):
    world = make_world(rule=rule, weight_decay=0.3, decay_all=True, clip_norm=clip_norm)
    (worker,) = world.workers
    while world.server.fill_rings():
        pass
    for _ in range(BATCHES):
        before, batch = world.store.weights.astype(np.float64), worker.step.take().tag.batch
        plain = descend(world, before, batch, 0.0)
        assert worker.train_batch() is Outcome.DONE
        step = before - plain
        norm = np.linalg.norm(step) / worker.step._numbers.rate
        assert (norm > clip_norm) == clips
        expected = before - step * min(1.0, clip_norm / norm) - worker.step._numbers.rate * 0.3 * before
        np.testing.assert_allclose(world.store.weights, expected, rtol=1e-4, atol=1e-6)


def test_a_worker_trains_on_smoothed_labels(make_world):
    world = make_world(weight_decay=0.0, label_smoothing=0.3)
    (worker,) = world.workers
    world.server.fill_rings()
    expected = descend(world, world.store.weights, worker.step.take().tag.batch, 0.0, smoothing=0.3)
    assert worker.train_batch() is Outcome.DONE
    np.testing.assert_allclose(world.store.weights, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mixing", [Mixing(mixup=1.0), Mixing(cutmix=1.0)])
def test_a_worker_trains_on_mixed_images_and_labels(make_world, mixing):
    world = make_world(weight_decay=0.0, label_smoothing=0.1, mixing=mixing)
    (worker,) = world.workers
    expected = world.store.weights.astype(np.float64)
    while world.server.fill_rings():
        pass
    for _ in range(BATCHES):
        expected = descend(world, expected, worker.step.take().tag.batch, 0.0, smoothing=0.1)
        assert worker.train_batch() is Outcome.DONE
        np.testing.assert_allclose(world.store.weights, expected, rtol=1e-4, atol=1e-6)


def test_a_batch_of_a_dead_worker_is_mixed_once(make_world):
    world = make_world(weight_decay=0.0, mixing=Mixing(mixup=1.0))
    (worker,) = world.workers
    ledger, ring = world.memory.ledger, world.memory.rings[0]
    world.server.fill_rings()
    tag = worker.step.take().tag
    expected = descend(world, world.store.weights.astype(np.float64), tag.batch, 0.0)
    before = ring.slots[ring.peek()].images.copy()
    assert ledger.lease(tag.epoch, tag.batch, tag.server, worker.spec.process)
    worker.programs.of(worker.step.take()).program.run_forward()
    # It dies: its batch is freed, and the data server claims it again.
    assert ledger.take_back(LEASED, worker.spec.process) == 1
    assert world.server.take_batch(EPOCH, 0) == tag.batch
    np.testing.assert_array_equal(ring.slots[ring.peek()].images, before)
    assert worker.train_batch() is Outcome.DONE  # from the old slot, which has what the data server would make again
    np.testing.assert_allclose(world.store.weights, expected, rtol=1e-4, atol=1e-6)


def test_staleness_is_what_others_did_between_reading_and_updating(make_world):
    world = make_world()
    (worker,) = world.workers
    world.server.fill_rings()
    prepare = worker.step.prepare

    def prepare_while_others_update(tag, loss):
        prepare(tag, loss)
        for _ in range(3):
            world.store.count_update()

    worker.step.prepare = prepare_while_others_update
    assert worker.train_batch() is Outcome.DONE
    assert (world.progress().staleness, world.store.read_updates()) == (3, 4)
    assert world.memory.staleness[0].nonzero()[0].tolist() == [3]


def numbers_of(worker):
    """The numbers of a worker's updates, with the rate of its last batch."""
    return (worker.step._inner if isinstance(worker.step, BoundedStep) else worker.step)._numbers


@pytest.mark.parametrize("bound", [None, 2])
@pytest.mark.parametrize("rule", ["momentum", "nesterov"])
def test_each_worker_keeps_a_velocity_of_its_own_gradients(make_world, rule, bound):
    world = make_world(workers=2, rule=rule, bound=bound, weight_decay=0.0)
    expected = world.store.weights.copy()
    velocities = np.zeros((2, expected.size), np.float32)
    for turn in range(4):
        number = turn % 2
        worker = world.workers[number]
        world.server.fill_rings()
        assert worker.train_batch() is Outcome.DONE
        gradient = worker.context.gradient
        before = velocities[number].copy()
        velocities[number] = 0.9 * before + gradient
        if rule == "momentum":  # ahead by the velocities of the other worker, half of all
            change = velocities[number] + 0.9 / 2 * (velocities[number] - before)
        else:
            change = gradient + 0.9 * velocities[number]
        expected -= numbers_of(worker).rate * change
        np.testing.assert_allclose(world.store.weights, expected, rtol=1e-5, atol=1e-6)
    for number in range(2):
        np.testing.assert_allclose(world.store.states_of(number)["v"], velocities[number], rtol=1e-5, atol=1e-6)
    assert not np.array_equal(velocities[0], velocities[1])


def test_a_batch_that_was_freed_meanwhile_is_not_counted(make_world):
    world = make_world()
    (worker,) = world.workers
    world.server.fill_rings()
    prepare = worker.step.prepare

    def prepare_and_lose(tag, loss):
        prepare(tag, loss)
        world.memory.ledger.close_round(idle=True)

    worker.step.prepare = prepare_and_lose
    worker.train_batch()
    assert (world.progress().images, world.progress().updates) == (0, 1)
    assert world.memory.ledger.statistics().trained == 0


@pytest.mark.parametrize("clip_norm", [0.0, 0.01])
def test_what_goes_as_inputs_and_errors_is_told_after_the_update(make_world, clip_norm):
    world = make_world(clip_norm=clip_norm)
    (worker,) = world.workers
    world.server.fill_rings()
    told = []

    class Outbox:
        def put(self, factors, rate, weight_decay, share):
            told.append((factors, rate, weight_decay, share, world.store.read_updates(), world.memory.ledger.states()))

    worker.step._outbox = Outbox()
    tag = worker.step.take().tag
    assert tag.epoch == EPOCH
    worker.train_batch()
    ((factors, rate, weight_decay, share, updates, states),) = told
    assert (factors, rate, weight_decay, updates) == ([], RATE, 0.01, 1)
    assert (share < 1) == (clip_norm > 0)
    assert states[tag.batch] == 2  # still leased: trained is what the synchronizer can send
