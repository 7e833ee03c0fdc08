"""Atomic operations on int64 words that several processes share.

numba has none for CPUs, so these kernels emit the processor's own instructions. If a process reads a new value with
`observe`, it also sees everything that the writer wrote before it called `publish`. The slots of a ring depend on this.
It holds on every processor, also on those that reorder stores.

A `publish` may become visible to others after later loads of its own process: the processor may hold the store back, on
x86 too. So if two processes each `publish` a word and then `observe` the other's, both may see the old value. All other
operations here have one order that all processes see. So if two processes each `exchange` a word and then `observe` the
other's, at least one of them sees the new value.
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
    """Return `words[index]`; this process then sees all that the writer wrote before it published that value."""
    return _load(words, index)


@kernel("void(i8[::1], i8[::1])")
def observe_all(words, out):
    """Load all `words` into `out` in order: each word is loaded after those before it, so it is no older than they."""
    for index in range(words.size):
        out[index] = _load(words, index)


@kernel("void(i8[::1], i8, i8)")
def publish(words, index, value):
    """Store `value` in `words[index]` after all earlier writes of this process."""
    _store(words, index, value)


@kernel("i8(i8[::1], i8, i8)")
def exchange(words, index, value):
    """Store `value` in `words[index]`, before all later loads of this process; return the word's former value."""
    return _exchange(words, index, value)


@kernel("i8(i8[::1], i8, i8)")
def fetch_add(words, index, amount):
    """Add `amount` to `words[index]`; return the word's former value."""
    return _add(words, index, amount)


@kernel("b1(i8[::1], i8, i8, i8)")
def compare_and_swap(words, index, expected, value):
    """Store `value` in `words[index]` if the word is `expected`; return whether it was."""
    return _swap(words, index, expected, value)


@kernel("i8(i8[::1], i8, i8, i8)")
def claim_first(words, start, expected, value):
    """Replace the first word from `start` on that is `expected` by `value`; return its index, -1 if there is none."""
    for index in range(start, words.size):
        if words[index] == expected and _swap(words, index, expected, value):
            return index
    return -1


@kernel("i8(i8[::1], i8[::1], i8, i8)")
def claim_listed(words, indices, expected, value):
    """Replace the first of the words at `indices` that is `expected` by `value`; return its index, -1 if none is."""
    for position in range(indices.size):
        index = indices[position]
        if words[index] == expected and _swap(words, index, expected, value):
            return index
    return -1


@kernel("i8(i8[::1], i8, i8)")
def replace_all(words, expected, value):
    """Replace every word that is `expected` by `value`; return how many there were."""
    count = 0
    for index in range(words.size):
        if words[index] == expected and _swap(words, index, expected, value):
            count += 1
    return count
