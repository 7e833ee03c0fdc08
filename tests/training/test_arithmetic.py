"""Schedule, epoch and split: the pure functions of training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.errors import SettingsError
from adam_mp.memory.ledger import ELSEWHERE, FREE, HELD, LEASED, SKIPPED, TRAINED, images_in
from adam_mp.training.epoch import quorum_batches, quorum_reached, reopened, within_quorum
from adam_mp.training.schedule import Schedule, share_of_rate
from adam_mp.training.split import Costs, Split, divide_cores


def test_rates():
    assert Schedule(0.1, 3, 10).value(2, 25) == 0.1
    assert not Schedule(0.1, 3, 10).follows_steps
    assert Schedule("0.05 * 0.95 ** epoch", 3, 10).value(2, 25) == pytest.approx(0.05 * 0.95**2)
    assert not Schedule("0.05 * 0.95 ** epoch", 3, 10).follows_steps
    falling = Schedule("1 - progress", 3, 10)
    assert falling.follows_steps
    assert [falling.value(0, step) for step in (0, 15, 30, 99)] == [1, 0.5, 0, 0]
    rising = Schedule("warmup", 10, 1000)
    assert [rising.value(0, step) for step in (0, 149, 299, 5000)] == pytest.approx([1 / 300, 0.5, 1, 1])
    assert Schedule("warmup", 1, 5).value(0, 0) == pytest.approx(1 / 2.5)
    assert Schedule("epochs", 7, 5).value(0, 0) == 7


@pytest.mark.parametrize(
    ("rate", "epochs", "message"),
    [
        ("1 / 0", 2, r"--lr '1 / 0' in epoch 0 \(from 0\) fails: division by zero; expected a learning rate"),
        ("epoch / (epoch - 2)", 3, r"in epoch 1 \(from 0\) is -1; expected"),
        ("where(epoch == 701, -1, 1)", 1000, "in epoch 701"),
        ("abs(progress - 0.5) - 0.2", 1, r"in epoch 0 \(from 0\), update 4 is -0.1; expected"),
    ],
)
def test_a_rate_that_fails_anywhere_is_refused(rate, epochs, message):
    with pytest.raises(SettingsError, match=message):
        Schedule(rate, epochs, 10).check()


def test_a_surprising_batch_takes_a_smaller_step():
    guessing = np.log(10)
    assert share_of_rate(0.0, 10) == share_of_rate(guessing, 10) == share_of_rate(1.25 * guessing, 10) == 1
    assert share_of_rate(2.5 * guessing, 10) == pytest.approx(0.5)
    assert share_of_rate(1e30, 2) * 1e30 == pytest.approx(1.25 * np.log(2))


@given(st.integers(1, 20), st.integers(1, 200), st.floats(0.01, 1.0), st.integers(0, 999))
def test_what_lies_within_the_quorum_is_just_enough(batch, images, quorum, seed):
    batches = -(-images // batch)
    fresh = within_quorum(np.full(batches, FREE, np.uint8), quorum, batch, images)
    assert (fresh == FREE).tolist() == [number < quorum_batches(quorum, batch, images) for number in range(batches)]
    states = np.random.default_rng(seed).choice([FREE, TRAINED, SKIPPED], batches).astype(np.uint8)
    within = within_quorum(states, quorum, batch, images)
    assert np.all((within == states) | (states == FREE) & (within == SKIPPED))
    if quorum_reached(np.where(states == FREE, TRAINED, states), quorum, batch, images):
        assert quorum_reached(np.where(within == FREE, TRAINED, within), quorum, batch, images)
    left = np.flatnonzero(within == FREE)
    if left.size:  # without the last of them it is not reached
        within[left[-1]] = SKIPPED
        assert not quorum_reached(np.where(within == FREE, TRAINED, within), quorum, batch, images)


@given(st.integers(1, 20), st.integers(1, 200), st.integers(0, 999))
def test_every_image_counts_once(batch, images, seed):
    batches = -(-images // batch)
    states = np.random.default_rng(seed).integers(0, 5, batches).astype(np.uint8)
    counts = [images_in(states, state, batch, images) for state in range(5)]
    assert sum(counts) == images
    assert min(counts) >= 0


@given(st.integers(1, 20), st.integers(1, 200), st.floats(0.01, 1))
def test_the_quorum_is_reached_with_its_share(batch, images, quorum):
    batches = -(-images // batch)
    states = np.zeros(batches, np.uint8)
    for number in range(batches):
        done = images_in(states, TRAINED, batch, images)
        assert quorum_reached(states, quorum, batch, images) == (done >= quorum * images)
        states[number] = TRAINED
    assert quorum_reached(states, 1.0, batch, images)


def test_an_interrupted_epoch_frees_what_is_not_trained():
    states = np.array([FREE, HELD, LEASED, TRAINED, SKIPPED, ELSEWHERE], np.uint8)
    assert reopened(states).tolist() == [FREE, FREE, FREE, TRAINED, FREE, FREE]


@pytest.mark.parametrize(
    ("cores", "ratio", "asked", "split"),
    [
        (1, 0.04, None, Split(1, 1)),
        (2, 0.04, None, Split(2, 1)),
        (32, 0.04, None, Split(31, 2)),
        (8, 1.0, None, Split(4, 5)),
        (2, 1.0, None, Split(1, 2)),
        (1, 9.0, None, Split(1, 1)),
        (8, 0.04, 3, Split(8, 3)),
        (8, 1.0, 2, Split(6, 2)),
    ],
)
def test_cores_are_divided_by_cost(cores, ratio, asked, split):
    assert divide_cores(cores, Costs(1e-3, ratio * 1e-3, 0), 5, asked) == split


@given(st.integers(1, 64), st.floats(1e-6, 1), st.floats(1e-6, 1), st.none() | st.integers(1, 8))
def test_there_is_always_someone_to_train_and_to_serve(cores, train, augment, asked):
    split = divide_cores(cores, Costs(train, augment, 0), 5, asked)
    assert 1 <= split.workers <= cores
    assert split.data_servers >= 1
