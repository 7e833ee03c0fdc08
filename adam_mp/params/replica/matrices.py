"""Matrices whose updates go as activations: which shards of a round go as products, and which as deltas after all.

All these matrices are pushed together. The synchronizer sends all activations that lie in the outboxes at one moment,
and the parameter servers multiply them. At the same time it sets `sent` to the weights with exactly these updates
(`cut`). So `sent - base` is the same update as the product, and the delta can always replace it: if outboxes
overflowed, if a server has lost its weights, or if the synchronizer dies.

An update that a worker is making at the moment of the cut is in `sent` in part. That matters only if the delta replaces
the product; otherwise the servers have what they multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from adam_mp.memory.exchange import DISAGREED, PUSHED, SEEN, ExchangeMemory
from adam_mp.params.replica.cut import Cut
from adam_mp.params.replica.factors import Gathered, Inboxes
from adam_mp.params.replica.flights import Flight
from adam_mp.params.replica.routes import Routes
from adam_mp.transport.messages import Kind, Message

Launch = Callable[[Flight], None]  # adds a product to its server's line


class Matrices:
    """Pushes the matrices of a layout. One thread may use it.

    `routes` has the server of each shard of the layout, and the header fields of messages. Three sets of shards belong
    to the present round: `still`, which have no update to push; `exact`, whose deltas replace products and so must not
    be rounded; `multiplied`, to which their server has applied a product.
    """

    def __init__(
        self, memory: ExchangeMemory, weights: np.ndarray, routes: Routes
    ) -> None:  # fmt: skip
        self._memory, self._routes = memory, routes
        self._cut = Cut(memory, weights)
        self.still: set[int] = set()
        self.multiplied: set[int] = set()
        self.exact: frozenset[int] = frozenset()

    def clear(self) -> None:
        """Forget the shards of the last round."""
        self.still.clear()
        self.multiplied.clear()

    def push(self, gathered: Mapping[int, Gathered], launch: Launch) -> None:
        """Push the gathered updates since the last round, by tensor.

        A matrix with a shard whose last push is not answered yet is skipped: its shards go as deltas.
        """
        for tensor, factors in gathered.items():
            numbers = self._shards_of(tensor)
            if not len(factors.inputs):  # if weights did change, their activations come with a later round
                self.still.update(numbers)
            elif self._all_seen(numbers):
                self._cut.look(numbers, lambda: ())
                self._multiply(tensor, factors, launch)

    def push_from(self, inboxes: Inboxes, launch: Launch) -> None:
        """Push the updates in the outboxes as products, or as deltas if an outbox has overflowed.

        If a predecessor left shards PUSHED, these must be answered first: the outboxes then wait for the next round.
        """
        numbers = [number for tensor in inboxes.shape.tensors for number in self._shards_of(tensor)]
        self.exact = frozenset(numbers)
        if self._all_seen(numbers):
            self._push_all(numbers, inboxes, launch)
        elif self._memory.read("agreed") != DISAGREED:
            self.still.update(numbers)

    def _shards_of(self, tensor: int) -> list[int]:
        return [number for number, shard in enumerate(self._memory.held.shards) if shard.tensor == tensor]

    def _all_seen(self, numbers: Sequence[int]) -> bool:
        memory = self._memory
        return all(memory.states[number] == SEEN and not memory.kept_sequences[number] for number in numbers)

    def _push_all(self, numbers: Sequence[int], inboxes: Inboxes, launch: Launch) -> None:
        """Push all matrices as products, or as deltas. Afterwards outboxes and weights agree in either case.

        They agree if the outboxes hold exactly the updates that the servers do not have yet. The word `agreed` is noted
        last, so a successor of a process that died on the way finds DISAGREED, and sends deltas until they agree again.
        """
        memory = self._memory
        agreed, lost, cut = memory.read("agreed"), inboxes.lost, inboxes.waiting()
        whole = lost == agreed and inboxes.fits(cut)
        if not whole:  # deltas will carry these updates: make room at once, or outboxes lose more meanwhile
            memory.note("agreed", DISAGREED)
            inboxes.consume(cut)
            lost, cut = inboxes.lost, inboxes.waiting()
        elif not any(cut):
            self.still.update(numbers)
            return
        ends = self._cut.look(numbers, inboxes.waiting)
        # A worker updates the weights first, then its outbox. An update that `look` has copied with the weights may not
        # be in its outbox yet: if each outbox has room, it will not be lost there.
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
        """Launch the FACTORS messages of a matrix, one for each group of buckets that has rows of it.

        Each shard is noted as PUSHED under its message's sequence. If this process dies, its successor sends the delta
        `sent - base` under the same sequence, and a server that has applied the product skips it.
        """
        memory, shards = self._memory, self._memory.held.shards
        numbers = self._shards_of(tensor)
        groups = self._routes.groups
        for group in dict.fromkeys(groups[number] for number in numbers):
            own = tuple(number for number in numbers if groups[number] == group)
            sequence = memory.add("sequence")
            for number in own:
                note_pushed(memory, number, sequence)
            rows = [slice(shards[n].first_row, shards[n].first_row + shards[n].rows) for n in own]
            payload = factors.payload(rows)
            message = Message(Kind.FACTORS, payload, shard=tensor, sequence=sequence, **self._routes.header(group))
            memory.add("pushes")
            memory.add("pushed_bytes", payload.nbytes)
            launch(Flight(own, message, self._routes.owners[own[0]], None))

    def _push_deltas(self, numbers: Sequence[int]) -> None:
        """Note these shards as PUSHED where `sent` differs from the base; the exchange makes the deltas later."""
        memory = self._memory
        for number in numbers:
            shard = memory.held.shards[number]
            if np.array_equal(memory.sent[shard.place], memory.base[shard.place]):
                self.still.add(number)
                continue
            note_pushed(memory, number, memory.add("sequence"))
            memory.add("pushes")
            memory.add("pushed_bytes", 4 * shard.size)


def note_pushed(memory: ExchangeMemory, number: int, sequence: int) -> None:
    """Note a shard as PUSHED, up to `sent`. The sequence is noted first: a successor that finds PUSHED reads it."""
    memory.sequences[number] = sequence
    memory.states[number] = PUSHED
