from __future__ import annotations

import numpy as np
import pytest

from adam_mp.compute.expression import check_expression, evaluate_into, evaluate_numbers, names_in
from adam_mp.compute.optimizer import UpdateNumbers, make_optimizer
from adam_mp.errors import SettingsError
from adam_mp.kernels.update import RULES

CONSTANTS = {"weight_decay": 0.01, "momentum": 0.9, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6}


def apply(rule, steps=3):
    """Weights after some steps with gradients drawn from one seed, float32."""
    generator = np.random.default_rng(0)
    w, g = generator.standard_normal(40).astype(np.float32), np.zeros(40, np.float32)
    optimizer = make_optimizer(rule, {"weight_decay": 0.01, "momentum": 0.9, "epsilon": 0.0})
    numbers = UpdateNumbers(optimizer)
    numbers.set_rate(0.1)
    update = optimizer.bind(w, g, {name: np.zeros(40, np.float32) for name in optimizer.states}, numbers.array)
    for _ in range(steps):
        g[:] = generator.standard_normal(40)
        update()
    return w


@pytest.mark.parametrize(
    ("formula", "name"),
    [
        ("w - lr * (g + 0.01 * w)", "sgd"),
        ("w - lr * (g + weight_decay * w)", "sgd"),
        ("v = 0.9 * v + g + 0.01 * w; w - lr * v", "momentum"),
        ("v = momentum * v + g + weight_decay * w ; w - lr * v;", "momentum"),
        ("s = s + (g + 0.01 * w) ** 2; w - lr * (g + 0.01 * w) / sqrt(s)", "adagrad"),
    ],
)
def test_formulas_equal_the_rules_they_spell(formula, name):
    np.testing.assert_allclose(apply(formula), apply(name), rtol=1e-4, atol=1e-5)


def test_formulas_stay_in_single_precision():
    w, g = np.ones(3, np.float32), np.full(3, 0.1, np.float32)
    evaluate_into("w - lr * (g + 0.0005 * w)", {"w": w, "g": g, "lr": 0.1}, w)
    expected = np.float32(1) - np.float32(0.1) * (np.float32(0.1) + np.float32(0.0005) * np.float32(1))
    assert (w == expected).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sdg", "did you mean 'sgd'"),
        ("w - lr * gradient", "unknown name 'gradient'"),
        ("w - lr * sqr(g)", "unknown function 'sqr'; did you mean 'sqrt'"),
        ("w -", "is not a formula"),
        ("g * 2", "does not depend on w"),
        ("w = w - g; w", "cannot be assigned"),
        ("v + 1; w - v", "not an assignment"),
        ("w.T", "attribute is not allowed"),
        ("w[0]", "subscript is not allowed"),
        ("(lambda: w)()", "not allowed"),
        ("w - 'x'", "not a number"),
        ("w if g else w", "not allowed"),
        ("__import__('os')", "unknown function"),
        ("w - True", "not a number"),
        ("where(w, g, w)", "cannot be evaluated"),
        ("", "is not a formula"),
    ],
)
def test_formulas_that_are_refused(text, message):
    with pytest.raises(SettingsError, match=message):
        make_optimizer(text, CONSTANTS)


def test_numbers_and_names():
    check_expression("0.05 * 0.95 ** epoch", ["epoch"], "--lr")
    assert names_in("0.05 * sqrt(epoch) + step") == {"epoch", "step"}
    assert evaluate_numbers("0.05 * 0.95 ** epoch", {"epoch": 3}) == pytest.approx(0.05 * 0.95**3)
    assert evaluate_numbers("where(step < 10, step / 10, 1)", {"step": 5}) == 0.5
    assert evaluate_numbers("where(step < 10, step / 10, 1)", {"step": np.arange(9, 12)}).tolist() == [0.9, 1, 1]


def test_every_rule_lists_its_state():
    assert {name: rule.states for name, rule in RULES.items()} == {
        "sgd": (), "momentum": ("v",), "nesterov": ("v",), "adagrad": ("s",), "rmsprop": ("s",), "adam": ("m", "s"),
        "adamw": ("m", "s"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("sgd", {"lr": 0, "weight_decay": 0.01}),
        ("nesterov", {"lr": 0, "weight_decay": 0.01, "momentum": 0.9}),
        ("rmsprop", {"lr": 0, "weight_decay": 0.01, "beta2": 0.95, "epsilon": 1e-6}),
        ("adamw", {"lr": 0, "weight_decay": 0.01, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6, "step": 0}),
        ("w - lr * g", {"lr": 0, "weight_decay": 0.01}),
        ("v = beta1 * v + g; w - lr * v / step", {"lr": 0, "weight_decay": 0.01, "beta1": 0.8, "step": 0}),
    ],
)
def test_a_rule_takes_the_numbers_it_names(text, numbers):
    optimizer = make_optimizer(text, CONSTANTS)
    live = UpdateNumbers(optimizer)
    assert dict(zip(optimizer.numbers, live.array, strict=True)) == numbers
    live.set_rate(0.3)
    live.set_step(7)
    changed = {"lr": 0.3, **({"step": 7} if "step" in numbers else {})}
    assert dict(zip(optimizer.numbers, live.array, strict=True)) == {**numbers, **changed}
    assert (live.rate, live.weight_decay) == (0.3, 0.01)


@pytest.mark.parametrize(
    ("formula", "name"),
    [
        ("s = beta2 * s + (1 - beta2) * (g + weight_decay * w) ** 2; "
         "w - lr * (g + weight_decay * w) / (sqrt(s) + epsilon)", "rmsprop"),
        ("m = beta1 * m + (1 - beta1) * g; s = beta2 * s + (1 - beta2) * g ** 2; w - lr * weight_decay * w - "
         "lr * m / (1 - beta1 ** step) / (sqrt(s / (1 - beta2 ** step)) + epsilon)", "adamw"),
    ],
)  # fmt: skip
def test_betas_and_epsilon_are_those_that_are_given(formula, name):
    ends = []
    for rule in (formula, name):
        optimizer = make_optimizer(rule, CONSTANTS)
        numbers = UpdateNumbers(optimizer)
        numbers.set_rate(0.1)
        spaces = [np.full(8, 0.5, np.float32), np.linspace(-1, 1, 8, dtype=np.float32)]
        states = {state: np.zeros(8, np.float32) for state in optimizer.states}
        update = optimizer.bind(*spaces, states, numbers.array)
        for step in range(1, 4):
            numbers.set_step(step)
            update()
        ends.append(spaces[0])
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "own"),
    [("sgd", ()), ("momentum", ("v",)), ("nesterov", ("v",)), ("adam", ()), ("v = 0.9 * v + g; w - lr * v", ())],
)
def test_velocities_are_the_workers_own(text, own):
    assert make_optimizer(text, CONSTANTS).own_states == own


@pytest.mark.parametrize("formula", ["w - lr * (g + weight_decay * w)", "v = momentum * v + g; w - lr * v - 0.1"])
def test_a_formula_takes_each_stretchs_rate_and_leaves_out_the_frozen(formula):
    """It says itself what is decayed: the shares of the weight decay do not count."""
    stretches = np.array([(4, 1.0, 0.0), (8, 1.0, 1.0), (10, 0.0, 1.0), (16, 0.25, 0.5)])
    optimizer = make_optimizer(formula, CONSTANTS)
    generator = np.random.default_rng(1)
    begun, g = generator.standard_normal((2, 16)).astype(np.float32)
    ends, states = [], []
    for rate, table in ((0.4, stretches), (0.4, None), (0.1, None)):
        numbers = UpdateNumbers(optimizer)
        numbers.set_rate(rate)
        ends.append(begun.copy())
        states.append({name: np.zeros(16, np.float32) for name in optimizer.states})
        optimizer.bind(ends[-1], g, states[-1], numbers.array, table)()
    np.testing.assert_array_equal(ends[0], np.concatenate([ends[1][:8], begun[8:10], ends[2][10:]]))
    for state in states[0].values():
        assert (state == 0).nonzero()[0].tolist() == [8, 9]
