"""The worker's loop, in this process: what it does with a batch, and how it follows orders."""

from __future__ import annotations

import threading

import numpy as np

from adam_mp.memory.board import IDLE, LACKS, STOP, TEST, TRAIN, VALIDATE
from adam_mp.memory.ledger import HELD, LEASED, TRAINED
from adam_mp.memory.ring import Tag
from adam_mp.training.worker.asynchronous import AsyncStep
from adam_mp.training.worker.bounded import BoundedStep
from adam_mp.training.worker.step import Outcome
from adam_mp.training.worker.synchronous import SynchronousStep
from tests.training.worker.conftest import BATCH, BATCHES, COUNT, EPOCH, wait_until


def test_the_mode_is_chosen_at_the_start(make_world):
    assert isinstance(make_world().workers[0].step, AsyncStep)
    assert isinstance(make_world(bound=2).workers[0].step, BoundedStep)
    assert isinstance(make_world(in_steps=True).workers[0].step, SynchronousStep)


def test_an_epoch_is_trained_batch_by_batch(make_world):
    world = make_world()
    (worker,) = world.workers
    assert worker.train_batch() is Outcome.NOTHING_THERE
    while world.server.fill_rings():
        pass
    for _ in range(BATCHES):
        assert worker.train_batch() is Outcome.DONE
    assert worker.train_batch() is Outcome.NOTHING_THERE
    assert (world.memory.ledger.states() == TRAINED).all()
    progress = world.progress()
    assert (progress.images, progress.updates, progress.staleness) == (COUNT, BATCHES, 0)
    assert min(progress.busy_ns, progress.forward_ns, progress.backward_ns, progress.update_ns) > 0
    assert progress.loss > 0
    assert world.store.read_updates() == BATCHES
    assert world.memory.staleness[0].tolist()[:2] == [BATCHES, 0]


def test_no_batch_is_begun_while_a_silent_parameter_server_holds_the_workers_up(make_world):
    world = make_world()
    (worker,) = world.workers
    world.server.fill_rings()
    world.memory.board.held_up = True
    assert worker.train_batch() is Outcome.WAITING_FOR_EXCHANGE
    worker.rest(Outcome.WAITING_FOR_EXCHANGE, training=True)
    assert world.progress().exchange_ns > 0
    world.memory.board.held_up = False
    assert worker.train_batch() is Outcome.DONE


def test_a_batch_that_was_taken_back_is_dropped(make_world):
    world = make_world()
    (worker,) = world.workers
    world.server.fill_rings()
    world.memory.ledger.take_back(HELD, 1)
    before = world.store.weights.copy()
    assert worker.train_batch() is Outcome.DONE
    assert worker.train_batch() is Outcome.NOTHING_THERE
    np.testing.assert_array_equal(world.store.weights, before)
    assert world.memory.ledger.statistics().free == BATCHES
    assert world.progress().images == 0


def test_a_batch_without_images_is_done_and_is_no_update(make_world):
    world = make_world()
    (worker,) = world.workers
    batch = world.memory.ledger.claim(EPOCH, 1)
    (ring,) = world.memory.rings
    ring.reserve().write_tag(Tag(EPOCH, batch, 0, 1))
    ring.publish()
    before = world.store.weights.copy()
    assert worker.train_batch() is Outcome.DONE
    assert world.memory.ledger.statistics().trained == 1
    np.testing.assert_array_equal(world.store.weights, before)
    assert world.store.read_updates() == world.progress().updates == 0


def test_a_loss_that_is_no_number_is_reported_and_changes_nothing(make_world):
    world = make_world()
    (worker,) = world.workers
    world.server.fill_rings()
    world.store.set_updates(17)
    world.store.weights[:] = np.inf
    assert worker.train_batch() is Outcome.DONE
    progress = world.progress()
    assert (progress.faults, progress.fault_epoch, progress.fault_step) == (1, EPOCH + 1, 17)
    assert np.isinf(world.store.weights).all()
    assert world.memory.ledger.statistics().leased == 1  # the supervisor goes back, or ends the run
    assert progress.updates == 0


def test_it_follows_orders(make_world):
    world = make_world()
    (worker,) = world.workers
    board = world.memory.board
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        wait_until(lambda: world.progress().ready, "ready")
        sequence = board.give_order(TRAIN)
        while world.server.fill_rings():
            pass
        wait_until(lambda: world.memory.ledger.statistics().trained == BATCHES, "all batches")
        assert world.progress().acknowledged == sequence
        trained = world.store.weights.copy()
        for order, images in ((VALIDATE, 10), (TEST, COUNT)):
            chunks = -(-images // BATCH)
            world.memory.results[...] = 0
            world.memory.evaluation.open(order, np.zeros(chunks, np.uint8))
            board.give_order(order)
            statistics = world.memory.evaluation.statistics
            wait_until(lambda statistics=statistics, chunks=chunks: statistics().trained == chunks, "all chunks")
            assert world.memory.results[:, 2].sum() == images
        sequence = board.give_order(IDLE)
        wait_until(lambda: world.progress().acknowledged == sequence, "idle")
        np.testing.assert_array_equal(world.store.weights, trained)
        assert world.progress().waited_ns > 0
        for lack, name in enumerate(LACKS):  # all batches are trained: the worker waits for what the supervisor says
            board.lack = lack
            board.give_order(TRAIN)
            before = getattr(world.progress(), name)
            wait_until(lambda name=name, before=before: getattr(world.progress(), name) > before, name)
            board.give_order(IDLE)
    finally:
        board.give_order(STOP)
        thread.join(10)
    assert not thread.is_alive()
    assert (world.memory.ledger.states() != LEASED).all()
