"""How long the values of a network and their errors are needed, and where in one memory they lie.

A program runs in this order; each operation's turn is a time:

    forward, image part    in stages; each for all blocks of images
    forward, tail          the flat operations behind them, on the whole batch
    loss
    backward, tail
    backward, image part   in the same stages, the last first; each for all blocks of images

A value lives from the operation that computes it to the last one that reads it. If it is written and read within one
stage, it has room for a block. If a later stage, the tail or the backward pass reads it, it has room for the batch, and
lives from the beginning of the stage that writes it to the end of the last one that reads it. The same holds for
errors. Buffers that live at the same time lie side by side; others share memory.

What is little more than a copy of other values is *remade*: it has room for a block, and each block of the backward
pass that reads it makes it again. Then what it is made of lives until that.
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
    `remade` says that the output may be made again in the backward pass. If the early turn keeps so many numbers of an
    image's error for the late one (`keeps`), only the early turn reads the error itself.
    """

    inputs: bool
    output: bool
    after: bool = False
    adds: bool = False
    remade: bool = False
    keeps: int | None = None


class Place(NamedTuple):
    """What a buffer is for: "value" or "error" of `name`.

    "extra" is an error of it that `reader` has yet to add, "kept" what its maker keeps of its error between two turns.
    """

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

    def array_shape(self, batch: int, block: int) -> tuple[int, ...]:
        """Return the shape of its array, [images, *shape]."""
        return (batch if self.whole else block, *self.shape)

    def numbers(self, batch: int, block: int) -> int:
        """Return how many numbers the buffer has."""
        return math.prod(self.array_shape(batch, block))


class Bound(NamedTuple):
    """A group that an operation computes, and what that operation reads."""

    group: Group
    reads: Reads


class Turn(NamedTuple):
    """When a group runs. A batchwise one has two turns: it takes statistics in the `early`, writes its output late."""

    stage: int
    number: int
    early: bool
    group: Group


def turns_of(groups: Sequence[Group]) -> list[Turn]:
    """Return the turns of all groups in the forward pass, in their order; the backward pass has the reverse."""
    turns = []
    for number, group in enumerate(groups):
        turns.append(Turn(group.stage, number, group.batchwise, group))
        if group.batchwise:
            turns.append(Turn(group.stage + 1, number, False, group))
    return sorted(turns, key=lambda turn: turn[:2])


class Times:
    """The time of each turn in the program. A group's `early` turn reads its inputs, its `late` one writes its output.

    Only a batchwise group's turns are different ones; then both read the inputs.
    """

    def __init__(self, bound: Sequence[Bound]) -> None:
        turns = turns_of([group for group, _ in bound])
        self.loss = len(turns)
        self.end = 2 * self.loss + 1  # the program is over
        self.early: dict[str, int] = {}
        self.late: dict[str, int] = {}
        bounds: dict[int, list[int]] = {}  # stage of the image part: its times
        for time, turn in enumerate(turns):
            self.early.setdefault(turn.group.name, time)
            self.late[turn.group.name] = time
            if not turn.group.whole:
                bounds.setdefault(turn.stage, []).append(time)
        self._sweeps = {time: (times[0], times[-1]) for times in bounds.values() for time in times}
        self._sweeps.update(
            {2 * self.loss - time: (2 * self.loss - last, 2 * self.loss - first)
             for time, (first, last) in self._sweeps.items()}
        )  # fmt: skip

    def back(self, time: int) -> int:
        """Return the time in the backward pass of a turn that has `time` in the forward pass."""
        return 2 * self.loss - time

    def sweep(self, time: int) -> tuple[int, int]:
        """Return the first and last time of what runs for all blocks before anything else does: a stage, or a turn."""
        return self._sweeps.get(time, (time, time))


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
    for group, _ in sorted(bound, key=lambda each: times.back(times.early[each.group.name])):
        for number, name in enumerate(group.inputs):
            found.setdefault(roots[name], (group.name, number))
    return set(found.values())


def plan_buffers(bound: Sequence[Bound], roots: Mapping[str, str], scores: str, backward: bool) -> list[Buffer]:
    """Return the buffers that the operations need. `scores` is the value that the loss reads.

    Without `backward` no program has a backward pass.
    """
    times, firsts, buffers = Times(bound), first_writers(bound, roots), []
    again = remade_values(bound, roots, scores)
    for maker in bound:
        name = maker.group.output
        readers = _readers(bound, roots, name)
        # What a remade value is made of is read again by the readers of that value.
        behind = [each for reader in readers if reader.group.output in again
                  for each in _readers(bound, roots, reader.group.output) if each.reads.inputs]  # fmt: skip
        use = _Use(maker, readers, roots[scores] == name, times, name in again, behind)
        buffers.append(use.value(backward))
        if not backward or not maker.group.trains:
            continue
        buffers.append(use.error())
        if maker.reads.keeps is not None:
            buffers.append(use.kept(maker.reads.keeps))
        for group, reads in readers:
            for number, read in enumerate(group.inputs):
                if roots[read] == name and (group.name, number) not in firsts and not reads.adds:
                    turn = times.back(times.early[group.name])
                    buffers.append(
                        Buffer(Place("extra", name, group.name), maker.group.output_shape, group.whole, turn, turn)
                    )
    return buffers


def remade_values(bound: Sequence[Bound], roots: Mapping[str, str], scores: str) -> frozenset[str]:
    """Return the names of the values that the backward pass makes again: those that one stage makes and reads."""
    times, found = Times(bound), set()
    for maker in bound:
        name = maker.group.output
        if not maker.reads.remade or maker.group.whole or roots[scores] == name:
            continue
        stage = times.sweep(times.late[maker.group.name])
        readers = _readers(bound, roots, name)
        turns = [turn for each in readers for turn in (times.early[each.group.name], times.late[each.group.name])]
        if all(times.sweep(turn) == stage for turn in turns):
            found.add(name)
    return frozenset(found)


def _readers(bound: Sequence[Bound], roots: Mapping[str, str], name: str) -> list[Bound]:
    return [each for each in bound if name in (roots[read] for read in each.group.inputs)]


@dataclasses.dataclass(frozen=True)
class _Use:
    """Who makes a value and who reads it. `behind` are those that read what is remade of it."""

    maker: Bound
    readers: Sequence[Bound]
    is_scores: bool
    times: Times
    is_remade: bool = False
    behind: Sequence[Bound] = ()

    def _turns(self, each: Bound) -> tuple[int, int]:
        return self.times.early[each.group.name], self.times.late[each.group.name]

    def value(self, backward: bool) -> Buffer:
        """Return the buffer of the value itself."""
        times, again = self.times, [self.maker] if self.maker.reads.output else []
        again += [*(each for each in self.readers if each.reads.inputs), *self.behind]
        reads = [turn for each in self.readers for turn in self._turns(each)]
        if backward:
            reads += [times.back(turn) for each in again if each.group.trains for turn in self._turns(each)]
        after = self.is_scores or any(each.reads.after and each.group.whole for each in self.readers)
        write = times.late[self.maker.group.name]
        if self.is_remade:
            group = self.maker.group
            return Buffer(Place("value", group.output), group.output_shape, False, write, max([write, *reads]))
        return self._buffer("value", [write], [*reads, *([times.end] if after else [])])

    def error(self) -> Buffer:
        """Return the buffer of the value's error."""
        times, after = self.times, self.maker.reads.after and self.maker.group.whole
        writes = [times.back(times.early[each.group.name]) for each in self.readers]
        turns = self._turns(self.maker) if self.maker.reads.keeps is None else self._turns(self.maker)[1:]
        reads = [times.back(turn) for turn in turns]
        return self._buffer(
            "error", [*writes, *([times.loss] if self.is_scores else [])], [*reads, *([times.end] if after else [])]
        )

    def kept(self, numbers: int) -> Buffer:
        """Return the buffer of what the maker keeps of the value's error, from its first turn back to its second."""
        early, late = map(self.times.back, self._turns(self.maker))
        times = self.times.sweep(late)[0], self.times.sweep(early)[1]
        return Buffer(Place("kept", self.maker.group.output), (numbers,), True, *times)

    def _buffer(self, purpose: str, writes: list[int], reads: list[int]) -> Buffer:
        """Return a buffer: for a block if all its reads and writes are of one sweep, and so of one block's time."""
        group, times = self.maker.group, self.times
        turns = [*writes, *reads]
        whole = group.whole or len({times.sweep(turn) for turn in turns}) > 1
        first = min(times.sweep(turn)[0] if whole else turn for turn in turns)
        last = max(times.sweep(turn)[1] if whole else turn for turn in turns)
        return Buffer(Place(purpose, group.output), group.output_shape, whole, first, last)


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
