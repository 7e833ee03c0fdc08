"""A group's part in evaluation: scores of pictures, and what norms know of the training images."""

from __future__ import annotations

import numpy as np

from adam_mp.compute.calibration import Calibration
from adam_mp.compute.context import Program, TrainingContext
from adam_mp.compute.part_updates import Segment, segments_of
from adam_mp.memory.group import SCORE, SETTLE_MOMENTS, Group, LaneMail, Work


class ScoringLane:
    """One batch of pictures on its way through this member's part of the network, without a backward pass."""

    def __init__(self, context: TrainingContext, mail: LaneMail, group: Group) -> None:
        self._context, self._mail, self._pictures = context, mail, group.pictures
        self._programs: dict[tuple[int, int], Program] = {}
        self._calibration = Calibration(context)
        self._segments: list[Segment] = []
        self.number = -1
        self.work: Work | None = None
        self.scores: np.ndarray = np.zeros((0, 0), np.float32)

    def begin(self, number: int, work: Work) -> None:
        """Begin to evaluate the first pictures in the group's memory."""
        self.number, self.work = number, work
        self._mail.begin(number)
        if work.kind == SETTLE_MOMENTS:
            self._segments = [Segment((), ((self._settle, ()),))]
            return
        program = self._programs.get((work.kind, work.images))
        if program is None:
            pictures, of_batch = self._pictures[: work.images], work.kind != SCORE
            program = self._context.program(pictures, None, training=False, of_batch=of_batch)
            self._programs[work.kind, work.images] = program
        self.scores = program.scores
        self._segments, _ = segments_of(program)
        if work.kind != SCORE:
            self._segments.append(Segment((), ((self._calibration.add, (work.images,)),)))

    def _settle(self) -> None:
        self._calibration.settle()

    def drop(self) -> None:
        """Give up the work, and what was measured for the norms."""
        self.work, self._segments = None, []
        self._calibration = Calibration(self._context)

    @property
    def is_over(self) -> bool:
        """Whether this member's part of the work is done."""
        return not self._segments

    def may_run(self, oldest: bool) -> bool:
        """Return whether the next segment can run now."""
        return oldest and not self.is_over and all(map(self._mail.arrived, self._segments[0].messages))

    def run(self) -> None:
        """Run the next segment."""
        for function, arguments in self._segments.pop(0).calls:
            function(*arguments)
