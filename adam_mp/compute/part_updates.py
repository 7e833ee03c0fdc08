"""The update of one partition: gradients of shared tensors are summed over partitions, each updates its own part.

Of the shared tensors each partition updates a slice, for which all others send it their gradients. Its own block it
updates alone. With clipping, partitions tell each other the sums of squares of what they are about to apply.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from adam_mp.compute.clipping import Clip
from adam_mp.compute.context import Program, TrainingContext
from adam_mp.compute.mail import Mail, Wait
from adam_mp.compute.operation import Call
from adam_mp.compute.optimizer import Optimizer, Update
from adam_mp.compute.part_storage import PartStorage
from adam_mp.compute.shares import Shares, cut_stretches, of_own_rate, stretches_of
from adam_mp.compute.updates import without
from adam_mp.kernels.join import add_to
from adam_mp.memory.store import ParameterStore
from adam_mp.network.part_layers import GRADIENT, SQUARES, Message


class Segment(NamedTuple):
    """Kernel calls that may run once `messages` have arrived."""

    messages: tuple[Message, ...]
    calls: tuple[Call, ...]


def segments_of(program: Program) -> tuple[list[Segment], list[Segment]]:
    """Return the segments of a partition's program, forward and backward."""
    return _cut(program.forward, program.forward_waits), _cut(program.backward, program.backward_waits)


def _cut(calls: tuple[Call, ...], waits: tuple[Wait, ...]) -> list[Segment]:
    begins = [Wait(0, ()), *waits, Wait(len(calls), ())]
    return [
        Segment(wait.messages, calls[wait.call : after.call])
        for wait, after in itertools.pairwise(begins)
        if wait.messages or after.call > wait.call
    ]


def update_messages(storage: PartStorage, part: int, clips: bool) -> list[Message]:
    """Return what a partition sends and receives for an update."""
    found, parts = [], range(storage.plan.parts)
    pairs = [(one, other) for one in parts for other in parts if one != other and part in (one, other)]
    for sender, receiver in pairs:
        summed, _ = storage.slices(receiver)
        if summed.stop > summed.start:
            found.append(Message("update", GRADIENT, sender, receiver, summed.stop - summed.start, of_batch=True))
        if clips:
            found.append(Message("update", SQUARES, sender, receiver, 1, of_batch=True))
    return found


class PartUpdate:
    """Binds the optimizer of a partition: the gradient in its `context`, the flat spaces of `store`, its `mail`.

    `numbers` is the live array of the optimizer's numbers; `shares` are by parameter. `owner` is whose optimizer states
    it updates with, of those that are not shared. `context` must have been made with the gradient of
    `storage.part_layout`. Programs must be made after this.
    """

    def __init__(
        self, storage: PartStorage, part: int, optimizer: Optimizer, store: ParameterStore, context: TrainingContext,
        numbers: np.ndarray, shares: Shares, mail: Mail, clip_norm: float = 0.0, owner: int = 0,
    ) -> None:  # fmt: skip
        self._part, self._mail, self._gradient = part, mail, context.gradient
        self._slices = [storage.slices(each)[0] for each in range(storage.plan.parts)]
        self._messages = update_messages(storage, part, bool(clip_norm))
        self._squares = np.zeros(storage.plan.parts)
        table = stretches_of(
            storage.layout, {each.name: shares[storage.name_of(each.name)] for each in storage.layout.tensors}
        )
        direct = optimizer.is_plain_descent and not clip_norm
        done = context.update_directly(numbers, {*of_own_rate(shares), *storage.shared}) if direct else []
        self._clips, self._updates, states = list[Clip](), list[Update](), store.states_of(owner)
        for here, there in _places(storage, part, done):
            gradient, stretches = context.gradient[here], cut_stretches(table, there)
            if clip_norm:
                self._clips.append(Clip(clip_norm, gradient, stretches))
            own = {name: states[name][there] for name in optimizer.states}
            self._updates.append(optimizer.bind(store.weights[there], gradient, own, numbers, stretches))

    def segments(self) -> list[Segment]:
        """Return what runs after the backward pass."""
        posts: list[Call] = []
        for message in self._of(GRADIENT, sent=True):
            source = self._gradient[self._slices[message.receiver]]
            posts += [(np.copyto, (self._mail.array(message), source)), (self._mail.send, (message,))]
        received = self._of(GRADIENT, sent=False)
        target = self._gradient[self._slices[self._part]]
        sums: list[Call] = [(add_to, (self._mail.array(message), target)) for message in received]
        found = [Segment((), tuple(posts)), Segment(tuple(received), tuple(sums))]
        if self._clips:
            found[-1] = found[-1]._replace(calls=(*sums, (self._tell_squares, ())))
            found.append(Segment(tuple(self._of(SQUARES, sent=False)), ((self._clip, ()),)))
        return [*found, Segment((), tuple((update, ()) for update in self._updates))]

    def _of(self, purpose: str, sent: bool) -> list[Message]:
        return [
            each
            for each in self._messages
            if each.purpose == purpose and (each.sender if sent else each.receiver) == self._part
        ]

    def _tell_squares(self) -> None:
        self._squares[self._part] = sum(clip.square() for clip in self._clips)
        for message in self._of(SQUARES, sent=True):
            self._mail.array(message)[0] = self._squares[self._part]
            self._mail.send(message)

    def _clip(self) -> None:
        for message in self._of(SQUARES, sent=False):
            self._squares[message.sender] = self._mail.array(message)[0]
        total = float(self._squares.sum())
        for clip in self._clips:
            clip.finish(total)


def _places(storage: PartStorage, part: int, done: Collection[str]) -> list[tuple[slice, slice]]:
    """Return where what a partition updates lies, in its gradient and in the store, without the tensors `done`."""
    shared, shift = storage.shared_size, storage.block(part).start - storage.shared_size
    places = [(each, each) for each in storage.slices(part)]
    for each in without(storage.part_layout(part), done):
        begin = max(each.start, shared)
        places.append((slice(begin, each.stop), slice(begin + shift, each.stop + shift)))
    return [(here, there) for here, there in places if here.stop > here.start]
