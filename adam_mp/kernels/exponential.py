"""exp and erf that the compiler can put on vectors: calls of the C library's functions would hold each loop up.

In float32 they are polynomials, exact to some units in the last place; in float64, which only gradient checks use, they
are the C library's.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_LEAST, _MOST = -87.3365, 88.3763  # exp of less is no normal float32, exp of more is infinite soon
_LOG2_E = 1.44269504
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # their sum is ln 2
# exp(r) = 1 + r + r ** 2 * p(r) for |r| <= ln(2) / 2, highest power first (Cephes, expf).
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
# erf(x) = 1 - t * p(t) * exp(-x ** 2) for x >= 0, t = 1 / (1 + s * x), highest power first (Abramowitz and Stegun
# 1964, 7.1.26); the largest error is 1.5e-7.
_ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
_ERF_SCALE = 0.3275911


class _Scalars:
    """Emits instructions on single numbers, which the compiler later puts on vectors."""

    def __init__(self, builder: Any) -> None:
        self.builder, self.real = builder, ir.FloatType()

    def number(self, value: float) -> ir.Constant:
        return ir.Constant(self.real, value)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        return self.builder.fma(a, b, c)

    def polynomial(self, x: Any, factors: tuple[float, ...]) -> Any:
        """Return the value at `x` of the polynomial with these factors, highest power first."""
        value = self.number(factors[0])
        for factor in factors[1:]:
            value = self.multiply_add(value, x, self.number(factor))
        return value

    def exponential(self, x: Any) -> Any:
        """Return exp(x); NaN stays NaN."""
        builder = self.builder
        low = builder.select(builder.fcmp_ordered("<", x, self.number(_LEAST)), self.number(_LEAST), x)
        near = builder.select(builder.fcmp_ordered(">", low, self.number(_MOST)), self.number(_MOST), low)
        floor = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(self.real, [self.real]), "llvm.floor.f32"
        )
        power = builder.call(floor, [self.multiply_add(near, self.number(_LOG2_E), self.number(0.5))])
        rest = self.multiply_add(power, self.number(-_LN2_HIGH), near)
        rest = self.multiply_add(power, self.number(-_LN2_LOW), rest)
        square = builder.fmul(rest, rest)
        value = builder.fadd(self.multiply_add(self.polynomial(rest, _EXP), square, rest), self.number(1.0))
        bits = builder.shl(builder.add(builder.fptosi(power, ir.IntType(32)), ir.Constant(ir.IntType(32), 127)),
                           ir.Constant(ir.IntType(32), 23))  # fmt: skip
        value = builder.fmul(value, builder.bitcast(bits, self.real))
        return builder.select(builder.fcmp_unordered("uno", x, x), x, value)

    def error_function(self, x: Any) -> Any:
        """Return erf(x); NaN stays NaN."""
        builder = self.builder
        negative = builder.fcmp_ordered("<", x, self.number(0.0))
        size = builder.select(negative, builder.fneg(x), x)
        t = builder.fdiv(self.number(1.0), self.multiply_add(size, self.number(_ERF_SCALE), self.number(1.0)))
        tail = builder.fmul(builder.fmul(self.polynomial(t, _ERF), t),
                            self.exponential(builder.fneg(builder.fmul(size, size))))  # fmt: skip
        value = builder.fsub(self.number(1.0), tail)
        return builder.select(negative, builder.fneg(value), value)


def _library(builder: Any, name: str, x: Any) -> Any:
    double = ir.DoubleType()
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(double, [double]), name)
    return builder.call(function, [x])


@intrinsic
def exponential(_typing: Any, x: Any) -> Any:
    """Return exp(x) of a float32 or float64."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        if x == types.float32:
            return _Scalars(builder).exponential(arguments[0])
        return _library(builder, "exp", arguments[0])

    return x(x), generate


@intrinsic
def error_function(_typing: Any, x: Any) -> Any:
    """Return erf(x) of a float32 or float64."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        if x == types.float32:
            return _Scalars(builder).error_function(arguments[0])
        return _library(builder, "erf", arguments[0])

    return x(x), generate
