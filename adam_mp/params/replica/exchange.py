"""The rounds of an exchange: deltas of all shards to the parameter servers, fresh weights back, over any transport.

    delta = local - base; push it; pull fresh; local += fresh - (base + delta); base = fresh

shard by shard, four on their way to each server at once, while workers go on changing `local`. A server answers a push
with the fresh weights only if others changed the shard; if nobody did, the replica has them already. What is not
answered is sent again under the same sequence, which the server applies once.

Matrices whose updates go as activations are pushed together. All that lies in the outboxes at one moment is multiplied
at the servers, and `sent` is the weights with just that: updates that came in before a shard was looked at are taken
out of it. So delta and product are the same update, and one can always go in the other's place: where outboxes
overflowed, where a server lost its weights, and when this process dies. (An update that is being made at that very
moment is in `sent` in part. That matters in these cases alone; otherwise the servers have what they multiplied.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from adam_mp.errors import TransportError
from adam_mp.kernels.exchange import correct
from adam_mp.memory.exchange import APPLYING, DISAGREED, PUSHED, SEEN, UNSEEN, ExchangeMemory
from adam_mp.params.replica.cut import Cut
from adam_mp.params.replica.deltas import DeltaMaker
from adam_mp.params.replica.factors import Gathered, Inboxes
from adam_mp.params.replica.flights import Flight, Line
from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.run.listening import Listening
from adam_mp.params.server.buffers import WINDOW, BufferPool
from adam_mp.transport.endpoint import Endpoint, Peer
from adam_mp.transport.messages import ENCODINGS, FrameError, Kind, Message
from adam_mp.transport.refusal import read_refusal

_AGAIN = 1.0  # seconds after which an unanswered message is sent again
_FLOAT32 = ENCODINGS.index("float32")
_HEIGHT_BITS = 38  # of a version that count updates; those above are another life of the server


class Exchange:
    """The exchange of all shards, over any transport; `weights` is the replica's flat space, shared with its workers.

    `peers` are the endpoint's names of the servers, in the order of the map; `wire` is the encoding of deltas. One
    thread may use it. `moved` is set when a server says that the map has changed; `answered` counts answers that were
    of use; `silences` are the seconds for which servers that owe an answer were not heard. Raises TransportError if
    the run had another number of servers when `memory` was made.
    """

    def __init__(
        self, endpoint: Endpoint, memory: ExchangeMemory, weights: np.ndarray, peers: list[Peer], bucket_map: BucketMap,
        run: int, identity: int, wire: str = "float32",
    ) -> None:  # fmt: skip
        if memory.layout.servers != len(peers):
            raise TransportError(
                f"the run began with {memory.layout.servers} parameter servers and has {len(peers)} now; start it again"
            )
        self._endpoint, self._memory, self._weights = endpoint, memory, weights
        self._header = {"run": run, "sender": identity, "epoch": bucket_map.epoch}
        self._owners = [peers[owner] for owner in bucket_map.owners(memory.layout)]
        self._encoding = ENCODINGS.index(wire)
        largest = max(shard.size for shard in memory.layout.shards)
        # Of each server's questions as many again may be answered, with a copy that still waits in the transport.
        self._pool = BufferPool(2 * WINDOW * len(peers), 4 * largest)
        self._lines: dict[Peer, Line] = {peer: Line() for peer in peers}
        self._multiplied: set[int] = set()  # shards to which the server has applied them in this round
        self._still: set[int] = set()  # shards of matrices without updates in this round
        self._flying: dict[tuple[int, int], Flight] = {}  # by the message's shard and sequence
        self._exact: frozenset[int] = frozenset()  # shards whose deltas stand for products, and are not rounded
        self._cut = Cut(memory, weights)
        self._maker = DeltaMaker(largest)
        self.silences = dict.fromkeys(peers, 0.0)
        self._listening = Listening()
        self._trouble: dict[Peer, str] = {}  # what servers answered last, if that was of no use
        self.moved = False
        self.answered = 0

    def begin(self, gathered: Mapping[int, Gathered] | None = None) -> None:
        """Begin a round: every shard is exchanged once.

        `gathered` has, by tensor, the activations and errors of all updates since the last round; the other shards, and
        those that were pushed and not answered before, go as deltas.
        """
        self._clear()
        for tensor, factors in (gathered or {}).items():
            numbers = self._shards_of(tensor)
            if not len(factors.inputs):  # what changed nevertheless is an update whose activations come later
                self._still.update(numbers)
            elif self._all_seen(numbers):
                self._cut.look(numbers, lambda: ())
                self._multiply(tensor, factors)
        self._list_others()

    def begin_from(self, inboxes: Inboxes) -> None:
        """Begin a round in which matrices go as what lies in the outboxes, or as deltas if that is not all.

        What a predecessor left pushed must be answered first; what lies in the outboxes goes with the next round.
        """
        self._clear()
        numbers = [number for tensor in inboxes.shape.tensors for number in self._shards_of(tensor)]
        self._exact = frozenset(numbers)
        if self._all_seen(numbers):
            self._push_matrices(numbers, inboxes)
        elif self._memory.read("agreed") != DISAGREED:
            self._still.update(numbers)
        self._list_others()

    def _clear(self) -> None:
        self._multiplied.clear()
        self._still.clear()
        for line in self._lines.values():
            line.products.clear()
            line.left.clear()

    def _list_others(self) -> None:
        """All shards that no product is about are asked for one by one."""
        done = {n for line in self._lines.values() for flight in line.products for n in flight.numbers}
        for number, owner in reversed(list(enumerate(self._owners))):
            if number not in done:
                self._lines[owner].left.append(number)

    @property
    def done(self) -> bool:
        """Whether the round that was begun is over."""
        return all(line.done for line in self._lines.values())

    def turn(self, now: float, seconds: float) -> None:
        """Send what is due and take one answer, waiting `seconds` for it at most; `now` of time.monotonic."""
        self._count_silence(now)
        lines = list(self._lines.values())
        while lines:  # each server is asked one thing in turn
            lines = [line for line in lines if line.has_room and self._ask_next(line, now)]
        for flight in self._flying.values():
            if not flight.done:  # its last copy waits in this side's queue: one more would only wait behind it
                flight.asked = now
            elif now - flight.asked >= _AGAIN:
                self._send(flight, now)
        received = self._endpoint.receive(seconds)
        if received is not None:
            self.silences[received[0]] = 0.0
            self._take(received[1], now)

    def _count_silence(self, now: float) -> None:
        """Count the time since the last turn for the servers that owed an answer all the while."""
        before = self._listening.seconds
        passed = self._listening.look(now) - before
        for peer in {flight.peer for flight in self._flying.values()}:
            self.silences[peer] += passed

    def unanswered(self) -> dict[Peer, str]:
        """Return the servers that owe an answer; of each, what it said instead, or nothing."""
        return {peer: self._trouble.get(peer, "") for peer, line in self._lines.items() if not line.done}

    def _ask_next(self, line: Line, now: float) -> bool:
        """Ask the next question of a line; False if there is none, or no buffer for it."""
        if line.products:
            self._begin_flight(line.products.pop(), now)
            return True
        asked = self._ask(line.left[-1]) if line.left else None
        if asked is None:
            return False
        line.left.pop()
        self._begin_flight(asked, now)
        return True

    def _begin_flight(self, flight: Flight, now: float) -> None:
        """Send a question; it takes the place of the same one of a round that was not ended."""
        before = self._flying.get(flight.key)
        if before is not None:
            self._land(before)
        self._flying[flight.key] = flight
        self._lines[flight.peer].flying += 1
        self._send(flight, now)

    def _send(self, flight: Flight, now: float) -> None:
        sent = self._endpoint.send(flight.peer, flight.message)
        if sent is None:
            return  # nobody there now, or a full queue: the next turn tries again
        self._memory.add("resent", len(flight.copies) > 0)
        flight.asked = now
        flight.copies.append(sent)

    # Matrices.

    def _shards_of(self, tensor: int) -> list[int]:
        return [number for number, shard in enumerate(self._memory.layout.shards) if shard.tensor == tensor]

    def _all_seen(self, numbers: Sequence[int]) -> bool:
        return all(self._memory.states[number] == SEEN for number in numbers)

    def _push_matrices(self, numbers: Sequence[int], inboxes: Inboxes) -> None:
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
            self._still.update(numbers)
            return
        ends = self._cut.look(numbers, inboxes.waiting)
        # With room in each outbox, no update that was seen can be lost later.
        multiply = whole and inboxes.lost == agreed and not inboxes.full
        self._cut.take_out(numbers, inboxes, cut, ends)
        gathered = inboxes.gather([0] * len(cut), cut) if multiply else {}
        memory.note("agreed", DISAGREED)
        for tensor, factors in gathered.items():
            self._multiply(tensor, factors)
        if not multiply:
            memory.add("overflows")
            self._push(numbers)
        inboxes.consume(cut)
        memory.note("agreed", lost)

    def _multiply(self, tensor: int, factors: Gathered) -> None:
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
                self._note_pushed(number, sequence)
            rows = [slice(shards[n].first_row, shards[n].first_row + shards[n].rows) for n in own]
            payload = factors.payload(rows)
            message = Message(Kind.FACTORS, payload, shard=tensor, sequence=sequence, **self._header)
            memory.add("pushes")
            memory.add("pushed_bytes", payload.nbytes)
            self._lines[peer].products.append(Flight(own, message, peer, None))

    def _push(self, numbers: Sequence[int]) -> None:
        """Note what is `sent` of these shards as pushed; the deltas are made when it is their turn."""
        memory = self._memory
        for number in numbers:
            shard = memory.layout.shards[number]
            if np.array_equal(memory.sent[shard.place], memory.base[shard.place]):
                self._still.add(number)
                continue
            self._note_pushed(number, memory.add("sequence"))
            memory.add("pushes")
            memory.add("pushed_bytes", 4 * shard.size)

    def _note_pushed(self, number: int, sequence: int) -> None:
        self._memory.sequences[number] = sequence
        self._memory.states[number] = PUSHED

    # Questions.

    def _ask(self, number: int) -> Flight | None:
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
        if state == PUSHED:  # a matrix, or by a predecessor that died: the same delta under the same sequence
            local = sent
        payload, changed = self._maker.make(self._encoding_of(number), local, base, sent, buffer)
        if state == PUSHED:
            return self._flight(Kind.DELTA, number, int(memory.sequences[number]), payload, buffer)
        sequence = memory.add("sequence")
        if not changed:
            self._pool.give_back(buffer)
            return self._flight(Kind.PULL, number, sequence)
        self._note_pushed(number, sequence)
        memory.add("pushes")
        memory.add("pushed_bytes", payload.nbytes)
        return self._flight(Kind.DELTA, number, sequence, payload, buffer)

    def _encoding_of(self, number: int) -> int:
        """The encoding of a shard's deltas."""
        return _FLOAT32 if number in self._exact else self._encoding

    def _flight(
        self,
        kind: Kind,
        number: int,
        sequence: int,
        payload: np.ndarray | bytes = b"",
        buffer: np.ndarray | None = None,
    ) -> Flight:
        encoding = self._encoding_of(number) if kind == Kind.DELTA else _FLOAT32
        known = self._memory.states[number] in (SEEN, PUSHED) and number not in self._multiplied
        version = int(self._memory.versions[number]) if known else 0
        message = Message(
            kind, payload, shard=number, sequence=sequence, version=version, encoding=encoding, **self._header
        )  # fmt: skip
        return Flight((number,), message, self._owners[number], buffer)

    # Answers.

    def _take(self, message: Message, now: float) -> None:
        """Take an answer. What is of no use changes nothing: the question is asked again."""
        flight = self._flying.get((message.shard, message.sequence))
        if flight is None:
            return  # an answer that came twice, or to a question that is answered
        if message.kind == Kind.MOVED:
            self.moved |= message.epoch >= self._header["epoch"]  # else the server will soon know the newer map
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
                self._lines[flight.peer].left.append(number)
            else:
                self._take_fresh(number, message.array(), message.version)
        elif message.kind == Kind.UNCHANGED and flight.message.version:
            self._take_unchanged(number, message.version)
        else:
            return False
        self._land(flight)
        return True

    def _fits(self, number: int, message: Message) -> bool:
        return message.encoding == _FLOAT32 and len(message.array()) == self._memory.layout.shards[number].size

    def _take_product(self, flight: Flight, kind: Kind) -> bool:
        """The server has multiplied, so the fresh shards are pulled; or it had no weights, so they are pushed."""
        if kind not in (Kind.UNCHANGED, Kind.EMPTY):
            return False
        self._land(flight)
        self._lines[flight.peer].left += flight.numbers
        if kind == Kind.UNCHANGED:
            self._multiplied.update(flight.numbers)
        return True

    def _land(self, flight: Flight) -> None:
        del self._flying[flight.key]
        self._lines[flight.peer].flying -= 1
        if flight.buffer is not None:
            self._pool.give_back(flight.buffer, flight)

    def _offer_first(self, number: int, flight: Flight, now: float) -> None:
        """The server has no weights for this shard: give it the base, or at the very start this replica's own."""
        memory, place = self._memory, self._memory.layout.shards[number].place
        self._multiplied.discard(number)  # the product is lost with the weights
        known = memory.states[number] in (SEEN, PUSHED)
        weights = (memory.base if known else self._weights)[place].copy()
        first = self._flight(Kind.FIRST, number, memory.add("sequence"), weights)
        self._land(flight)
        self._begin_flight(first, now)

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
