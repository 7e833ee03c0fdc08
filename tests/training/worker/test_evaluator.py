from __future__ import annotations

import numpy as np

from adam_mp.compute.context import TrainingContext
from adam_mp.compute.views import ViewScores, measure, parse_views
from adam_mp.memory.board import TEST, VALIDATE
from tests.training.worker.conftest import BATCH, COUNT, IMAGE, NETWORK


def expected(world, count):
    """Sum of losses and number right of the first samples, all at once."""
    images, labels = world.pictures
    context = TrainingContext(NETWORK, world.store.tensors, count)
    program = context.program(images[:count], labels[:count], training=False)
    program.run_forward()
    return [*program.totals, count]


def test_the_chunks_of_all_workers_are_the_whole_set(make_world):
    world = make_world(2)
    for order, count in ((VALIDATE, 10), (TEST, COUNT)):
        chunks = -(-count // BATCH)
        world.memory.results[...] = 0
        world.memory.evaluation.open(order, np.zeros(chunks, np.uint8))
        turns = 0
        while world.workers[turns % 2].evaluator.evaluate_chunk(order):
            turns += 1
        assert turns == chunks
        assert not world.workers[0].evaluator.evaluate_chunk(order)
        np.testing.assert_allclose(world.memory.results.sum(axis=0), expected(world, count), rtol=1e-5)


def test_a_chunk_has_the_mean_scores_over_all_views(make_world):
    views = parse_views("reflect,shift=1", IMAGE)
    world = make_world(2, views=views)
    world.memory.evaluation.open(0, np.zeros(-(-COUNT // BATCH), np.uint8))
    while world.workers[0].evaluator.evaluate_chunk(TEST) and world.workers[1].evaluator.evaluate_chunk(TEST):
        pass
    images, labels = world.pictures
    scores = ViewScores(TrainingContext(NETWORK, world.store.tensors, COUNT), views).of(images)
    np.testing.assert_allclose(world.memory.results.sum(axis=0), [*measure(scores, labels), COUNT], rtol=1e-5)
    assert abs(measure(scores, labels)[0] - expected(world, COUNT)[0]) > 1e-3


def test_between_rounds_nothing_is_evaluated(make_world):
    world = make_world()
    world.memory.evaluation.open(-1, np.zeros(0, np.uint8))
    assert not world.workers[0].evaluator.evaluate_chunk(TEST)


def test_a_chunk_of_which_no_image_can_be_had_counts_nothing(make_world, monkeypatch):
    world = make_world()
    world.memory.results[...] = 7
    world.memory.evaluation.open(0, np.zeros(1, np.uint8))
    evaluator = world.workers[0].evaluator
    monkeypatch.setattr(evaluator._pictures, "fill", lambda *arguments: 0)
    assert evaluator.evaluate_chunk(TEST)
    assert world.memory.results[0].tolist() == [0, 0, 0]
