"""Matrices whose updates go as activations: which shards of a round go as products, and which as deltas after all.

They are pushed together. All that lies in the outboxes at one moment is multiplied at the servers, and `sent` is the
weights with just that (`cut`). So delta and product are the same update, and one can always go in the other's place:
where outboxes overflowed, where a server lost its weights, and when this process dies. (An update that is being made at
that very moment is in `sent` in part. That matters in these cases alone; otherwise the servers have what they
multiplied.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from adam_mp.memory.exchange import DISAGREED, PUSHED, SEEN, ExchangeMemory
from adam_mp.params.replica.cut import Cut
from adam_mp.params.replica.factors import Gathered, Inboxes
from adam_mp.params.replica.flights import Flight
from adam_mp.transport.endpoint import Peer
from adam_mp.transport.messages import Kind, Message

Launch = Callable[[Flight], None]  # lines a product up for its server


class Matrices:
    """The matrices of a layout. `owners` are the servers of its shards; products have `header`; one thread may use it.

    Of the round that was begun last, `still` are shards without updates of which a product is made, `exact` those whose
    deltas stand for products, and are not rounded, and `multiplied` those to which their server has applied a product.
    """

    def __init__(
        self, memory: ExchangeMemory, weights: np.ndarray, owners: Sequence[Peer], header: Mapping[str, int]
    ) -> None:  # fmt: skip
        self._memory, self._owners, self._header = memory, owners, header
        self._cut = Cut(memory, weights)
        self.still: set[int] = set()
        self.multiplied: set[int] = set()
        self.exact: frozenset[int] = frozenset()

    def clear(self) -> None:
        """Begin a round."""
        self.still.clear()
        self.multiplied.clear()

    def push(self, gathered: Mapping[int, Gathered], launch: Launch) -> None:
        """Push what was gathered, by tensor, of all updates since the last round.

        Shards that were pushed before and are not answered go as deltas.
        """
        for tensor, factors in gathered.items():
            numbers = self._shards_of(tensor)
            if not len(factors.inputs):  # what changed nevertheless is an update whose activations come later
                self.still.update(numbers)
            elif self._all_seen(numbers):
                self._cut.look(numbers, lambda: ())
                self._multiply(tensor, factors, launch)

    def push_from(self, inboxes: Inboxes, launch: Launch) -> None:
        """Push what lies in the outboxes, or deltas if that is not all.

        What a predecessor left pushed must be answered first; what lies in the outboxes goes with the next round.
        """
        numbers = [number for tensor in inboxes.shape.tensors for number in self._shards_of(tensor)]
        self.exact = frozenset(numbers)
        if self._all_seen(numbers):
            self._push_all(numbers, inboxes, launch)
        elif self._memory.read("agreed") != DISAGREED:
            self.still.update(numbers)

    def _shards_of(self, tensor: int) -> list[int]:
        return [number for number, shard in enumerate(self._memory.layout.shards) if shard.tensor == tensor]

    def _all_seen(self, numbers: Sequence[int]) -> bool:
        return all(self._memory.states[number] == SEEN for number in numbers)

    def _push_all(self, numbers: Sequence[int], inboxes: Inboxes, launch: Launch) -> None:
        """Push all matrices as products, or as deltas; either way the outboxes agree with the weights afterwards.

        `agreed` is noted last: a successor that does not find it sends deltas until outboxes and weights agree again.
        """
        memory = self._memory
        agreed, lost, cut = memory.read("agreed"), inboxes.lost, inboxes.waiting()
        whole = lost == agreed and inboxes.fits(cut)
        if not whole:  # the deltas have what lies there; make room at once, or more is lost meanwhile
            memory.note("agreed", DISAGREED)
            inboxes.consume(cut)
            lost, cut = inboxes.lost, inboxes.waiting()
        elif not any(cut):
            self.still.update(numbers)
            return
        ends = self._cut.look(numbers, inboxes.waiting)
        # With room in each outbox, no update that was seen can be lost later.
        multiply = whole and inboxes.lost == agreed and not inboxes.full
        self._cut.take_out(numbers, inboxes, cut, ends)
        gathered = inboxes.gather([0] * len(cut), cut) if multiply else {}
        memory.note("agreed", DISAGREED)
        for tensor, factors in gathered.items():
            self._multiply(tensor, factors, launch)
        if not multiply:
            memory.add("overflows")
            self._push_deltas(numbers)
        inboxes.consume(cut)
        memory.note("agreed", lost)

    def _multiply(self, tensor: int, factors: Gathered, launch: Launch) -> None:
        """Line up the messages with a matrix's activations, one a server, for what is `sent` of its shards.

        Each shard is noted as pushed, under the same sequence: should this process die, its successor sends the delta,
        and a server that has applied the product knows it.
        """
        memory, shards = self._memory, self._memory.layout.shards
        numbers = self._shards_of(tensor)
        for peer in dict.fromkeys(self._owners[number] for number in numbers):
            own = tuple(number for number in numbers if self._owners[number] == peer)
            sequence = memory.add("sequence")
            for number in own:
                note_pushed(memory, number, sequence)
            rows = [slice(shards[n].first_row, shards[n].first_row + shards[n].rows) for n in own]
            payload = factors.payload(rows)
            message = Message(Kind.FACTORS, payload, shard=tensor, sequence=sequence, **self._header)
            memory.add("pushes")
            memory.add("pushed_bytes", payload.nbytes)
            launch(Flight(own, message, peer, None))

    def _push_deltas(self, numbers: Sequence[int]) -> None:
        """Note what is `sent` of these shards as pushed; the deltas are made when it is their turn."""
        memory = self._memory
        for number in numbers:
            shard = memory.layout.shards[number]
            if np.array_equal(memory.sent[shard.place], memory.base[shard.place]):
                self.still.add(number)
                continue
            note_pushed(memory, number, memory.add("sequence"))
            memory.add("pushes")
            memory.add("pushed_bytes", 4 * shard.size)


def note_pushed(memory: ExchangeMemory, number: int, sequence: int) -> None:
    """Note that what is `sent` of a shard is pushed: the sequence first, which a successor that finds PUSHED reads."""
    memory.sequences[number] = sequence
    memory.states[number] = PUSHED
