"""Vector instructions for kernels whose inner loops the compiler does not vectorise well by itself.

`Vectors` emits LLVM code on vectors of the machine's width: loads, stores and arithmetic. A mask leaves out the last
lanes: so 20 channels take two vectors of 16, not one vector and four single numbers. The width is that of the processor
for which numba compiles; numba's cache distinguishes processors and their features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba.core import cgutils
from numba.np.arrayobj import make_array

INDEX = ir.IntType(64)
_LANE = ir.IntType(32)


def _vector_bytes() -> int:
    # numba compiles for the features in NUMBA_CPU_FEATURES, which it reads on import; without them, for this machine.
    given: str | None = getattr(numba.config, "CPU_FEATURES")  # noqa: B009
    features = given if given is not None else llvmlite.binding.get_host_cpu_features().flatten()
    present = set(features.split(","))
    if given is None and not getattr(numba.config, "ENABLE_AVX"):  # noqa: B009
        present = {name for name in present if not name.startswith("+avx")}
    return 64 if "+avx512f" in present else 32 if "+avx" in present else 16


VECTOR_BYTES = _vector_bytes()


def integer(value: int) -> ir.Constant:
    """Return a constant index, a 64-bit integer."""
    return ir.Constant(INDEX, value)


def address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Return the address of the element `index` of a one-dimensional array."""
    return builder.gep(make_array(kind)(context, builder, array).data, [index])


def prefetch(builder: Any, pointer: Any, written: bool = False) -> None:
    """Emit a load of the cache line at an address, ahead of its use; nothing happens if the address is invalid."""
    place, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [place, number, number, number])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    how = (ir.Constant(number, value) for value in (int(written), 3, 1))  # for writing, to all caches, of data
    builder.call(function, [builder.bitcast(pointer, place), *how])


class Vectors:
    """Emits instructions on vectors of the type `real` (float or double), with `lanes` numbers each."""

    def __init__(self, builder: Any, real: ir.Type) -> None:
        self.builder, self.real = builder, real
        self.size = 4 if isinstance(real, ir.FloatType) else 8
        self.lanes = VECTOR_BYTES // self.size
        self.type = ir.VectorType(real, self.lanes)
        self.zeros = self.constant(0.0)

    def constant(self, value: float) -> ir.Constant:
        """Return a vector with the same constant in all lanes."""
        return ir.Constant(self.type, [value] * self.lanes)

    def splat(self, value: Any) -> Any:
        """Return a vector with the same value in all lanes."""
        kind = ir.VectorType(value.type, self.lanes)
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_LANE, 0))
        order = ir.Constant(ir.VectorType(_LANE, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, first, order)

    def first_lanes(self, count: Any) -> Any:
        """Return the mask of the first `count` lanes; of all lanes if `count` is larger."""
        numbers = ir.VectorType(_LANE, self.lanes)
        lane = ir.Constant(numbers, list(range(self.lanes)))
        return self.builder.icmp_signed("<", lane, self.splat(self.builder.trunc(count, _LANE)))

    def load(self, pointer: Any, mask: Any = None) -> Any:
        """Read a vector from `pointer` on; lanes that `mask` leaves out become 0, and their memory is not read."""
        element = pointer.type.pointee
        kind = ir.VectorType(element, self.lanes)
        place = self.builder.bitcast(pointer, kind.as_pointer())
        size = element.width // 8 if isinstance(element, ir.IntType) else self.size
        if mask is None:
            return self.builder.load(place, align=size)
        signature = ir.FunctionType(kind, [place.type, _LANE, mask.type, kind])
        function = self._intrinsic("masked.load", element, signature)
        nothing = ir.Constant(kind, [0 if isinstance(element, ir.IntType) else 0.0] * self.lanes)
        return self.builder.call(function, [place, ir.Constant(_LANE, size), mask, nothing])

    def store(self, value: Any, pointer: Any, mask: Any = None) -> None:
        """Write a vector from `pointer` on; lanes that `mask` leaves out are not written."""
        element = pointer.type.pointee
        place = self.builder.bitcast(pointer, value.type.as_pointer())
        size = element.width // 8 if isinstance(element, ir.IntType) else self.size
        if mask is None:
            self.builder.store(value, place, align=size)
            return
        signature = ir.FunctionType(ir.VoidType(), [value.type, place.type, _LANE, mask.type])
        function = self._intrinsic("masked.store", element, signature)
        self.builder.call(function, [value, place, ir.Constant(_LANE, size), mask])

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """Return `a * b + c`, in one instruction if the processor has one."""
        function = self._intrinsic("fmuladd", self.real, ir.FunctionType(self.type, [self.type] * 3), memory=False)
        return self.builder.call(function, [a, b, c])

    def sum_lanes(self, value: Any) -> Any:
        """Return the sum of all lanes, added in any order."""
        signature = ir.FunctionType(self.real, [self.real, self.type])
        function = self._intrinsic("vector.reduce.fadd", self.real, signature, memory=False)
        return self.builder.call(function, [ir.Constant(self.real, -0.0), value], fastmath=("reassoc",))

    def masks(self, count: Any) -> Iterator[Any]:
        """Emit the caller's code for a vector of `count` numbers twice: for a whole one (None), and masked."""
        with self.builder.if_else(self.builder.icmp_signed(">=", count, integer(self.lanes))) as (whole, partial):
            with whole:
                yield None
            with partial:
                yield self.first_lanes(count)

    def vectors_of(self, count: Any) -> Iterator[tuple[Any, Any]]:
        """Emit a loop over `count` numbers; the caller emits its body twice, for whole vectors and for the masked rest.

        Yields (index of the first lane, mask), with None as the mask of whole vectors.
        """
        builder = self.builder
        lanes = integer(self.lanes)
        with cgutils.for_range(builder, builder.udiv(count, lanes)) as loop:
            yield builder.mul(loop.index, lanes), None
        rest = builder.urem(count, lanes)
        with builder.if_then(builder.icmp_signed("!=", rest, integer(0))):
            yield builder.sub(count, rest), self.first_lanes(rest)

    def _intrinsic(self, name: str, element: ir.Type, signature: ir.FunctionType, memory: bool = True) -> Any:
        letter, bits = ("i", element.width) if isinstance(element, ir.IntType) else ("f", 8 * self.size)
        suffix = f"v{self.lanes}{letter}{bits}" + (".p0" if memory else "")
        return cgutils.get_or_insert_function(self.builder.module, signature, f"llvm.{name}.{suffix}")
