"""Shapes of learning-rate schedules by name, for formulas: `0.1 * cosine`, `0.4 * triangle(0.2)`.

A shape stands for a formula over the names of `schedule.NAMES`. It is 1 where the rate is highest.
"""

from __future__ import annotations

import ast
import functools
import math
from typing import NamedTuple

from adam_mp.compute.expression import check_expression
from adam_mp.errors import SettingsError, several, shown


class Shape(NamedTuple):
    """A shape: its formula, its parameters with the number that each must be below, and what it is, for the help."""

    formula: str
    parameters: dict[str, float]
    meaning: str


SHAPES = {
    # Loshchilov and Hutter 2017, SGDR, equation 5, without restarts.
    "cosine": Shape(f"0.5 * (1 + cos({math.pi} * progress))", {}, "from 1 to 0 along half a cosine"),
    # One triangle of Smith 2017, over the whole run.
    "triangle": Shape(
        "where(progress < peak, progress / peak, (1 - progress) / (1 - peak))", {"peak": 1.0},
        "from 0 to 1, reached when progress is peak, and back to 0",
    ),
    # Smith and Topin 2019; with cosines, and from a 25th, as PyTorch's OneCycleLR has it.
    "one_cycle": Shape(
        f"where(progress < peak, 1 - 0.48 * (1 + cos({math.pi} * progress / peak)), "
        f"0.5 * (1 + cos({math.pi} * (progress - peak) / (1 - peak))))", {"peak": 1.0},
        "the same along cosines, from 0.04",
    ),
    # He et al. 2016, section 3.4: a tenth of the rate at a time.
    "steps": Shape(
        "by ** floor(epoch / every)", {"every": math.inf, "by": 1.0}, "times by after each so many epochs"
    ),
}  # fmt: skip


def check_rate(text: str, names: tuple[str, ...], what: str) -> None:
    """Raise SettingsError unless `text` is a formula over `names` and shapes; `what` names the setting."""
    plain = [name for name, shape in SHAPES.items() if not shape.parameters]
    called = [name for name, shape in SHAPES.items() if shape.parameters]
    check_expression(text, [*names, *plain], what, called)
    for node in ast.walk(ast.parse(text.strip(), mode="eval")):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SHAPES:
            _check_call(node, node.func.id, f"{what} {shown(text)}")


def _check_call(node: ast.Call, name: str, what: str) -> None:
    parameters = SHAPES[name].parameters
    if len(node.args) != len(parameters):
        raise SettingsError(
            f"{what}: {name} has {several(len(node.args), 'number')}; expected {name}({', '.join(parameters)})"
        )
    for argument, (parameter, most) in zip(node.args, parameters.items(), strict=True):
        number = argument.value if isinstance(argument, ast.Constant) else None
        if not isinstance(number, (int, float)) or not 0 < number < most:
            below = "" if most == math.inf else f" and below {most:g}"
            raise SettingsError(
                f"{what}: {parameter} of {name} is {ast.unparse(argument)}; expected a number above 0{below}"
            )


@functools.lru_cache(maxsize=64)
def without_shapes(text: str) -> str:
    """Return a checked formula with the formulas of shapes in place of their names."""
    return ast.unparse(_Shapes().visit(ast.parse(text.strip(), mode="eval")))


class _Shapes(ast.NodeTransformer):
    """Replaces shapes by their formulas."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return _formula(node.id, []) if node.id in SHAPES else node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        assert isinstance(node.func, ast.Name), "check_expression refuses other calls"
        if node.func.id in SHAPES:
            return _formula(node.func.id, node.args)
        return ast.Call(node.func, [self.visit(each) for each in node.args], [])


def _formula(name: str, arguments: list[ast.expr]) -> ast.expr:
    shape = SHAPES[name]
    given = dict(zip(shape.parameters, arguments, strict=True))

    class Put(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return given.get(node.id, node)

    formula: ast.expr = Put().visit(ast.parse(shape.formula, mode="eval")).body
    return formula
