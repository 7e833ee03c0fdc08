"""The interface between a worker's loop and what differs between the consistency modes."""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

from adam_mp.memory.ring import Tag
from adam_mp.memory.wanted import WaitingBatch
from adam_mp.training.worker.slot_programs import Factors


class Outcome(enum.Enum):
    """What came of a worker's attempt to train a batch."""

    DONE = enum.auto()
    NOTHING_THERE = enum.auto()  # the worker's rings do not have the batch that it needs
    WAITING_FOR_EXCHANGE = enum.auto()  # a parameter server is silent, so no worker begins a batch
    WAITING_FOR_OTHERS = enum.auto()  # the worker may not begin a batch until other workers have made progress


class Gradient(NamedTuple):
    """What the forward and backward pass over a batch left, beside the gradient itself in the training context.

    `loss` is the sum over the batch's images. `read_at` is how many updates the weights had when the forward pass began
    to read them. `factors` are the activations and errors of the dense layers whose updates go to parameter servers in
    that form.
    """

    tag: Tag
    loss: float
    read_at: int
    factors: Factors


class Step(Protocol):
    """How a worker keeps together with the others: which batch comes next, and how its gradient gets into the weights.

    The worker's loop calls `settle`, then `take`. For a batch that the worker could lease, it then calls `skip` if no
    image of the batch could be read, else `prepare` after the forward pass and `update` after the backward pass; it
    calls neither of these two if the loss is NaN or infinite. `take` and `update` never wait.
    """

    def settle(self) -> bool:
        """Finish the update of an earlier batch, if that can be done now; tell whether anything was done.

        The loop calls this before it acknowledges an order, because a worker that has acknowledged IDLE must not change
        weights any more.
        """

    def take(self) -> WaitingBatch | Outcome:
        """Return the batch to train now, the oldest of its ring; or why there is none."""

    def skip(self, tag: Tag) -> None:
        """Report a leased batch of which no image could be read as done, without an update."""

    def prepare(self, tag: Tag, loss: float) -> None:
        """Get ready for the backward pass; `loss` is the sum of losses that the forward pass left."""

    def update(self, gradient: Gradient) -> None:
        """Bring the gradient of a leased batch into the weights, or contribute it to the step of all workers."""
