"""The rounds of an exchange: deltas of all shards to the parameter servers, fresh weights back, over any transport.

    delta = local - base; push it; pull fresh; local += fresh - (base + delta); base = fresh

shard by shard, several on their way at once, while workers go on changing `local`. A server answers a push with the
fresh weights only if others changed the shard; if nobody did, the replica has them already. What is not answered is
sent again under the same sequence, which the server applies once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from adam_mp.errors import TransportError
from adam_mp.kernels.exchange import correct, take_delta, take_delta_bfloat16
from adam_mp.memory.exchange import APPLYING, PUSHED, SEEN, UNSEEN, ExchangeMemory
from adam_mp.params.bucket_map import BucketMap
from adam_mp.params.buffers import BufferPool
from adam_mp.params.factors import Gathered
from adam_mp.transport.endpoint import Endpoint, Peer, Sent
from adam_mp.transport.messages import ENCODINGS, Kind, Message

_WINDOW = 4  # shards on their way at once
_AGAIN = 1.0  # seconds after which an unanswered message is sent again
_FLOAT32, _FLOAT16, _BFLOAT16 = range(len(ENCODINGS))
_HEIGHT_BITS = 38  # of a version that count updates; those above are another life of the server


@dataclasses.dataclass
class _Flight:
    """A question on its way, the buffer that holds its payload, if any, and each time it was sent.

    `numbers` are the shards that it is about: one, or of activations all that a server has of a matrix.
    """

    numbers: tuple[int, ...]
    message: Message
    peer: Peer
    buffer: np.ndarray | None
    asked: float = float("-inf")
    copies: list[Sent] = dataclasses.field(default_factory=list)

    @property
    def key(self) -> tuple[int, int]:
        """What an answer has of it."""
        return self.message.shard, self.message.sequence

    @property
    def done(self) -> bool:
        """Whether no transport reads the buffer any more."""
        return all(copy.done for copy in self.copies)


class Exchange:
    """The exchange of all shards, over any transport; `weights` is the replica's flat space, shared with its workers.

    `peers` are the endpoint's names of the servers, in the order of the map; `wire` is the encoding of deltas. One
    thread may use it. `moved` is set when a server says that the map has changed.
    """

    def __init__(
        self, endpoint: Endpoint, memory: ExchangeMemory, weights: np.ndarray, peers: list[Peer], bucket_map: BucketMap,
        run: int, identity: int, wire: str = "float32",
    ) -> None:  # fmt: skip
        self._endpoint, self._memory, self._weights = endpoint, memory, weights
        self._header = {"run": run, "sender": identity, "epoch": bucket_map.epoch}
        self._owners = [peers[owner] for owner in bucket_map.owners(memory.layout)]
        self._encoding = ENCODINGS.index(wire)
        largest = max(shard.size for shard in memory.layout.shards)
        self._pool = BufferPool(2 * _WINDOW, 4 * largest)
        self._delta: np.ndarray = np.zeros(largest, np.float32)
        self._left: list[int] = []
        self._products: list[_Flight] = []  # activations that are not sent yet
        self._multiplied: set[int] = set()  # shards to which the server has applied them in this round
        self._still: set[int] = set()  # shards of matrices without updates in this round
        self._flying: dict[tuple[int, int], _Flight] = {}  # by the message's shard and sequence
        self.moved = False

    def begin(self, gathered: Mapping[int, Gathered] | None = None) -> None:
        """Begin a round: every shard is exchanged once.

        `gathered` has, by tensor, the activations and errors of all updates since the last round; the other shards, and
        those that were pushed and not answered before, go as deltas.
        """
        self._multiplied.clear()
        self._still.clear()
        self._products = []
        done: set[int] = set()
        for tensor, factors in (gathered or {}).items():
            if not len(factors.inputs):  # what changed nevertheless is an update whose activations come later
                self._still.update(n for n, shard in enumerate(self._memory.layout.shards) if shard.tensor == tensor)
                continue
            flights = self._multiply(tensor, factors)
            self._products += flights
            done.update(number for flight in flights for number in flight.numbers)
        self._left = [number for number in range(len(self._memory.layout.shards)) if number not in done][::-1]

    @property
    def done(self) -> bool:
        """Whether the round that was begun is over."""
        return not self._left and not self._flying and not self._products

    def turn(self, now: float, seconds: float) -> None:
        """Send what is due and take one answer, waiting `seconds` for it at most; `now` of time.monotonic.

        Raises TransportError if a server refuses.
        """
        while self._products and len(self._flying) < _WINDOW:
            flight = self._products.pop()
            self._flying[flight.key] = flight
        while self._left and len(self._flying) < _WINDOW:
            asked = self._ask(self._left[-1])
            if asked is None:
                break
            self._left.pop()
            self._flying[asked.key] = asked
        for flight in list(self._flying.values()):
            if now - flight.asked >= _AGAIN:
                self._send(flight, now)
        received = self._endpoint.receive(seconds)
        if received is not None:
            self._take(received[1], now)

    def _send(self, flight: _Flight, now: float) -> None:
        sent = self._endpoint.send(flight.peer, flight.message)
        if sent is None:
            return  # nobody there now, or a full queue: the next turn tries again
        self._memory.add("resent", len(flight.copies) > 0)
        flight.asked = now
        flight.copies.append(sent)

    # Questions.

    def _multiply(self, tensor: int, factors: Gathered) -> list[_Flight]:
        """Make the messages with a matrix's activations, one a server; none if a shard of it is not as it should be.

        Each shard's delta is noted as pushed, under the same sequence: should this process die, its successor sends
        the delta, and a server that has applied the product knows it.
        """
        memory, shards = self._memory, self._memory.layout.shards
        numbers = [number for number, shard in enumerate(shards) if shard.tensor == tensor]
        if any(memory.states[number] != SEEN for number in numbers):
            return []
        flights = []
        for peer in dict.fromkeys(self._owners[number] for number in numbers):
            own = tuple(number for number in numbers if self._owners[number] == peer)
            sequence = memory.add("sequence")
            for number in own:
                place = shards[number].place
                size = shards[number].size
                take_delta(self._weights[place], memory.base[place], memory.sent[place], self._delta[:size])
                memory.sequences[number] = sequence
                memory.states[number] = PUSHED
            rows = [slice(shards[n].first_row, shards[n].first_row + shards[n].rows) for n in own]
            payload = factors.payload(rows)
            message = Message(Kind.FACTORS, payload, shard=tensor, sequence=sequence, **self._header)
            memory.add("pushes")
            memory.add("pushed_bytes", payload.nbytes)
            flights.append(_Flight(own, message, peer, None))
        return flights

    def _ask(self, number: int) -> _Flight | None:
        """Make the message that the shard's state calls for; None if no buffer is free."""
        memory, place = self._memory, self._memory.layout.shards[number].place
        state = int(memory.states[number])
        if state in (UNSEEN, APPLYING) or number in self._multiplied or (state == SEEN and number in self._still):
            return self._flight(Kind.PULL, number, memory.add("sequence"))
        buffer = self._pool.take()
        if buffer is None:
            return None
        base, sent = memory.base[place], memory.sent[place]
        local = self._weights[place]
        if state == PUSHED:  # by a predecessor that died: the same delta under the same sequence
            local = sent
        payload, changed = self._encode(local, base, sent, buffer)
        if state == PUSHED:
            return self._flight(Kind.DELTA, number, int(memory.sequences[number]), payload, buffer)
        sequence = memory.add("sequence")
        if not changed:
            self._pool.give_back(buffer)
            return self._flight(Kind.PULL, number, sequence)
        memory.sequences[number] = sequence
        memory.states[number] = PUSHED
        memory.add("pushes")
        memory.add("pushed_bytes", payload.nbytes)
        return self._flight(Kind.DELTA, number, sequence, payload, buffer)

    def _encode(
        self, local: np.ndarray, base: np.ndarray, sent: np.ndarray, buffer: np.ndarray
    ) -> tuple[np.ndarray, bool]:
        """Take the delta into the buffer in the wire's encoding; return (payload, whether anything changed)."""
        if self._encoding == _FLOAT32:
            payload = buffer[: 4 * len(base)].view(np.float32)
            return payload, bool(take_delta(local, base, sent, payload))
        if self._encoding == _BFLOAT16:
            halves = buffer[: 2 * len(base)].view(np.uint16)
            return halves, bool(take_delta_bfloat16(local, base, sent, halves))
        delta = self._delta[: len(base)]
        np.subtract(local, base, out=delta)
        rounded = buffer[: 2 * len(base)].view(np.float16)
        rounded[...] = delta
        np.add(base, rounded, out=sent)
        return rounded, bool(delta.any())

    def _flight(
        self,
        kind: Kind,
        number: int,
        sequence: int,
        payload: np.ndarray | bytes = b"",
        buffer: np.ndarray | None = None,
    ) -> _Flight:
        encoding = self._encoding if kind == Kind.DELTA else _FLOAT32
        known = self._memory.states[number] in (SEEN, PUSHED) and number not in self._multiplied
        version = int(self._memory.versions[number]) if known else 0
        message = Message(
            kind, payload, shard=number, sequence=sequence, version=version, encoding=encoding, **self._header
        )  # fmt: skip
        return _Flight((number,), message, self._owners[number], buffer)

    # Answers.

    def _take(self, message: Message, now: float) -> None:
        flight = self._flying.get((message.shard, message.sequence))
        if flight is None:
            return  # an answer that came twice, or to a question that is answered
        if message.kind == Kind.REFUSED:
            raise TransportError(f"{flight.peer} refuses: {str(message.facts().get('reason'))[:500]}")
        if message.kind == Kind.MOVED:
            self.moved = True
            return
        if flight.message.kind == Kind.FACTORS:
            self._take_product(flight, message.kind)
            return
        number = flight.numbers[0]
        if message.kind == Kind.EMPTY:
            self._offer_first(number, flight, now)
            return
        if message.kind == Kind.FRESH:
            fresh = message.array()
            if len(fresh) != self._memory.layout.shards[number].size:
                raise TransportError(f"{flight.peer} sent {len(fresh)} numbers for shard {number}")
            if flight.message.kind == Kind.FIRST and self._memory.states[number] == PUSHED:
                self._land(flight)  # the server has the base again; now the delta that it answered with EMPTY
                self._left.append(number)
                return
            self._take_fresh(number, fresh, message.version)
        elif message.kind == Kind.UNCHANGED:
            self._take_unchanged(number, message.version)
        else:
            return
        self._land(flight)

    def _take_product(self, flight: _Flight, kind: Kind) -> None:
        """The server has multiplied, so the fresh shards are pulled; or it had no weights, so they are pushed."""
        if kind in (Kind.UNCHANGED, Kind.EMPTY):
            self._land(flight)
            self._left += flight.numbers
            if kind == Kind.UNCHANGED:
                self._multiplied.update(flight.numbers)

    def _land(self, flight: _Flight) -> None:
        del self._flying[flight.key]
        if flight.buffer is not None:
            self._pool.give_back(flight.buffer, flight)

    def _offer_first(self, number: int, flight: _Flight, now: float) -> None:
        """The server has no weights for this shard: give it the base, or at the very start this replica's own."""
        memory, place = self._memory, self._memory.layout.shards[number].place
        if flight.message.kind == Kind.FIRST:
            return  # it has them by now, or is asked again
        known = memory.states[number] in (SEEN, PUSHED)
        weights = (memory.base if known else self._weights)[place].copy()
        first = self._flight(Kind.FIRST, number, memory.add("sequence"), weights)
        self._land(flight)
        self._flying[first.key] = first
        self._send(first, now)

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
