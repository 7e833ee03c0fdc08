"""How long the values of a network and their errors are needed, and where in one memory they lie.

A program runs in this order; each operation's turn is a time:

    forward, image part    for each block of images, all operations before the flat tail
    forward, tail          the flat operations behind them, on the whole batch
    loss
    backward, tail
    backward, image part   for each block of images

A value lives from the operation that computes it to the last one that reads it. In the image part, a value that the
backward pass reads again, or the tail reads, has room for the whole batch, and lives as long as any block runs; every
other value, and the error of each, has room for a block. Buffers that live at the same time lie side by side; others
share memory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from adam_mp.compute.fusion import Group
from adam_mp.network.graph import INPUT
from adam_mp.network.layer import Shape
from adam_mp.network.layers import Flatten

_CACHE_LINE = 64


class Reads(NamedTuple):
    """What a group's operation reads in the backward pass, inputs and output, and how it writes errors of inputs.

    `after` says that the caller reads inputs and the output's error after the program, if the group runs on a whole
    batch. `adds` says that the operation can add to an input's error what other readers of the input have written.
    """

    inputs: bool
    output: bool
    after: bool = False
    adds: bool = False


class Place(NamedTuple):
    """What a buffer is for: "value" or "error" of `name`, or "extra": an error of it that `reader` has yet to add."""

    purpose: str
    name: str
    reader: str = ""


@dataclasses.dataclass(frozen=True)
class Buffer:
    """Room for values of `shape` for a block of images, or with `whole` for a batch, from time `first` to `last`."""

    place: Place
    shape: Shape
    whole: bool
    first: int
    last: int

    def numbers(self, batch: int, block: int) -> int:
        """Return how many numbers the buffer has."""
        return (batch if self.whole else block) * math.prod(self.shape)


class Bound(NamedTuple):
    """A group that an operation computes, and what that operation reads."""

    group: Group
    reads: Reads


class Times:
    """The time of each group's turn in the program, by the group's name."""

    def __init__(self, bound: Sequence[Bound]) -> None:
        ordered = sorted((group for group, _ in bound), key=lambda group: group.whole)
        self.forward = {group.name: time for time, group in enumerate(ordered)}
        self.loss = len(ordered)
        self.backward = {name: 2 * self.loss - time for name, time in self.forward.items()}
        self.end = 2 * self.loss + 1  # the program is over


def flat_roots(groups: Sequence[Group]) -> dict[str, str]:
    """Return name of a value -> name of the value whose memory it is: another one only if it is flattened."""
    roots = {INPUT: INPUT}
    for group in groups:
        flattens = isinstance(group.layers[0], Flatten)
        roots[group.output] = roots[group.inputs[0]] if flattens else group.output
    return roots


def first_writers(bound: Sequence[Bound], roots: Mapping[str, str]) -> set[tuple[str, int]]:
    """Return (group's name, number of the input) of those which write their input's error before all others.

    They overwrite it; what others write is added.
    """
    times = Times(bound)
    found: dict[str, tuple[str, int]] = {}
    for group, _ in sorted(bound, key=lambda each: times.backward[each.group.name]):
        for number, name in enumerate(group.inputs):
            found.setdefault(roots[name], (group.name, number))
    return set(found.values())


def plan_buffers(bound: Sequence[Bound], roots: Mapping[str, str], scores: str, backward: bool) -> list[Buffer]:
    """Return the buffers that the operations need. `scores` is the value that the loss reads.

    Without `backward` no program has a backward pass.
    """
    times, firsts, buffers = Times(bound), first_writers(bound, roots), []
    for maker in bound:
        name = maker.group.output
        readers = [each for each in bound if name in (roots[read] for read in each.group.inputs)]
        use = _Use(maker, readers, roots[scores] == name, times)
        buffers.append(use.value(backward))
        if not backward or not maker.group.trains:
            continue
        buffers.append(use.error())
        for group, reads in readers:
            for number, read in enumerate(group.inputs):
                if roots[read] == name and (group.name, number) not in firsts and not reads.adds:
                    turn = times.backward[group.name]
                    buffers.append(
                        Buffer(Place("extra", name, group.name), maker.group.output_shape, group.whole, turn, turn)
                    )
    return buffers


@dataclasses.dataclass(frozen=True)
class _Use:
    """Who makes a value and who reads it."""

    maker: Bound
    readers: Sequence[Bound]
    is_scores: bool
    times: Times

    @property
    def _crosses(self) -> bool:
        """Whether the tail or the loss reads the value."""
        return self.is_scores or any(group.whole for group, _ in self.readers)

    def value(self, backward: bool) -> Buffer:
        """Return the buffer of the value itself."""
        group, times = self.maker.group, self.times
        again = [self.maker.group] if self.maker.reads.output else []
        again = [each for each in (*again, *(r.group for r in self.readers if r.reads.inputs)) if each.trains]
        turns = [times.forward[each.group.name] for each in (self.maker, *self.readers)]
        if backward:
            turns += [times.backward[each.name] for each in again]
        first, last = turns[0], max(turns)
        if self.is_scores or any(each.reads.after and each.group.whole for each in self.readers):
            last = times.end
        whole = group.whole or self._crosses or (backward and bool(again))
        if whole and not group.whole:
            first = 0  # when the first block has its turn, the others have theirs to come
            if backward and not all(each.whole for each in again):
                last = times.end
        return Buffer(Place("value", group.output), group.output_shape, whole, first, last)

    def error(self) -> Buffer:
        """Return the buffer of the value's error."""
        group, times = self.maker.group, self.times
        writers = [times.loss] if self.is_scores else []
        writers += [times.backward[each.group.name] for each in self.readers]
        last = times.backward[group.name]
        if (self._crosses and not group.whole) or (self.maker.reads.after and group.whole):
            last = times.end
        whole = group.whole or self._crosses
        return Buffer(Place("error", group.output), group.output_shape, whole, min(writers), last)


def arrange(buffers: Sequence[Buffer], batch: int, block: int, item: int) -> tuple[list[int], int]:
    """Return the offset of each buffer in one memory, in numbers of `item` bytes, and how many numbers that has.

    Buffers that live at the same time do not overlap. Each begins at a cache line. The largest are placed first, each
    at the lowest offset where it fits.
    """
    line = _CACHE_LINE // item
    sizes = [-(-buffer.numbers(batch, block) // line) * line for buffer in buffers]
    offsets, total = [0] * len(buffers), 0
    placed: list[int] = []
    for number in sorted(range(len(buffers)), key=lambda number: (-sizes[number], number)):
        own, offset = buffers[number], 0
        beside = [each for each in placed if buffers[each].first <= own.last and own.first <= buffers[each].last]
        for each in sorted(beside, key=offsets.__getitem__):
            if offset + sizes[number] <= offsets[each]:
                break
            offset = max(offset, offsets[each] + sizes[each])
        offsets[number] = offset
        placed.append(number)
        total = max(total, offset + sizes[number])
    return offsets, total
