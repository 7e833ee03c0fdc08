"""The rounds of an exchange: deltas of all shards to the parameter servers, fresh weights back, over any transport.

    delta = local - base; push it; pull fresh; local += fresh - (base + delta); base = fresh

shard by shard, while workers go on changing `local`. A server answers a push with the fresh weights only if others
changed the shard; if nobody did, the replica has them already. `flights` sees that every question is answered;
`matrices` decides which shards go as activations.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from adam_mp.errors import TransportError, several
from adam_mp.kernels.exchange import correct
from adam_mp.memory.exchange import APPLYING, PUSHED, SEEN, UNSEEN, ExchangeMemory
from adam_mp.params.replica.deltas import DeltaMaker
from adam_mp.params.replica.factors import Gathered, Inboxes
from adam_mp.params.replica.flights import Flight, Flights
from adam_mp.params.replica.matrices import Matrices, note_pushed
from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.transport.endpoint import Endpoint, Peer
from adam_mp.transport.messages import ENCODINGS, FrameError, Kind, Message
from adam_mp.transport.refusal import read_refusal

_FLOAT32 = ENCODINGS.index("float32")
_HEIGHT_BITS = 38  # of a version that count updates; those above are another life of the server


class Exchange:
    """The exchange of all shards under one bucket map; `weights` is the replica's flat space, shared with its workers.

    `peers` are the endpoint's names of the servers, in the order of the map; `wire` is the encoding of deltas. One
    thread may use it. `answered` counts answers that were of use. All that must outlive this object is in `memory`: for
    another map another exchange is made on the same memory, and on an endpoint to which no answer of before comes.
    Raises TransportError if the run had another number of servers when `memory` was made.
    """

    def __init__(
        self, endpoint: Endpoint, memory: ExchangeMemory, weights: np.ndarray, peers: list[Peer], bucket_map: BucketMap,
        run: int, identity: int, wire: str = "float32",
    ) -> None:  # fmt: skip
        if memory.layout.servers != len(peers):
            raise TransportError(
                f"the run began with {several(memory.layout.servers, 'parameter server')} and has {len(peers)} now; "
                "start it again"
            )
        self._memory, self._weights = memory, weights
        self._header = {"run": run, "sender": identity, "epoch": bucket_map.epoch}
        self._owners = [peers[owner] for owner in bucket_map.owners(memory.layout)]
        self._encoding = ENCODINGS.index(wire)
        largest = max(shard.size for shard in memory.layout.shards)
        self.flights = Flights(endpoint, peers, 4 * largest)
        self.matrices = Matrices(memory, weights, self._owners, self._header)
        self._maker = DeltaMaker(largest)
        self._trouble: dict[Peer, str] = {}  # what servers answered last, if that was of no use
        self.answered = 0

    def begin(self, gathered: Mapping[int, Gathered] | None = None) -> None:
        """Begin a round: every shard is exchanged once.

        `gathered` has, by tensor, the activations and errors of all updates since the last round; the other shards, and
        those that were pushed and not answered before, go as deltas.
        """
        self._clear()
        self.matrices.push(gathered or {}, self._launch)
        self._list_others()

    def begin_from(self, inboxes: Inboxes) -> None:
        """Begin a round in which matrices go as what lies in the outboxes, or as deltas if that is not all."""
        self._clear()
        self.matrices.push_from(inboxes, self._launch)
        self._list_others()

    def _clear(self) -> None:
        self.matrices.clear()
        self.flights.clear()

    def _launch(self, product: Flight) -> None:
        self.flights.lines[product.peer].products.append(product)

    def _list_others(self) -> None:
        """All shards that no product is about are asked for one by one."""
        lines = self.flights.lines
        done = {number for line in lines.values() for flight in line.products for number in flight.numbers}
        for number, owner in reversed(list(enumerate(self._owners))):
            if number not in done:
                lines[owner].left.append(number)

    @property
    def done(self) -> bool:
        """Whether the round that was begun is over."""
        return self.flights.done

    def turn(self, now: float, seconds: float) -> None:
        """Send what is due and take one answer, waiting `seconds` for it at most; `now` of time.monotonic."""
        before = self.flights.resent
        self.flights.send_due(self._ask, now)
        if self.flights.resent > before:
            self._memory.add("resent", self.flights.resent - before)
        received = self.flights.receive(seconds)
        if received is not None and received[0] is not None:
            self._take(received[0], received[1], now)

    def unanswered(self) -> dict[Peer, str]:
        """Return the servers that owe an answer; of each, what it said instead, or nothing."""
        return {peer: self._trouble.get(peer, "") for peer, line in self.flights.lines.items() if not line.done}

    # Questions.

    def _ask(self, number: int) -> Flight | None:
        """Make the message that the shard's state calls for; None if no buffer is free."""
        memory, place = self._memory, self._memory.layout.shards[number].place
        state = int(memory.states[number])
        if (
            state in (UNSEEN, APPLYING)
            or number in self.matrices.multiplied
            or (state == SEEN and number in self.matrices.still)
        ):
            return self._flight(Kind.PULL, number, memory.add("sequence"))
        buffer = self.flights.buffers.take()
        if buffer is None:
            return None
        base, sent = memory.base[place], memory.sent[place]
        local = self._weights[place]
        if state == PUSHED:  # a matrix, or by a predecessor that died: the same delta under the same sequence
            local = sent
        payload, changed = self._maker.make(self._encoding_of(number), local, base, sent, buffer)
        if state == PUSHED:
            return self._flight(Kind.DELTA, number, int(memory.sequences[number]), payload, buffer)
        sequence = memory.add("sequence")
        if not changed:
            self.flights.buffers.give_back(buffer)
            return self._flight(Kind.PULL, number, sequence)
        note_pushed(memory, number, sequence)
        memory.add("pushes")
        memory.add("pushed_bytes", payload.nbytes)
        return self._flight(Kind.DELTA, number, sequence, payload, buffer)

    def _encoding_of(self, number: int) -> int:
        """The encoding of a shard's deltas."""
        return _FLOAT32 if number in self.matrices.exact else self._encoding

    def _flight(
        self,
        kind: Kind,
        number: int,
        sequence: int,
        payload: np.ndarray | bytes = b"",
        buffer: np.ndarray | None = None,
    ) -> Flight:
        encoding = self._encoding_of(number) if kind == Kind.DELTA else _FLOAT32
        known = self._memory.states[number] in (SEEN, PUSHED) and number not in self.matrices.multiplied
        version = int(self._memory.versions[number]) if known else 0
        message = Message(
            kind, payload, shard=number, sequence=sequence, version=version, encoding=encoding, **self._header
        )  # fmt: skip
        return Flight((number,), message, self._owners[number], buffer)

    # Answers.

    def _take(self, flight: Flight, message: Message, now: float) -> None:
        """Take an answer. What is of no use changes nothing: the question is asked again.

        MOVED is of no use here: one side will soon learn of the newer map, from the coordinator.
        """
        if self._use(flight, message, now):
            self._trouble.pop(flight.peer, None)
            self.answered += 1
        else:
            self._trouble[flight.peer] = _useless(message)

    def _use(self, flight: Flight, message: Message, now: float) -> bool:
        """Do what an answer calls for; False, having done nothing, if it is none to this question."""
        asked, number = flight.message.kind, flight.numbers[0]
        if asked == Kind.FACTORS:
            return self._take_product(flight, message.kind)
        if message.kind == Kind.EMPTY and asked != Kind.FIRST:
            self._offer_first(number, flight, now)
            return True
        if message.kind == Kind.FRESH and self._fits(number, message):
            again = asked == Kind.FIRST and self._memory.states[number] == PUSHED
            if again:  # the server has the base again; now the delta that it answered with EMPTY
                self.flights.lines[flight.peer].left.append(number)
            else:
                self._take_fresh(number, message.array(), message.version)
        elif message.kind == Kind.UNCHANGED and flight.message.version:
            self._take_unchanged(number, message.version)
        else:
            return False
        self.flights.land(flight)
        return True

    def _fits(self, number: int, message: Message) -> bool:
        return message.encoding == _FLOAT32 and len(message.array()) == self._memory.layout.shards[number].size

    def _take_product(self, flight: Flight, kind: Kind) -> bool:
        """The server has multiplied, so the fresh shards are pulled; or it had no weights, so they are pushed."""
        if kind not in (Kind.UNCHANGED, Kind.EMPTY):
            return False
        self.flights.land(flight)
        self.flights.lines[flight.peer].left += flight.numbers
        if kind == Kind.UNCHANGED:
            self.matrices.multiplied.update(flight.numbers)
        return True

    def _offer_first(self, number: int, flight: Flight, now: float) -> None:
        """The server has no weights for this shard: give it the base, or at the very start this replica's own."""
        memory, place = self._memory, self._memory.layout.shards[number].place
        self.matrices.multiplied.discard(number)  # the product is lost with the weights
        known = memory.states[number] in (SEEN, PUSHED)
        weights = (memory.base if known else self._weights)[place].copy()
        first = self._flight(Kind.FIRST, number, memory.add("sequence"), weights)
        self.flights.land(flight)
        self.flights.begin(first, now)

    def _take_fresh(self, number: int, fresh: np.ndarray, version: int) -> None:
        memory, place = self._memory, self._memory.layout.shards[number].place
        local, base, state = self._weights[place], memory.base[place], int(memory.states[number])
        before = int(memory.versions[number])
        if state in (SEEN, PUSHED):
            memory.states[number] = APPLYING
            correct(local, fresh, memory.sent[place] if state == PUSHED else base, base)
            if version >> _HEIGHT_BITS == before >> _HEIGHT_BITS:
                memory.add("staleness", max(0, version - before - (state == PUSHED)))
        else:
            base[...] = fresh
            local[...] = fresh
        memory.versions[number] = version
        memory.states[number] = SEEN
        memory.add("pulls")
        memory.add("pulled_bytes", fresh.nbytes)

    def _take_unchanged(self, number: int, version: int) -> None:
        memory, place = self._memory, self._memory.layout.shards[number].place
        if memory.states[number] == PUSHED:
            memory.base[place] = memory.sent[place]
            memory.states[number] = SEEN
        memory.versions[number] = version


def _useless(message: Message) -> str:
    """Say what a server answers that is of no use."""
    if message.kind != Kind.REFUSED:
        return f"answers {message.kind.name} with {message.length} bytes"
    try:
        return f"refuses: {read_refusal(message).reason}"
    except FrameError:
        return "refuses, and does not say why"
