"""Optimizers: a frozen description, the names of its state tensors, and one kernel over the flat space.

The formulas stand with the kernels in `kernels.update`. A user's own rule is a formula over `w`, `g` and the numbers
of `HYPER`, with state tensors by assignment: `"v = 0.9 * v + g; w - lr * v"`. The same object serves every process
that owns a store. (The optimizer Adam of Kingma and Ba has nothing to do with Project Adam.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from adam_mp.compute import expression
from adam_mp.errors import SettingsError, nearest
from adam_mp.kernels import update
from adam_mp.kernels.update import HYPER

DEFAULTS = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}

Update = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An update rule: its name or formula, and the state tensors it keeps, one number a weight each."""

    name: str
    states: tuple[str, ...]
    statements: tuple[tuple[str, str], ...] = ()

    @property
    def is_plain_descent(self) -> bool:
        """Whether an update is `w -= lr * (g + weight_decay * w)`, which a dense layer can do by itself."""
        return self.name == "sgd"

    def bind(
        self, weights: np.ndarray, gradient: np.ndarray, states: Mapping[str, np.ndarray], hyper: np.ndarray
    ) -> Update:
        """Return the function that updates `weights` in place; all arrays flat, of one size.

        `hyper` is the live float64 array of the numbers named in `HYPER`.
        """
        if self.statements:
            return _bind_formula(self.statements, weights, gradient, states, hyper)
        kept = [states[name] for name in self.states]
        if self.name in ("adam", "adamw"):
            return lambda: update.adam(weights, gradient, *kept, hyper, self.name == "adamw")
        kernel = getattr(update, self.name)
        return lambda: kernel(weights, gradient, *kept, hyper)


BUILT_IN = {
    "sgd": Optimizer("sgd", ()),
    "momentum": Optimizer("momentum", ("v",)),
    "nesterov": Optimizer("nesterov", ("v",)),
    "adagrad": Optimizer("adagrad", ("s",)),
    "rmsprop": Optimizer("rmsprop", ("s",)),
    "adam": Optimizer("adam", ("m", "s")),
    "adamw": Optimizer("adamw", ("m", "s")),
}


def make_optimizer(text: str) -> Optimizer:
    """Return the optimizer of that name, or the one that a formula such as `"w - lr * g"` describes."""
    if text in BUILT_IN:
        return BUILT_IN[text]
    if text.isidentifier():
        raise SettingsError(f"unknown optimizer {text!r}; {nearest(text, BUILT_IN)} (or give a formula for the new w)")
    *assignments, last = (part.strip() for part in text.strip().rstrip(";").split(";"))
    statements: list[tuple[str, str]] = []
    for part in assignments:
        name, equals, formula = part.partition("=")
        if not equals or not name.strip().isidentifier():
            raise SettingsError(f"--optimizer: {part!r} is not an assignment; expected for example 'v = 0.9 * v + g'")
        statements.append((name.strip(), formula.strip()))
    states = tuple(dict.fromkeys(name for name, _ in statements))
    known = {"w", "g", *HYPER, *states}
    for name in states:
        if name in ("w", "g", *HYPER):
            raise SettingsError(f"--optimizer: {name!r} cannot be assigned; choose another name for the state")
    statements.append(("w", last))
    for _, formula in statements:
        expression.check_expression(formula, known, "--optimizer")
    if "w" not in expression.names_in(last):
        raise SettingsError(
            f"--optimizer: the new w, {last!r}, does not depend on w; expected for example 'w - lr * g'"
        )
    optimizer = Optimizer(text, states, tuple(statements))
    _try_out(optimizer)
    return optimizer


def _try_out(optimizer: Optimizer) -> None:
    """Apply a formula to a few numbers, so that what it cannot do is said before the run."""
    few = {name: np.full(4, 0.5, np.float32) for name in ("w", "g", *optimizer.states)}
    hyper = np.full(len(HYPER), 0.5)
    try:
        optimizer.bind(few["w"], few["g"], few, hyper)()
    except (ArithmeticError, ValueError, TypeError, NotImplementedError, RuntimeError, KeyError) as error:
        raise SettingsError(f"--optimizer {optimizer.name!r} cannot be evaluated: {error}") from None


def _bind_formula(
    statements: Sequence[tuple[str, str]], weights: np.ndarray, gradient: np.ndarray,
    states: Mapping[str, np.ndarray], hyper: np.ndarray,
) -> Update:  # fmt: skip
    arrays = {"w": weights, "g": gradient, **states}

    def apply() -> None:
        values = {**arrays, **dict(zip(HYPER, hyper.tolist(), strict=True))}
        for target, formula in statements:
            expression.evaluate_into(formula, values, arrays[target])

    return apply
