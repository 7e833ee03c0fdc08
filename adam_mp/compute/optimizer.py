"""Optimizers: a frozen description of an update rule, which binds to one kernel over the flat space.

`kernels.update` has the built-in rules with their formulas. A user's own rule is a formula for the new `w` over `w`,
`g` and the numbers of `NAMES`; assignments before it make state tensors: `"v = 0.9 * v + g; w - lr * v"`. (The
optimizer Adam of Kingma and Ba has nothing to do with Project Adam.)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from adam_mp.compute import expression
from adam_mp.compute.shares import whole_stretch
from adam_mp.errors import SettingsError, shown
from adam_mp.kernels.update import ALWAYS, END, LR, RATE_SHARE, RULES, WEIGHT_DECAY
from adam_mp.proposals import nearest

CONSTANTS = ("weight_decay", "momentum", "beta1", "beta2", "epsilon")  # each is the setting of its name
NAMES = ("lr", *CONSTANTS, "step")

Update = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An update rule. `name` is the rule's name or formula; `states` names its state tensors, of the weights' size.

    `numbers` names the numbers that the kernel takes, in its order, learning rate and weight decay first. `constants`
    has the values of those that do not change during a run, but for `others`, which follows from the number of workers;
    `lr` and `step` are set before each update. `statements` are a formula's assignments, (target, formula), the last
    with target "w"; () for a named rule.
    """

    name: str
    states: tuple[str, ...]
    numbers: tuple[str, ...]
    constants: Mapping[str, float]
    statements: tuple[tuple[str, str], ...] = ()

    @property
    def own_states(self) -> tuple[str, ...]:
        """The states of which each worker of an asynchronous run has one of its own; all share those of a formula."""
        return () if self.statements else RULES[self.name].own

    @property
    def is_plain_descent(self) -> bool:
        """Whether an update is `w -= lr * (g + weight_decay * w)`, which a dense layer's backward pass can do."""
        return self.name == "sgd"

    def bind(
        self, weights: np.ndarray, gradient: np.ndarray, states: Mapping[str, np.ndarray], numbers: np.ndarray,
        stretches: np.ndarray | None = None,
    ) -> Update:  # fmt: skip
        """Return a function that updates `weights` and `states` in place; all arrays are flat float32 [n].

        Each call reads `numbers`, the float64 array of the rule's numbers; see `UpdateNumbers`. `stretches` is the
        table of shares, float64 [k, 3] (`compute.shares`); by default all weights take the whole rate and decay. A
        formula says itself what is decayed: `weight_decay` in it is the number that was given, for all weights.
        """
        if stretches is None:
            stretches = whole_stretch(weights.size)
        if self.statements:
            return _bind_formula(self, weights, gradient, states, numbers, stretches)
        rule = RULES[self.name]
        kept = [states[name] for name in self.states]
        return functools.partial(rule.kernel, weights, gradient, *kept, stretches, numbers, *rule.flags)


class UpdateNumbers:
    """The numbers of one process's updates: `array`, float64, in the order of the optimizer's `numbers`.

    Updates read the array each time. Learning rate and step are 0 until they are set. `workers` is how many have
    optimizer states of their own. Raises KeyError if the optimizer lacks a constant.
    """

    def __init__(self, optimizer: Optimizer, workers: int = 1) -> None:
        values = {"lr": 0.0, "step": 0.0, "others": 1 - 1 / workers, **optimizer.constants}
        self.array = np.array([values[name] for name in optimizer.numbers])
        self._step = optimizer.numbers.index("step") if "step" in optimizer.numbers else None

    @property
    def rate(self) -> float:
        """The learning rate."""
        return float(self.array[LR])

    @property
    def weight_decay(self) -> float:
        """The weight decay."""
        return float(self.array[WEIGHT_DECAY])

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next update."""
        self.array[LR] = rate

    def set_step(self, step: int) -> None:
        """Set the number of the run's next update, counted from 1."""
        if self._step is not None:
            self.array[self._step] = step


def make_optimizer(text: str, constants: Mapping[str, float]) -> Optimizer:
    """Return the optimizer with the name `text`, or the one that a formula such as `"w - lr * g"` describes.

    `constants` has the value of each name in `CONSTANTS` that the optimizer needs. Raises SettingsError if `text` is
    neither a known name nor a formula.
    """
    if text in RULES:
        rule = RULES[text]
        return Optimizer(text, rule.states, (*ALWAYS, *rule.numbers), dict(constants))
    if text.isidentifier():
        raise SettingsError(
            f"unknown optimizer {shown(text)}; {nearest(text, RULES)} (or give a formula for the new w)"
        )
    return _from_formula(text, constants)


def _from_formula(text: str, constants: Mapping[str, float]) -> Optimizer:
    *assignments, last = (part.strip() for part in text.strip().rstrip(";").split(";"))
    statements: list[tuple[str, str]] = []
    for part in assignments:
        name, equals, formula = part.partition("=")
        if not equals or not name.strip().isidentifier():
            raise SettingsError(
                f"--optimizer: {shown(part)} is not an assignment; expected for example 'v = 0.9 * v + g'"
            )
        statements.append((name.strip(), formula.strip()))
    states = tuple(dict.fromkeys(name for name, _ in statements))
    known = {"w", "g", *NAMES, *states}
    for name in states:
        if name in ("w", "g", *NAMES):
            raise SettingsError(f"--optimizer: {name!r} cannot be assigned; choose another name for the state")
    statements.append(("w", last))
    for _, formula in statements:
        expression.check_expression(formula, known, "--optimizer")
    if "w" not in expression.names_in(last):
        raise SettingsError(
            f"--optimizer: the new w, {shown(last)}, does not depend on w; expected for example 'w - lr * g'"
        )
    used = set().union(*(expression.names_in(formula) for _, formula in statements))
    numbers = (*ALWAYS, *(name for name in NAMES if name in used and name not in ALWAYS))
    optimizer = Optimizer(text, states, numbers, dict(constants), tuple(statements))
    _try_out(optimizer)
    return optimizer


def _try_out(optimizer: Optimizer) -> None:
    """Apply a formula to a few numbers, so that one that cannot be evaluated raises SettingsError before the run."""
    few = {name: np.full(4, 0.5, np.float32) for name in ("w", "g", *optimizer.states)}
    apply = optimizer.bind(few["w"], few["g"], few, np.full(len(optimizer.numbers), 0.5))
    try:  # numexpr raises all of these for formulas that it cannot evaluate
        apply()
    except (ArithmeticError, ValueError, TypeError, NotImplementedError, RuntimeError, KeyError) as error:
        raise SettingsError(f"--optimizer {shown(optimizer.name)} cannot be evaluated: {error}") from None


def _bind_formula(
    optimizer: Optimizer, weights: np.ndarray, gradient: np.ndarray, states: Mapping[str, np.ndarray],
    numbers: np.ndarray, stretches: np.ndarray,
) -> Update:  # fmt: skip
    arrays = {"w": weights, "g": gradient, **states}
    parts = [
        (share, {name: array[part] for name, array in arrays.items()}) for part, share in _parts_by_rate(stretches)
    ]

    def apply() -> None:
        values = dict(zip(optimizer.numbers, numbers.tolist(), strict=True))
        for share, those in parts:
            here = {**those, **values, "lr": values["lr"] * share}
            for target, formula in optimizer.statements:
                expression.evaluate_into(formula, here, those[target])

    return apply


def _parts_by_rate(stretches: np.ndarray) -> list[tuple[slice, float]]:
    """Return the parts of the flat space that differ in their share of the rate, without the frozen ones."""
    parts: list[tuple[slice, float]] = []
    begin = 0
    for end, share in stretches[:, [END, RATE_SHARE]].tolist():
        if parts and parts[-1][1] == share and parts[-1][0].stop == begin:
            parts[-1] = (slice(parts[-1][0].start, int(end)), share)
        elif share:
            parts.append((slice(begin, int(end)), share))
        begin = int(end)
    return parts
