"""The rounds of an exchange: deltas of all shards to the parameter servers, fresh weights back, over any transport.

    delta = local - base; push it; pull fresh; local += fresh - (base + delta); base = fresh

This happens shard by shard, while workers go on changing `local`. A server answers a push with the fresh weights only
if other replicas have changed the shard; else the replica has them already. `flights` sends requests until they are
answered; `matrices` decides which shards go as activations.

In a run with copies a server may die after it has answered an update, and before a copy has it. So the replica keeps
each update until the server confirms that it is stable, and pushes it again, under the same sequence, if another server
becomes primary before that. A round is over when all its updates are stable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from adam_mp.errors import TransportError, several
from adam_mp.kernels.exchange import correct
from adam_mp.memory.exchange import APPLYING, PUSHED, SEEN, UNSEEN, ExchangeMemory
from adam_mp.params.replica.deltas import DeltaMaker
from adam_mp.params.replica.factors import Gathered, Inboxes
from adam_mp.params.replica.flights import Flight, Flights
from adam_mp.params.replica.matrices import Matrices, note_pushed
from adam_mp.params.replica.routes import Routes
from adam_mp.params.run.bucket_map import COMMIT_ALL, BucketMap
from adam_mp.params.run.news import Moved
from adam_mp.transport.endpoint import Endpoint, Peer
from adam_mp.transport.forms import read
from adam_mp.transport.messages import ENCODINGS, FrameError, Kind, Message, confirm_payload
from adam_mp.transport.refusal import read_refusal

_FLOAT32 = ENCODINGS.index("float32")
_SCOUTING = 0.01  # seconds between two questions to others about a primary that does not answer
_PATIENCE = 0.25  # seconds of its silence before the first, if there is a connection: answers may wait for copies
_SOON = 0.05  # seconds until a request is sent again to a server that does not know its role yet
_UNDER_EPOCH = (Kind.FRESH, Kind.UNCHANGED, Kind.STABLE)  # answers under the map epoch of the request
_COUNT_BITS = 38  # the lower bits of a version count updates; the bits above are the life of the server


class Exchange:
    """The exchange of all shards under one bucket map. One thread may use it.

    `weights` is the replica's flat space, shared with its workers; `peers` are the servers in the order of the map, as
    the endpoint knows them; `reaches` tells whether there is a connection to one; `wire` is the encoding of deltas.
    `answered` counts the answers that could be used. All that must outlive this object is in `memory`: for another map,
    the synchronizer makes another exchange on the same memory. An answer to another exchange is known by its map epoch.
    `moved` is a newer map that a server has told, None if none has. Raises TransportError if the number of servers has
    changed since `memory` was made.
    """

    def __init__(
        self, endpoint: Endpoint, memory: ExchangeMemory, weights: np.ndarray, peers: list[Peer], bucket_map: BucketMap,
        run: int, identity: int, wire: str = "float32", reaches: Callable[[Peer], bool] = lambda peer: True,
    ) -> None:  # fmt: skip
        if memory.held.servers != len(peers):
            raise TransportError(
                f"the run began with {several(memory.held.servers, 'parameter server')} and has {len(peers)} now; "
                "start it again"
            )
        self._memory, self._weights, self._map, self._endpoint = memory, weights, bucket_map, endpoint
        self._routes = Routes.of(bucket_map, memory.held, peers, run, identity)
        self._keeps = memory.kept if bucket_map.has_replicas_keep else None
        self._encoding, self._reaches = ENCODINGS.index(wire), reaches
        largest = max((shard.size for shard in memory.held.shards), default=1)
        waits_for_copies = bool(bucket_map.copied) and bucket_map.commit == COMMIT_ALL
        self.flights = Flights(endpoint, peers, 4 * largest, wide=waits_for_copies)
        self.matrices = Matrices(memory, weights, self._routes)
        self._maker = DeltaMaker(largest)
        self._trouble: dict[Peer, str] = {}  # servers whose last answer could not be used, and what it was
        self._scouted: dict[Peer, float] = {}  # silent servers -> when another was last asked about them
        self._turns = 0
        self.moved: BucketMap | None = None
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
        for number, owner in reversed(list(enumerate(self._routes.owners))):
            if number not in done:
                lines[owner].left.append(number)

    @property
    def done(self) -> bool:
        """Whether the round is over: everything is asked and answered, and all updates are stable."""
        return self.flights.done and not self._has_kept

    @property
    def _has_kept(self) -> bool:
        return self._keeps is not None and bool(self._memory.kept_sequences.any())

    def step(self, now: float, seconds: float) -> None:
        """Send the requests that it is time for, and take one answer, waiting up to `seconds`.

        `now` is time.monotonic().
        """
        if self.flights.done and self._has_kept:
            self._confirm()
        before = self.flights.resent
        self.flights.send_due(self._ask, now)
        if self.flights.resent > before:
            self._memory.add("resent", self.flights.resent - before)
        if self._map.copied:
            self._scout(now)
        received = self.flights.receive(seconds)
        if received is None:
            return
        if received[1].kind == Kind.MOVED and self._take_moved(received[1]) and received[0] is not None:
            received[0].ask_again(now, _SOON)
        if received[0] is not None:
            self._take(received[0], received[1], now)

    def unanswered(self) -> dict[Peer, str]:
        """Return the servers that owe an answer, each with its last useless answer in words, "" if there was none."""
        return {peer: self._trouble.get(peer, "") for peer, line in self.flights.lines.items() if not line.done}

    # Copies.

    def _confirm(self) -> None:
        """Ask each primary when the updates that this replica keeps are stable."""
        memory, routes = self._memory, self._routes
        kept: dict[Peer, list[int]] = {}
        for number in np.flatnonzero(memory.kept_sequences).tolist():
            kept.setdefault(routes.owners[number], []).append(number)
        for peer, numbers in kept.items():
            rows = [
                (routes.epoch_of(number), routes.numbers[number], int(memory.kept_sequences[number]))
                for number in numbers
            ]
            message = Message(
                Kind.CONFIRM, confirm_payload(rows), run=routes.run, sender=routes.sender, map_epoch=self._map.epoch,
                sequence=memory.add("sequence"),
            )  # fmt: skip
            self._launch(Flight(tuple(numbers), message, peer, None))

    def _keep(self, number: int) -> None:
        """Keep the update of a PUSHED shard that a server has answered.

        A synchronizer that died may have kept it already, and then begun to change the base.
        """
        known = self._memory.kept_sequences[number] == self._memory.sequences[number]
        if self._keeps is not None and not known:
            memory, place = self._memory, self._memory.held.shards[number].place
            np.subtract(memory.sent[place], memory.base[place], out=self._keeps[place])
            memory.kept_sequences[number] = memory.sequences[number]

    def _scout(self, now: float) -> None:
        """Ask the in-sync copies of a primary that does not answer, one after the other, whether one has replaced it.

        A server that is not primary answers MOVED, with the newest map that it knows.
        """
        for peer, silence in self.flights.silences.items():
            if not silence or now - self._scouted.get(peer, float("-inf")) < _SCOUTING:
                continue
            if silence < _PATIENCE and self._reaches(peer):
                continue
            self._scouted[peer] = now
            copies = self._routes.copies_of(peer)
            if copies:
                self._turns += 1
                copy = copies[self._turns % len(copies)]
                self._endpoint.send(copy, Message(Kind.CONFIRM, run=self._routes.run, sender=self._routes.sender))

    def _take_moved(self, message: Message) -> bool:
        """Note the map in a MOVED if it is newer. Return whether it is older: that server soon learns the newer one.

        In a run without copies only the supervisor tells maps.
        """
        try:
            told: BucketMap = read(Moved, message.facts(), FrameError).map
        except FrameError:
            return False
        newest = self.moved or self._map
        if self._map.copied and told.epoch > newest.epoch and len(told.servers) == len(self._map.servers):
            self.moved = told
        return bool(self._map.copied) and told.epoch < self._map.epoch

    # Requests.

    def _ask(self, number: int) -> Flight | None:
        """Make the request that the shard's state calls for, PULL or DELTA; None if no buffer is free."""
        memory, place = self._memory, self._memory.held.shards[number].place
        state = int(memory.states[number])
        if self._keeps is not None and memory.kept_sequences[number]:
            return self._push_kept(number, self._keeps[place])
        # PULL where there is no delta to send: there is no valid base (UNSEEN, APPLYING), the server has applied the
        # update as a product (`multiplied`), or there is no update (`still`). A PUSHED shard is sent again below.
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
        # The shard may be PUSHED already: its matrix was pushed earlier in this round, or a synchronizer that died has
        # pushed it. Then the delta is the one from `base` to `sent` again, under the sequence noted at that push.
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

    def _push_kept(self, number: int, kept: np.ndarray) -> Flight | None:
        """Make the request that pushes again an update that is not known to be stable; None if no buffer is free."""
        buffer = self.flights.buffers.take()
        if buffer is None:
            return None
        payload = buffer[: kept.nbytes].view(np.float32)
        payload[...] = kept
        return self._flight(Kind.DELTA, number, int(self._memory.kept_sequences[number]), payload, buffer, _FLOAT32)

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
        encoding: int | None = None,
    ) -> Flight:
        if encoding is None:
            encoding = self._encoding_of(number) if kind == Kind.DELTA else _FLOAT32
        known = self._memory.states[number] in (SEEN, PUSHED) and number not in self.matrices.multiplied
        version = int(self._memory.versions[number]) if known else 0
        header = self._routes.header_of(number)
        message = Message(kind, payload, sequence=sequence, version=version, encoding=encoding, **header)
        return Flight((number,), message, self._routes.owners[number], buffer)

    # Answers.

    def _take(self, flight: Flight, message: Message, now: float) -> None:
        """Take an answer. One that cannot be used changes nothing: the request is sent again.

        MOVED answers no request: whichever side has the older map will soon get the newer one, from the coordinator or
        from the MOVED.
        """
        if self._use(flight, message, now):
            self._trouble.pop(flight.peer, None)
            self.answered += 1
        else:
            self._trouble[flight.peer] = _useless(message)

    def _use(self, flight: Flight, message: Message, now: float) -> bool:
        """Do what an answer calls for; return False, and do nothing, if it does not fit the request."""
        asked, number = flight.message.kind, flight.numbers[0]
        if message.kind in _UNDER_EPOCH and message.map_epoch != flight.message.map_epoch:
            return False  # it answers the same request to another server, which was primary before
        if asked == Kind.FACTORS:
            return self._take_product(flight, message.kind)
        if asked == Kind.CONFIRM:
            return self._take_stable(flight, message.kind)
        if message.kind == Kind.EMPTY and asked != Kind.FIRST:
            self._offer_first(number, flight, now)
            return True
        if message.kind == Kind.FRESH and self._fits(number, message):
            unsent = self._memory.states[number] == PUSHED or bool(self._memory.kept_sequences[number])
            if asked == Kind.FIRST and unsent:  # the server has a base: send what it had answered with EMPTY
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
        return message.encoding == _FLOAT32 and len(message.array()) == self._memory.held.shards[number].size

    def _take_product(self, flight: Flight, kind: Kind) -> bool:
        """Take the answer to FACTORS. UNCHANGED: they are applied, so pull the shards. EMPTY: push deltas instead."""
        if kind not in (Kind.UNCHANGED, Kind.EMPTY):
            return False
        self.flights.land(flight)
        self.flights.lines[flight.peer].left += flight.numbers
        if kind == Kind.UNCHANGED:
            self.matrices.multiplied.update(flight.numbers)
        return True

    def _take_stable(self, flight: Flight, kind: Kind) -> bool:
        """Take the answer to CONFIRM: the updates are stable, so nobody needs them any more."""
        if kind != Kind.STABLE:
            return False
        self._memory.kept_sequences[list(flight.numbers)] = 0
        self.flights.land(flight)
        return True

    def _offer_first(self, number: int, flight: Flight, now: float) -> None:
        """Send FIRST to a server that has no weights for a shard: the base, or at the very start the replica's own."""
        memory, place = self._memory, self._memory.held.shards[number].place
        self.matrices.multiplied.discard(number)  # the server has lost the product with its weights
        known = memory.states[number] in (SEEN, PUSHED)
        weights = (memory.base if known else self._weights)[place].copy()
        if known and self._keeps is not None and memory.kept_sequences[number]:
            weights -= self._keeps[place]  # which is pushed again
        first = self._flight(Kind.FIRST, number, memory.add("sequence"), weights)
        self.flights.land(flight)
        self.flights.begin(first, now)

    def _take_fresh(self, number: int, fresh: np.ndarray, version: int) -> None:
        memory, place = self._memory, self._memory.held.shards[number].place
        local, base, state = self._weights[place], memory.base[place], int(memory.states[number])
        before = int(memory.versions[number])
        if state == PUSHED:
            self._keep(number)
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
        memory, place = self._memory, self._memory.held.shards[number].place
        if memory.states[number] == PUSHED:
            self._keep(number)
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
