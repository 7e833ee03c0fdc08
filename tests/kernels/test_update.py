from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from adam_mp.compute.optimizer import UpdateNumbers, make_optimizer
from adam_mp.kernels.update import RULES, scale, square_sum

LR, DECAY, KEEP, BETA1, BETA2, EPSILON = 0.1, 0.01, 0.8, 0.9, 0.99, 1e-6


def reference(name, w, g, state, step, lr=LR, decay=DECAY, workers=1):
    """One update in NumPy, as the formulas say; `state` is changed in place."""
    slope = g if name == "adamw" else g + decay * w
    if name == "sgd":
        return w - lr * slope
    if name in ("momentum", "nesterov"):
        before = state["v"]
        state["v"] = KEEP * before + slope
        if name == "nesterov":
            return w - lr * (slope + KEEP * state["v"])
        return w - lr * (state["v"] + KEEP * (1 - 1 / workers) * (state["v"] - before))
    if name == "adagrad":
        state["s"] = state["s"] + slope**2
        return w - lr * slope / (np.sqrt(state["s"]) + EPSILON)
    if name == "rmsprop":
        state["s"] = BETA2 * state["s"] + (1 - BETA2) * slope**2
        return w - lr * slope / (np.sqrt(state["s"]) + EPSILON)
    state["m"] = BETA1 * state["m"] + (1 - BETA1) * slope
    state["s"] = BETA2 * state["s"] + (1 - BETA2) * slope**2
    m, s = state["m"] / (1 - BETA1**step), state["s"] / (1 - BETA2**step)
    return w - lr * m / (np.sqrt(s) + EPSILON) - (lr * decay * w if name == "adamw" else 0)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("name", sorted(RULES))
def test_rules_follow_their_formulas(name, workers):
    generator = np.random.default_rng(4)
    w, gradient = generator.standard_normal(50), np.zeros(50)
    optimizer = make_optimizer(
        name, {"weight_decay": DECAY, "momentum": KEEP, "beta1": BETA1, "beta2": BETA2, "epsilon": EPSILON}
    )
    states = {state: np.zeros(50) for state in optimizer.states}
    expected, expected_states = w.copy(), {state: np.zeros(50) for state in optimizer.states}
    numbers = UpdateNumbers(optimizer, workers)
    numbers.set_rate(LR)
    update = optimizer.bind(w, gradient, states, numbers.array)
    for step in range(1, 5):
        gradient[:] = generator.standard_normal(50)
        numbers.set_step(step)
        update()
        expected = reference(name, expected, gradient, expected_states, step, workers=workers)
        np.testing.assert_allclose(w, expected, rtol=1e-9)
    for state, values in states.items():
        np.testing.assert_allclose(values, expected_states[state], rtol=1e-9)


def test_momentum_lies_between_polyaks_and_nesterovs():
    generator = np.random.default_rng(4)
    w, gradient, v = (generator.standard_normal(100) for _ in range(3))
    stretches, speed = np.array([[100.0, 1, 1]]), KEEP * v + gradient
    for others, change in ((0.0, speed), (1.0, gradient + KEEP * speed)):
        moved, kept = w.copy(), v.copy()
        RULES["momentum"].kernel(moved, gradient, kept, stretches, np.array([LR, 0.0, KEEP, others]))
        np.testing.assert_allclose(moved, w - LR * change, rtol=1e-9)
        np.testing.assert_allclose(kept, speed, rtol=1e-9)


@settings(deadline=None)
@given(
    name=some.sampled_from(sorted(RULES)),
    rows=some.lists(
        some.tuples(some.integers(1, 40), some.sampled_from([0.0, 0.25, 1.0]), some.sampled_from([0.0, 0.5, 1.0])),
        min_size=1, max_size=5,
    ),
)  # fmt: skip
def test_each_stretch_takes_its_shares_of_rate_and_decay(name, rows):
    lengths, rates, decays = (np.array(column) for column in zip(*rows, strict=True))
    size = int(lengths.sum())
    generator = np.random.default_rng(size)
    w = generator.standard_normal(size)
    optimizer = make_optimizer(
        name, {"weight_decay": DECAY, "momentum": KEEP, "beta1": BETA1, "beta2": BETA2, "epsilon": EPSILON}
    )
    states = {state: generator.random(size) for state in optimizer.states}
    expected, expected_states = w.copy(), {state: values.copy() for state, values in states.items()}
    begun, states_begun = w.copy(), {state: values.copy() for state, values in states.items()}
    numbers = UpdateNumbers(optimizer)
    numbers.set_rate(LR)
    numbers.set_step(1)
    gradient = generator.standard_normal(size)
    optimizer.bind(w, gradient, states, numbers.array, np.column_stack([np.cumsum(lengths), rates, decays]))()
    rate, decay = np.repeat(LR * rates, lengths), np.repeat(DECAY * decays, lengths)
    expected = reference(name, expected, gradient, expected_states, 1, rate, decay)
    frozen = rate == 0
    np.testing.assert_allclose(w, np.where(frozen, begun, expected), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(w[frozen], begun[frozen])
    for state, values in states.items():
        wanted = np.where(frozen, states_begun[state], expected_states[state])
        np.testing.assert_allclose(values, wanted, rtol=1e-9)


@given(
    rows=some.lists(some.tuples(some.integers(1, 70), some.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=5),
    real=some.sampled_from([np.float32, np.float64]),
)
def test_squares_of_what_is_not_frozen_are_added(rows, real):
    lengths, rates = (np.array(column) for column in zip(*rows, strict=True))
    gradient = np.random.default_rng(len(rows)).standard_normal(int(lengths.sum())).astype(real) * 1000
    total = np.full(1, 7.0)
    square_sum(gradient, np.column_stack([np.cumsum(lengths), rates, np.ones(len(rows))]), total)
    kept = gradient[np.repeat(rates, lengths) != 0].astype(np.float64)
    assert total[0] == pytest.approx(kept @ kept, rel=1e-12)
    scaled = gradient.copy()
    scale(scaled, 0.3)
    np.testing.assert_array_equal(scaled, gradient * real(0.3))
