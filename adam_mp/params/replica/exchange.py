"""The rounds of an exchange: deltas of all shards to the parameter servers, fresh weights back, over any transport.

    delta = local - base; push it; pull fresh; local += fresh - (base + delta); base = fresh

This happens shard by shard, while workers go on changing `local`. A server answers a push with the fresh weights only
if other replicas have changed the shard; else the replica has them already. `flights` sends requests until they are
answered; `matrices` decides which shards go as activations.
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
_COUNT_BITS = 38  # the lower bits of a version count updates; the bits above are the life of the server


class Exchange:
    """The exchange of all shards under one bucket map. One thread may use it.

    `weights` is the replica's flat space, shared with its workers; `peers` are the servers in the order of the map, as
    the endpoint knows them; `wire` is the encoding of deltas. `answered` counts the answers that could be used. All
    that must outlive this object is in `memory`: for another map, the synchronizer makes another exchange on the same
    memory, and a new endpoint, which gets no old answers. Raises TransportError if the number of servers has changed
    since `memory` was made.
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
        self._header = {"run": run, "sender": identity, "map_epoch": bucket_map.epoch}
        self._owners = [peers[owner] for owner in bucket_map.owners(memory.layout)]
        self._encoding = ENCODINGS.index(wire)
        largest = max(shard.size for shard in memory.layout.shards)
        self.flights = Flights(endpoint, peers, 4 * largest)
        self.matrices = Matrices(memory, weights, self._owners, self._header)
        self._maker = DeltaMaker(largest)
        self._trouble: dict[Peer, str] = {}  # servers whose last answer could not be used, and what it was
        self.answered = 0

    def begin(self, gathered: Mapping[int, Gathered] | None = None) -> None:
        """Begin a round, in which every shard is exchanged once.

        `gathered` has, by tensor, the activations and errors of all updates since the last round. All other shards go
        as deltas, and so do those whose last push has not been answered yet.
        """
        self._clear()
        self.matrices.push(gathered or {}, self._launch)
        self._list_others()

    def begin_from(self, inboxes: Inboxes) -> None:
        """Begin a round in which matrices go as activations from the outboxes, or as deltas if outboxes overflowed."""
        self._clear()
        self.matrices.push_from(inboxes, self._launch)
        self._list_others()

    def _clear(self) -> None:
        self.matrices.clear()
        self.flights.clear()

    def _launch(self, product: Flight) -> None:
        self.flights.lines[product.peer].products.append(product)

    def _list_others(self) -> None:
        """Line up a request for each shard that no product is about."""
        lines = self.flights.lines
        done = {number for line in lines.values() for flight in line.products for number in flight.numbers}
        for number, owner in reversed(list(enumerate(self._owners))):
            if number not in done:
                lines[owner].left.append(number)

    @property
    def done(self) -> bool:
        """Whether the round is over: everything is asked and answered."""
        return self.flights.done

    def step(self, now: float, seconds: float) -> None:
        """Send the requests that it is time for, and take one answer, waiting up to `seconds`.

        `now` is time.monotonic().
        """
        before = self.flights.resent
        self.flights.send_due(self._ask, now)
        if self.flights.resent > before:
            self._memory.add("resent", self.flights.resent - before)
        received = self.flights.receive(seconds)
        if received is not None and received[0] is not None:
            self._take(received[0], received[1], now)

    def unanswered(self) -> dict[Peer, str]:
        """Return the servers that owe an answer, each with its last useless answer in words, "" if there was none."""
        return {peer: self._trouble.get(peer, "") for peer, line in self.flights.lines.items() if not line.done}

    # Requests.

    def _ask(self, number: int) -> Flight | None:
        """Make the request that the shard's state calls for, PULL or DELTA; None if no buffer is free."""
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
        # A matrix's shard is pushed before its delta is made; a predecessor that died leaves others so. Either way the
        # delta is the one to `sent`, under the sequence that is noted.
        if state == PUSHED:
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
        """Return the encoding of a shard's deltas."""
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
        """Take an answer. One that cannot be used changes nothing: the request is sent again.

        MOVED cannot be used: whichever side has the older map will soon get the newer one from the coordinator.
        """
        if self._use(flight, message, now):
            self._trouble.pop(flight.peer, None)
            self.answered += 1
        else:
            self._trouble[flight.peer] = _useless(message)

    def _use(self, flight: Flight, message: Message, now: float) -> bool:
        """Do what an answer calls for; return False, and do nothing, if it does not fit the request."""
        asked, number = flight.message.kind, flight.numbers[0]
        if asked == Kind.FACTORS:
            return self._take_product(flight, message.kind)
        if message.kind == Kind.EMPTY and asked != Kind.FIRST:
            self._offer_first(number, flight, now)
            return True
        if message.kind == Kind.FRESH and self._fits(number, message):
            again = asked == Kind.FIRST and self._memory.states[number] == PUSHED
            if again:  # the server has the base again: send the delta that it had answered with EMPTY
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
        """Take the answer to FACTORS. UNCHANGED: they are applied, so pull the shards. EMPTY: push deltas instead."""
        if kind not in (Kind.UNCHANGED, Kind.EMPTY):
            return False
        self.flights.land(flight)
        self.flights.lines[flight.peer].left += flight.numbers
        if kind == Kind.UNCHANGED:
            self.matrices.multiplied.update(flight.numbers)
        return True

    def _offer_first(self, number: int, flight: Flight, now: float) -> None:
        """Send FIRST to a server that has no weights for a shard: the base, or at the very start the replica's own."""
        memory, place = self._memory, self._memory.layout.shards[number].place
        self.matrices.multiplied.discard(number)  # the server has lost the product with its weights
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
            if version >> _COUNT_BITS == before >> _COUNT_BITS:
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
    """Say in words what a server answered that cannot be used."""
    if message.kind != Kind.REFUSED:
        return f"answers {message.kind.name} with {message.length} bytes"
    try:
        return f"refuses: {read_refusal(message).reason}"
    except FrameError:
        return "refuses, and does not say why"
