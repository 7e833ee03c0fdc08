from __future__ import annotations

import numpy as np
import pytest

from adam_mp.compute.expression import check_expression, evaluate_into, evaluate_numbers, names_in
from adam_mp.compute.optimizer import BUILT_IN, make_optimizer
from adam_mp.errors import SettingsError
from adam_mp.kernels.update import HYPER


def apply(rule, steps=3):
    """Weights after some steps with gradients drawn from one seed, float32."""
    generator = np.random.default_rng(0)
    w, g = generator.standard_normal(40).astype(np.float32), np.zeros(40, np.float32)
    optimizer = make_optimizer(rule)
    hyper = np.array([{"lr": 0.1, "weight_decay": 0.01, "momentum": 0.9}.get(name, 0.0) for name in HYPER])
    update = optimizer.bind(w, g, {name: np.zeros(40, np.float32) for name in optimizer.states}, hyper)
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
        make_optimizer(text)


def test_numbers_and_names():
    check_expression("0.05 * 0.95 ** epoch", ["epoch"], "--lr")
    assert names_in("0.05 * sqrt(epoch) + step") == {"epoch", "step"}
    assert evaluate_numbers("0.05 * 0.95 ** epoch", {"epoch": 3}) == pytest.approx(0.05 * 0.95**3)
    assert evaluate_numbers("where(step < 10, step / 10, 1)", {"step": 5}) == 0.5
    assert evaluate_numbers("where(step < 10, step / 10, 1)", {"step": np.arange(9, 12)}).tolist() == [0.9, 1, 1]


def test_every_rule_lists_its_state():
    assert {name: rule.states for name, rule in BUILT_IN.items()} == {
        "sgd": (), "momentum": ("v",), "nesterov": ("v",), "adagrad": ("s",), "rmsprop": ("s",), "adam": ("m", "s"),
        "adamw": ("m", "s"),
    }  # fmt: skip
