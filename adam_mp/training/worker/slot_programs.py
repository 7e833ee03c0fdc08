"""The programs of a worker: one for each slot of its rings and number of images in the slot, made when first needed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from adam_mp.compute.context import Program, TrainingContext
from adam_mp.memory.wanted import WaitingBatch
from adam_mp.params.replica.factors import FactorShape

Factors = list[tuple[np.ndarray, np.ndarray]]


class SlotProgram(NamedTuple):
    """The program that trains a batch where it lies, in its slot, and the arrays of its dense layers.

    `factors` has (activations, errors), each [images, n], of every layer whose updates go to parameter servers in that
    form; the program fills them.
    """

    program: Program
    factors: Factors


class SlotPrograms:
    """Makes the programs and keeps them. `shape` names the dense layers whose `factors` are wanted, None for none."""

    def __init__(self, context: TrainingContext, shape: FactorShape | None) -> None:
        self._context = context
        tensors = () if shape is None else shape.tensors
        self._names = [context.layout.tensors[tensor].name for tensor in tensors]
        self._made: dict[tuple[int, int, int], SlotProgram] = {}

    def of(self, batch: WaitingBatch) -> SlotProgram:
        """Return the program for a batch, of at least one image, in its slot."""
        key = (batch.ring_number, batch.slot, batch.tag.images)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._make(batch)
        return made

    def _make(self, batch: WaitingBatch) -> SlotProgram:
        slot, count = batch.ring.slots[batch.slot], batch.tag.images
        images = slot.images[:count]
        program = self._context.program(images, slot.labels[:count], mixed=slot.mixed)
        return SlotProgram(program, [self._context.factors(name, images) for name in self._names])
