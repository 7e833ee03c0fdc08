"""Formulas that users write: learning-rate schedules and update rules. They are checked, then evaluated by numexpr.

A formula is arithmetic on given names, with the functions in `_FUNCTIONS`. Anything else is refused; for an unknown
name the message suggests the nearest known one. Over float32 arrays, fractional numbers in a formula become float32
too: numexpr would otherwise compute in double.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from adam_mp.errors import SettingsError, shown
from adam_mp.proposals import nearest

_FUNCTIONS = frozenset(
    ("where", "sin", "cos", "tan", "arcsin", "arccos", "arctan", "arctan2", "sinh", "cosh", "tanh", "exp", "expm1",
     "log", "log10", "log1p", "sqrt", "abs", "floor", "ceil")
)  # fmt: skip
_LONGEST = 500
_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Constant, ast.Name, ast.Load, ast.Call, ast.Compare, ast.operator,
    ast.unaryop, ast.cmpop,
)  # fmt: skip


def check_expression(text: str, names: Iterable[str], what: str, functions: Iterable[str] = ()) -> None:
    """Raise SettingsError unless `text` is a formula over `names`; `what` names the setting in the message.

    `functions` are known beside those of every formula.
    """
    known, callable_ones = set(names), _FUNCTIONS.union(functions)
    if len(text) > _LONGEST:
        raise SettingsError(f"{what} is a formula of {len(text)} characters; expected at most {_LONGEST}")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise SettingsError(
            f"{what} {shown(text)} is not a formula; expected arithmetic on {', '.join(sorted(known))}"
        ) from None
    calls = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    for node in ast.walk(tree):
        if not isinstance(node, _NODES) or (isinstance(node, ast.Call) and node.func not in calls):
            raise SettingsError(f"{what} {shown(text)}: {type(node).__name__.lower()} is not allowed in a formula")
        if isinstance(node, ast.Constant) and (
            isinstance(node.value, bool) or not isinstance(node.value, (int, float))
        ):
            raise SettingsError(f"{what} {shown(text)}: {shown(node.value)} is not a number")
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and _is_huge_power(node):
            raise SettingsError(f"{what} {shown(text)}: {ast.unparse(node)} is too large a power")
        if isinstance(node, ast.Name):
            allowed = callable_ones if node in calls else known
            if node.id not in allowed:
                kind = "function" if node in calls else "name"
                raise SettingsError(
                    f"{what} {shown(text)}: unknown {kind} {shown(node.id)}; {nearest(node.id, allowed)}"
                )


def _is_huge_power(node: ast.BinOp) -> bool:
    """Return whether a power of numbers alone may be huge: Python would compute it exactly, which could take forever.

    An exponent of 16 at most is not huge.
    """
    if any(isinstance(part, ast.Name) for part in ast.walk(node)):
        return False
    return not (isinstance(node.right, ast.Constant) and abs(node.right.value) <= 16)  # type: ignore[arg-type]


def names_in(text: str) -> set[str]:
    """Return the names that a checked formula uses, without functions."""
    tree = ast.parse(text.strip(), mode="eval")
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - _FUNCTIONS


class _NumbersOut(ast.NodeTransformer):
    """Replaces each fractional number of a formula by a name; `values` has the numbers as float32, by these names."""

    def __init__(self) -> None:
        self.values: dict[str, np.ndarray] = {}

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if not isinstance(node.value, float):
            return node
        name = f"_number{len(self.values)}"
        self.values[name] = np.asarray(node.value, np.float32)
        return ast.Name(name, ast.Load())


@functools.lru_cache(maxsize=64)
def _prepare(text: str) -> tuple[str, dict[str, Any]]:
    numbers = _NumbersOut()
    return ast.unparse(numbers.visit(ast.parse(text.strip(), mode="eval"))), numbers.values


def evaluate_into(text: str, values: Mapping[str, Any], out: np.ndarray) -> None:
    """Evaluate a checked formula in float32 over arrays and numbers, into `out`, which may be one of the arrays."""
    prepared, numbers = _prepare(text)
    singles = {name: value if isinstance(value, np.ndarray) else np.float32(value) for name, value in values.items()}
    import numexpr  # here, because it loads slowly and few runs have a formula

    numexpr.evaluate(prepared, {**singles, **numbers}, {}, out=out, casting="unsafe")


def evaluate_numbers(text: str, values: Mapping[str, float | np.ndarray]) -> np.ndarray:
    """Evaluate a checked formula in double, over numbers and arrays of one shape; from numbers alone: an array []."""
    import numexpr

    doubles = {name: np.asarray(value, np.float64) for name, value in values.items()}
    return np.asarray(numexpr.evaluate(text.strip(), doubles, {}), np.float64)
