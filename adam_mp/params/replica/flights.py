"""A replica's questions on their way to servers, and those that wait for their turn.

Each server is asked four things at once. What is not answered is sent again under the same sequence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from adam_mp.params.run.listening import Listening
from adam_mp.params.server.buffers import WINDOW, BufferPool
from adam_mp.transport.endpoint import Endpoint, Peer, Sent
from adam_mp.transport.messages import Message

_AGAIN = 1.0  # seconds after which an unanswered message is sent again


@dataclasses.dataclass
class Flight:
    """A question on its way, the buffer that holds its payload, if any, and each time it was sent.

    `numbers` are the shards that it is about: one, or of activations all that a server has of a matrix. `asked` is when
    it was last sent.
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


@dataclasses.dataclass
class Line:
    """What one server is asked in a round: `products` first, then the shards `left`, from their ends on.

    `flying` counts the questions that are not answered yet.
    """

    products: list[Flight] = dataclasses.field(default_factory=list)
    left: list[int] = dataclasses.field(default_factory=list)
    flying: int = 0

    @property
    def has_room(self) -> bool:
        """Whether one more may be asked now."""
        return self.flying < WINDOW

    @property
    def done(self) -> bool:
        """Whether all is asked and answered."""
        return not (self.products or self.left or self.flying)


class Flights:
    """All questions to the servers `peers` by way of `endpoint`. One thread may use it; the clock is an argument.

    `buffers` are for payloads, of `largest` bytes; a landed flight gives its own back. `resent` counts questions that
    were sent again; `silences` are the seconds for which servers that owe an answer were not heard.
    """

    def __init__(self, endpoint: Endpoint, peers: Sequence[Peer], largest: int) -> None:
        self._endpoint = endpoint
        # Of each server's questions as many again may be answered, with a copy that still waits in the transport.
        self.buffers = BufferPool(2 * WINDOW * len(peers), largest)
        self.lines: dict[Peer, Line] = {peer: Line() for peer in peers}
        self.silences = dict.fromkeys(peers, 0.0)
        self.resent = 0
        self._flying: dict[tuple[int, int], Flight] = {}  # by the message's shard and sequence
        self._listening = Listening()

    def clear(self) -> None:
        """Forget what waits for its turn; what flies stays."""
        for line in self.lines.values():
            line.products.clear()
            line.left.clear()

    @property
    def done(self) -> bool:
        """Whether all is asked and answered."""
        return all(line.done for line in self.lines.values())

    def send_due(self, ask: Callable[[int], Flight | None], now: float) -> None:
        """Ask what there is room for, and again what is not answered.

        `ask` makes the question about a shard, None if no buffer is free.
        """
        self._count_silence(now)
        lines = list(self.lines.values())
        while lines:  # each server is asked one thing in turn
            lines = [line for line in lines if line.has_room and self._ask_next(line, ask, now)]
        for flight in self._flying.values():
            if not flight.done:  # its last copy waits in this side's queue: one more would only wait behind it
                flight.asked = now
            elif now - flight.asked >= _AGAIN:
                self._send(flight, now)

    def receive(self, seconds: float) -> tuple[Flight | None, Message] | None:
        """Return the next answer and the question that it answers, None for one that is answered already."""
        received = self._endpoint.receive(seconds)
        if received is None:
            return None
        peer, message = received
        self.silences[peer] = 0.0
        flight = self._flying.get((message.shard, message.sequence))
        return flight if flight is not None and flight.peer == peer else None, message

    def begin(self, flight: Flight, now: float) -> None:
        """Send a question; it takes the place of the same one of a round that was not ended."""
        before = self._flying.get(flight.key)
        if before is not None:
            self.land(before)
        self._flying[flight.key] = flight
        self.lines[flight.peer].flying += 1
        self._send(flight, now)

    def land(self, flight: Flight) -> None:
        """A question is answered."""
        del self._flying[flight.key]
        self.lines[flight.peer].flying -= 1
        if flight.buffer is not None:
            self.buffers.give_back(flight.buffer, flight)

    def _ask_next(self, line: Line, ask: Callable[[int], Flight | None], now: float) -> bool:
        """Ask the next question of a line; False if there is none, or no buffer for it."""
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
            return  # nobody there now, or a full queue: the next turn tries again
        self.resent += len(flight.copies) > 0
        flight.asked = now
        flight.copies.append(sent)

    def _count_silence(self, now: float) -> None:
        """Count the time since the last turn for the servers that owed an answer all the while."""
        before = self._listening.seconds
        passed = self._listening.look(now) - before
        for peer in {flight.peer for flight in self._flying.values()}:
            self.silences[peer] += passed
