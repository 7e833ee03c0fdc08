"""The lanes of a group's member: for each a training context, in which one batch is on its way.

A lane's work is a row of segments, each of which may run once its messages have arrived: the forward pass, the backward
pass, and the update. Several batches may be in the forward pass. One at a time, the oldest, is in the backward pass and
the update: so all lanes have one gradient, and updates come in the order of the works.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from adam_mp.compute.context import Program, TrainingContext
from adam_mp.compute.part_updates import PartUpdate, Segment, segments_of
from adam_mp.memory.group import LaneMail, Work
from adam_mp.memory.ring import Slot


class Lane:
    """One batch on its way through this member's part of the network.

    `begin_backward` is called with the work and the sum of its losses before the backward pass. A work is done to its
    end whatever its loss is: others wait for what this member sends. Where a member computes the scores itself, from
    weights that others are updating, its loss may be NaN while that of others is not. What the leader sees counts.
    """

    def __init__(
        self, context: TrainingContext, mail: LaneMail, update: PartUpdate,
        begin_backward: Callable[[Work, float], None],
    ) -> None:  # fmt: skip
        self._context, self._mail, self._update, self._begin_backward = context, mail, update, begin_backward
        self._programs: dict[tuple[int, int, int], Program] = {}
        self.number = -1
        self.work: Work | None = None
        self.loss = math.nan
        self._segments: list[Segment] = []
        self._next, self._back = 0, 0

    def begin(self, number: int, work: Work, slot: Slot, key: int) -> None:
        """Begin a work with the batch in `slot`; `key` is that of dropout."""
        self.number, self.work, self.loss = number, work, math.nan
        self._mail.begin(number)
        self._context.set_dropout_key(key)
        place = (work.ring, work.slot, work.images)
        program = self._programs.get(place)
        if program is None:
            images, labels = slot.images[: work.images], slot.labels[: work.images]
            program = self._programs[place] = self._context.program(images, labels, mixed=slot.mixed)
        forward, backward = segments_of(program)
        turn = Segment((), ((self._turn, (program.totals,)),))
        self._segments = [*forward, turn, *backward, *self._update.segments()]
        self._next, self._back = 0, len(forward)

    def drop(self) -> None:
        """Give up the work."""
        self.work, self._segments = None, []

    @property
    def is_over(self) -> bool:
        """Whether this member's part of the work is done."""
        return self._next == len(self._segments)

    def may_run(self, oldest: bool) -> bool:
        """Return whether the next segment can run now; `oldest` says that no earlier work is on its way."""
        if self.is_over or (self._next >= self._back and not oldest):
            return False
        return all(map(self._mail.arrived, self._segments[self._next].messages))

    def run(self) -> None:
        """Run the next segment."""
        calls = self._segments[self._next].calls
        self._next += 1
        for function, arguments in calls:
            function(*arguments)

    def _turn(self, totals: np.ndarray) -> None:
        """Between the passes: the loss is known."""
        assert self.work is not None
        self.loss = float(totals[0])
        self._begin_backward(self.work, self.loss)
