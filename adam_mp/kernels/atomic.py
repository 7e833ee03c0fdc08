"""Atomic operations on int64 words that several processes share.

numba has none for CPUs, so these emit the processor's own instructions. A `publish` makes everything written before it
visible to whoever reads the new value with `observe`; this is what orders the slots of a ring on every processor,
not only on those that keep stores in order by themselves.

A `publish` may become visible after later loads of its process: the processor keeps the store back meanwhile, on x86
too. So two processes that each publish a word and then look at the other's may both see the old one. Exchanges, swaps,
additions and loads have one order for all: of two processes that each `exchange` a word and then look at the other's,
one at least sees what the other did.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from adam_mp.kernels.compilation import kernel

_WORD = ir.IntType(64)


def _address(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    data = make_array(signature.args[0])(context, builder, arguments[0]).data
    return builder.gep(data, [arguments[1]])


@intrinsic
def _load(_typing: Any, words: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _address(context, builder, signature, arguments)
        return builder.load_atomic(pointer, "seq_cst", 8)

    return types.int64(words, types.int64), generate


@intrinsic
def _store(_typing: Any, words: Any, index: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[2], _address(context, builder, signature, arguments), "release", 8)
        return context.get_dummy_value()

    return types.void(words, types.int64, types.int64), generate


@intrinsic
def _exchange(_typing: Any, words: Any, index: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("xchg", _address(context, builder, signature, arguments), arguments[2], "seq_cst")

    return types.int64(words, types.int64, types.int64), generate


@intrinsic
def _add(_typing: Any, words: Any, index: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", _address(context, builder, signature, arguments), arguments[2], "seq_cst")

    return types.int64(words, types.int64, types.int64), generate


@intrinsic
def _swap(_typing: Any, words: Any, index: Any, expected: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _address(context, builder, signature, arguments)
        outcome = builder.cmpxchg(pointer, arguments[2], arguments[3], "seq_cst", "seq_cst")
        return builder.extract_value(outcome, 1)

    return types.boolean(words, types.int64, types.int64, types.int64), generate


@kernel("i8(i8[::1], i8)")
def observe(words, index):
    """Return `words[index]`, and see all that was written before it was published."""
    return _load(words, index)


@kernel("void(i8[::1], i8[::1])")
def observe_all(words, out):
    """Load all `words` into `out`, one after the other: each word is no older than those before it."""
    for index in range(words.size):
        out[index] = _load(words, index)


@kernel("void(i8[::1], i8, i8)")
def publish(words, index, value):
    """Store `value` in `words[index]` after all earlier writes of this process."""
    _store(words, index, value)


@kernel("i8(i8[::1], i8, i8)")
def exchange(words, index, value):
    """Store `value` in `words[index]` before all later loads of this process; return what it held before."""
    return _exchange(words, index, value)


@kernel("i8(i8[::1], i8, i8)")
def fetch_add(words, index, amount):
    """Add `amount` to `words[index]` and return what it held before."""
    return _add(words, index, amount)


@kernel("b1(i8[::1], i8, i8, i8)")
def compare_and_swap(words, index, expected, value):
    """Store `value` in `words[index]` if it holds `expected`; tell whether it did."""
    return _swap(words, index, expected, value)


@kernel("i8(i8[::1], i8, i8, i8)")
def claim_first(words, start, expected, value):
    """Swap the first word from `start` on that holds `expected` for `value`; return its index, or -1."""
    for index in range(start, words.size):
        if words[index] == expected and _swap(words, index, expected, value):
            return index
    return -1


@kernel("i8(i8[::1], i8[:], i8, i8)")
def claim_listed(words, indices, expected, value):
    """Swap the first of the words at `indices` that holds `expected` for `value`; return its index, or -1."""
    for position in range(indices.size):
        index = indices[position]
        if words[index] == expected and _swap(words, index, expected, value):
            return index
    return -1


@kernel("i8(i8[::1], i8, i8)")
def replace_all(words, expected, value):
    """Swap every word that holds `expected` for `value`; return how many."""
    count = 0
    for index in range(words.size):
        if words[index] == expected and _swap(words, index, expected, value):
            count += 1
    return count
