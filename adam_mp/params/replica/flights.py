"""A replica's requests to parameter servers: those on their way (flights), and those that wait for their turn.

Each server has up to `WINDOW` unanswered requests at once; more of small shards where answers wait for copies, so that
the server copies many shards together. An unanswered request is sent again under the same sequence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from adam_mp.params.run.listening import Listening
from adam_mp.params.server.buffers import WINDOW, BufferPool
from adam_mp.transport.endpoint import Endpoint, Peer, Sent
from adam_mp.transport.messages import Message

_AGAIN = 1.0  # seconds after which an unanswered request is sent again
_WIDE, _WIDE_BYTES = 16, 4 << 20  # unanswered requests at once, at most, where answers wait for copies


@dataclasses.dataclass
class Flight:
    """A request that is sent and not answered. `buffer` holds its payload, None if that is not from the pool.

    `numbers` are the shards that the request is about: one, or for activations all of a matrix that the server has.
    `asked` is when it was last sent; `copies` has an entry for each time it was sent.
    """

    numbers: tuple[int, ...]
    message: Message
    peer: Peer
    buffer: np.ndarray | None
    asked: float = float("-inf")
    copies: list[Sent] = dataclasses.field(default_factory=list)

    @property
    def key(self) -> tuple[int, int]:
        """Shard and sequence of the request, by which its answer is known."""
        return self.message.shard, self.message.sequence

    def ask_again(self, now: float, seconds: float) -> None:
        """Have the request sent again in `seconds`, if that is sooner than it would be."""
        self.asked = min(self.asked, now + seconds - _AGAIN)

    @property
    def done(self) -> bool:
        """Whether the transport has sent all copies, and so does not read the buffer any more."""
        return all(copy.done for copy in self.copies)


@dataclasses.dataclass
class Line:
    """The requests of a round to one server: `products` go first, then one for each shard in `left`.

    Both lists are taken from their ends. `flying` counts the requests that are sent and not answered, at most `window`.
    """

    products: list[Flight] = dataclasses.field(default_factory=list)
    left: list[int] = dataclasses.field(default_factory=list)
    flying: int = 0
    window: int = WINDOW

    @property
    def has_room(self) -> bool:
        """Whether one more request may be sent now."""
        return self.flying < self.window

    @property
    def done(self) -> bool:
        """Whether all requests to this server are sent and answered."""
        return not (self.products or self.left or self.flying)


class Flights:
    """All requests to the servers `peers` through `endpoint`. One thread may use it; the clock is an argument.

    `wide` says that answers wait for copies. `buffers` hold payloads, `largest` bytes each; a flight that lands (is
    answered) returns its buffer. `resent` counts requests that were sent again. `silences` are the seconds for which a
    server that owes an answer has sent nothing.
    """

    def __init__(self, endpoint: Endpoint, peers: Sequence[Peer], largest: int, wide: bool = False) -> None:
        self._endpoint = endpoint
        window = max(WINDOW, min(_WIDE, _WIDE_BYTES // largest)) if wide else WINDOW
        # Twice the window: an answered request keeps its buffer while a repeated copy still waits in the transport.
        self.buffers = BufferPool(2 * window * len(peers), largest)
        self.lines: dict[Peer, Line] = {peer: Line(window=window) for peer in peers}
        self.silences = dict.fromkeys(peers, 0.0)
        self.resent = 0
        self._flying: dict[tuple[int, int], Flight] = {}  # by the message's shard and sequence
        self._listening = Listening()

    def clear(self) -> None:
        """Drop all requests. An answer to one of them that comes later answers nothing, unless the same is asked again.

        An old answer about a shard must not come after a newer one: it has weights without the newest update.
        """
        for flight in list(self._flying.values()):
            self.land(flight)
        for line in self.lines.values():
            line.products.clear()
            line.left.clear()

    @property
    def done(self) -> bool:
        """Whether all requests are sent and answered."""
        return all(line.done for line in self.lines.values())

    def send_due(self, ask: Callable[[int], Flight | None], now: float) -> None:
        """Send the next requests as far as there is room, and repeat those unanswered for `_AGAIN` seconds.

        `ask` makes the request about a shard, None if no buffer is free.
        """
        self._count_silence(now)
        lines = list(self.lines.values())
        while lines:  # one request to each server in turn
            lines = [line for line in lines if line.has_room and self._ask_next(line, ask, now)]
        for flight in self._flying.values():
            if not flight.done:  # its last copy still waits in our own queue, and another would wait behind it
                flight.asked = now
            elif now - flight.asked >= _AGAIN:
                self._send(flight, now)

    def receive(self, seconds: float) -> tuple[Flight | None, Message] | None:
        """Return the next answer with the flight that it answers (None if that has landed); None if no answer came."""
        received = self._endpoint.receive(seconds)
        if received is None:
            return None
        peer, message = received
        self.silences[peer] = 0.0
        flight = self._flying.get((message.shard, message.sequence))
        return flight if flight is not None and flight.peer == peer else None, message

    def begin(self, flight: Flight, now: float) -> None:
        """Send a request. It replaces the flight with the same key that a round without an end has left."""
        before = self._flying.get(flight.key)
        if before is not None:
            self.land(before)
        self._flying[flight.key] = flight
        self.lines[flight.peer].flying += 1
        self._send(flight, now)

    def land(self, flight: Flight) -> None:
        """End a flight whose request is answered."""
        del self._flying[flight.key]
        self.lines[flight.peer].flying -= 1
        if flight.buffer is not None:
            self.buffers.give_back(flight.buffer, flight)

    def _ask_next(self, line: Line, ask: Callable[[int], Flight | None], now: float) -> bool:
        """Send the next request of a line; False if there is none, or no buffer for it."""
        if line.products:
            self.begin(line.products.pop(), now)
            return True
        asked = ask(line.left[-1]) if line.left else None
        if asked is None:
            return False
        line.left.pop()
        self.begin(asked, now)
        return True

    def _send(self, flight: Flight, now: float) -> None:
        sent = self._endpoint.send(flight.peer, flight.message)
        if sent is None:
            return  # the server cannot be reached or the queue is full: the next `send_due` tries again
        self.resent += len(flight.copies) > 0
        flight.asked = now
        flight.copies.append(sent)

    def _count_silence(self, now: float) -> None:
        """Add the time since the last `send_due` to the silence of each server that owes an answer."""
        before = self._listening.seconds
        passed = self._listening.step(now) - before
        for peer in {flight.peer for flight in self._flying.values()}:
            self.silences[peer] += passed
