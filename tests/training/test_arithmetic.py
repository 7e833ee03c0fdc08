"""Schedule, epoch and split: the pure functions of training."""

from __future__ import annotations

import numexpr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adam_mp.errors import SettingsError
from adam_mp.memory.ledger import ELSEWHERE, FREE, HELD, LEASED, SKIPPED, TRAINED, images_in
from adam_mp.training.plan.quorum import quorum_batches, quorum_reached, reopened, within_quorum
from adam_mp.training.plan.split import Costs, Split, divide_cores
from adam_mp.training.settings.schedule import Rates, Schedule, share_of_rate


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
        ("1 / 0", 2, r"lr '1 / 0' in epoch 0 \(from 0\) fails: division by zero; expected a learning rate"),
        ("epoch / (epoch - 2)", 3, r"in epoch 1 \(from 0\) is -1; expected"),
        ("where(epoch == 701, -1, 1)", 1000, "in epoch 701"),
        ("abs(progress - 0.5) - 0.2", 1, r"in epoch 0 \(from 0\), update 4 is -0.1; expected"),
    ],
)
def test_a_rate_that_fails_anywhere_is_refused(rate, epochs, message):
    with pytest.raises(SettingsError, match=message):
        Schedule(rate, epochs, 10).check()


NUMBERS = st.sampled_from(["0.07", "2", "1e-3", "epoch", "epochs", "step", "progress", "warmup", "(step + 1)"])
FORMULAS = st.recursive(
    NUMBERS,
    lambda parts: st.one_of(
        st.tuples(st.sampled_from(["exp", "expm1", "sqrt", "log1p", "sin", "tanh", "floor", "abs"]), parts).map(
            lambda each: f"{each[0]}(-abs({each[1]}))" if each[0].startswith("exp") else f"{each[0]}(abs({each[1]}))"
        ),
        st.tuples(parts, st.sampled_from(["+", "-", "*"]), parts).map(lambda each: f"({' '.join(each)})"),
        st.tuples(parts, parts).map(lambda each: f"({each[0]} / (1 + abs({each[1]})))"),
        st.tuples(parts, st.sampled_from(["2", "3", "0.5", "epoch"])).map(
            lambda each: f"(1 + abs({each[0]})) ** {each[1]}"
        ),
        st.tuples(parts, parts, parts).map(lambda each: f"where({each[0]} < {each[1]}, {each[2]}, {each[0]})"),
    ),
    max_leaves=6,
)


def by_itself(schedule, epoch, step):
    """The rate of one update, evaluated for it alone."""
    total = schedule.epochs * schedule.steps_per_epoch
    names = {"epoch": epoch, "epochs": schedule.epochs, "step": step, "progress": min(1.0, step / total)}
    names["warmup"] = min(1.0, (step + 1) / min(300, max(1.0, 0.5 * total)))
    doubles = {name: np.float64(value) for name, value in names.items()}
    return float(numexpr.evaluate(str(schedule.rate), doubles, {}))


MOVES = st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 2000)), max_size=20)


@given(FORMULAS, st.integers(1, 20), st.integers(1, 5000), MOVES, st.integers(0, 2**40))
@settings(deadline=None)
def test_rates_of_many_updates_at_once_are_those_of_one_by_one(formula, epochs, steps_per_epoch, moves, step):
    schedule = Schedule(formula, epochs, steps_per_epoch)
    rates, epoch = Rates(schedule), 0
    for epochs_on, steps_on in moves:
        epoch, step = epoch + epochs_on // 3, max(0, step + steps_on)
        expected = by_itself(schedule, epoch, step)
        assert np.array_equal(rates.value(epoch, step), expected, equal_nan=True)
        assert np.array_equal(schedule.value(epoch, step), expected, equal_nan=True)


def test_rates_without_steps_are_computed_once_a_block(monkeypatch):
    asked = []
    values = Schedule.values
    monkeypatch.setattr(Schedule, "values", lambda *given: asked.append(given) or values(*given))
    for rate in (0.25, "0.5 ** (epoch + 2)", "where(step < 0, 1, 0.25)"):
        rates = Rates(Schedule(rate, 3, 10))
        assert [rates.value(0, step) for step in range(100)] == [0.25] * 100
        assert len(asked) == 1
        asked.clear()
    assert rates.value(0, 5) == rates.value(1, 5) == 0.25
    assert len(asked) == 1


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
