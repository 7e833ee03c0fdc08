"""The interface between a worker's loop and the way in which workers keep together."""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

from adam_mp.memory.ring import Tag
from adam_mp.memory.wanted import WaitingBatch
from adam_mp.training.worker.slot_programs import Factors


class Outcome(enum.Enum):
    """What came of a worker's try to do a batch."""

    DONE = enum.auto()
    NOTHING_THERE = enum.auto()  # no batch is in its rings
    WAITING_FOR_OTHERS = enum.auto()  # it has one, or needs none, until other workers have gone on


class Gradient(NamedTuple):
    """What the two passes over a batch left: the gradient in the training context, and these.

    `loss` is the sum over the batch's images. `read_at` is how many updates the weights had when they were read.
    `factors` are inputs and errors of the dense layers whose updates go to parameter servers so.
    """

    tag: Tag
    loss: float
    read_at: int
    factors: Factors


class Step(Protocol):
    """How a worker keeps together with the others: which batch comes next, and how its gradient gets into the weights.

    The worker's loop calls `settle`, then `take`, and for a batch that it could lease either `skip`, or `prepare` and
    `update`; neither of them after a loss that is NaN or infinite. `take` and `update` never wait.
    """

    def settle(self) -> bool:
        """Finish what earlier batches began, if it can be finished now; tell whether anything was done.

        The loop calls this before it acknowledges an order: after an acknowledged IDLE nothing touches the weights.
        """

    def take(self) -> WaitingBatch | Outcome:
        """Return the batch to train now, the oldest of its ring; or why there is none."""

    def skip(self, tag: Tag) -> None:
        """Be done with a leased batch of which no image could be had."""

    def prepare(self, tag: Tag, loss: float) -> None:
        """Get ready for the backward pass, after the forward pass left this sum of losses."""

    def update(self, gradient: Gradient) -> None:
        """Bring the gradient of a leased batch into the weights, or to where all bring theirs, and report it."""
