"""The update of one partition: gradients of shared tensors are summed over partitions, each updates its own part.

Of the shared tensors each partition updates a slice, for which all others send it their gradients. Its own block it
updates alone. With clipping, partitions tell each other the sums of squares of what they are about to apply. Partitions
on several machines have a copy of the shared tensors each; then each sends the slice that it has updated to all others.
So the copies are always equal, and each has the optimizer state of its slice alone.
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
from adam_mp.network.part_layers import GRADIENT, SQUARES, WEIGHTS, Message


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


def update_messages(storage: PartStorage, part: int, clips: bool, apart: bool = False) -> list[Message]:
    """Return what a partition sends and receives for an update; `apart` is as in `PartUpdate`."""
    found, parts = [], range(storage.plan.parts)
    pairs = [(one, other) for one in parts for other in parts if one != other and part in (one, other)]
    for sender, receiver in pairs:
        summed, _ = storage.slices(receiver)
        if summed.stop > summed.start:
            found.append(Message("update", GRADIENT, sender, receiver, summed.stop - summed.start, of_batch=True))
        if clips:
            found.append(Message("update", SQUARES, sender, receiver, 1, of_batch=True))
        updated = sum(each.stop - each.start for each in storage.slices(sender))
        if apart and updated:
            found.append(Message("update", WEIGHTS, sender, receiver, updated, of_batch=True))
    return found


class PartUpdate:
    """Binds the optimizer of a partition: the gradient in its `context`, the flat spaces of `store`, its `mail`.

    `numbers` is the live array of the optimizer's numbers; `shares` are by parameter. `owner` is whose optimizer states
    it updates with, of those that are not shared. `context` must have been made with the gradient of
    `storage.part_layout`. With `apart` the store has that layout too, and other partitions have stores of their own.
    Programs must be made after this.
    """

    def __init__(
        self, storage: PartStorage, part: int, optimizer: Optimizer, store: ParameterStore, context: TrainingContext,
        numbers: np.ndarray, shares: Shares, mail: Mail, clip_norm: float = 0.0, owner: int = 0,
        apart: bool = False,
    ) -> None:  # fmt: skip
        self._part, self._mail, self._gradient, self._weights = part, mail, context.gradient, store.weights
        self._slices = [storage.slices(each) for each in range(storage.plan.parts)]
        self._messages = update_messages(storage, part, bool(clip_norm), apart)
        self._squares, self._has_clips = np.zeros(storage.plan.parts), bool(clip_norm)
        tensors = store.layout.tensors
        table = stretches_of(store.layout, {each.name: shares[storage.name_of(each.name)] for each in tensors})
        shift = 0 if apart else storage.block(part).start - storage.shared_size
        direct = optimizer.is_plain_descent and not clip_norm
        done = context.update_directly(numbers, {*of_own_rate(shares), *storage.shared}) if direct else []
        self._clips, self._updates, states = list[Clip](), list[Update](), store.states_of(owner)
        for here, there in _places(storage, part, done, shift):
            gradient, stretches = context.gradient[here], cut_stretches(table, there)
            if clip_norm:
                self._clips.append(Clip(clip_norm, gradient, stretches))
            own = {name: states[name][there] for name in optimizer.states}
            self._updates.append(optimizer.bind(store.weights[there], gradient, own, numbers, stretches))

    def segments(self) -> list[Segment]:
        """Return what runs after the backward pass."""
        posts: list[Call] = []
        for message in self._of(GRADIENT, sent=True):
            source = self._gradient[self._slices[message.receiver][0]]
            posts += [(np.copyto, (self._mail.array(message), source)), (self._mail.send, (message,))]
        received = self._of(GRADIENT, sent=False)
        target = self._gradient[self._slices[self._part][0]]
        sums: list[Call] = [(add_to, (self._mail.array(message), target)) for message in received]
        found = [Segment((), tuple(posts)), Segment(tuple(received), tuple(sums))]
        if self._has_clips:
            found[-1] = found[-1]._replace(calls=(*sums, (self._tell_squares, ())))
            found.append(Segment(tuple(self._of(SQUARES, sent=False)), ((self._clip, ()),)))
        updates: list[Call] = [(update, ()) for update in self._updates]
        found.append(Segment((), (*updates, *((self._tell_weights, (each,)) for each in self._of(WEIGHTS, sent=True)))))
        if fresh := self._of(WEIGHTS, sent=False):
            found.append(Segment(tuple(fresh), tuple((self._take_weights, (each,)) for each in fresh)))
        return found

    def _tell_weights(self, message: Message) -> None:
        parts = [self._weights[each] for each in self._slices[self._part]]
        np.concatenate(parts, out=self._mail.array(message))
        self._mail.send(message)

    def _take_weights(self, message: Message) -> None:
        values, begin = self._mail.array(message), 0
        for place in self._slices[message.sender]:
            end = begin + place.stop - place.start
            self._weights[place] = values[begin:end]
            begin = end

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


def _places(storage: PartStorage, part: int, done: Collection[str], shift: int) -> list[tuple[slice, slice]]:
    """Return where what a partition updates lies, in its gradient and in the store, without the tensors `done`.

    Its own block lies `shift` numbers further on in the store.
    """
    shared = storage.shared_size
    places = [(each, each) for each in storage.slices(part)]
    for each in without(storage.part_layout(part), done):
        begin = max(each.start, shared)
        places.append((slice(begin, each.stop), slice(begin + shift, each.stop + shift)))
    return [(here, there) for here, there in places if here.stop > here.start]
