"""A simulated network for tests: messages arrive late, twice, out of order or never, drawn from a seed.

It has no threads and no clock: the test moves its time with `Network.advance`. Messages are encoded and decoded as on a
real network, so that sender and receiver share no memory by accident.
"""

from __future__ import annotations

import dataclasses
import heapq
import random

from adam_mp.transport.endpoint import Delivered, Peer, Sent, TransportStatistics
from adam_mp.transport.messages import Message, decode, encode

_DELIVERED = Delivered()


@dataclasses.dataclass(frozen=True)
class Weather:
    """How a network treats messages: the chances of loss and doubling, 0 to 1, and the longest `delay` in seconds."""

    loss: float = 0.0
    doubling: float = 0.0
    delay: float = 0.01


class Network:
    """A simulated network: its endpoints by name, and the messages on their way between them."""

    def __init__(self, seed: int, weather: Weather) -> None:
        self.weather, self.now = weather, 0.0
        self._random = random.Random(seed)
        self._waiting: list[tuple[float, int, str, str, bytes, bytes]] = []
        self._count = 0
        self._inboxes: dict[str, list[tuple[str, bytes, bytes]]] = {}
        self._cut: set[str] = set()

    def endpoint(self, name: str) -> SimEndpoint:
        """Return a new endpoint of that name. It replaces an earlier one of the name, as after a restart."""
        self._inboxes[name] = []
        return SimEndpoint(self, name)

    def cut(self, *names: str) -> None:
        """Separate these endpoints from all others, and heal all earlier cuts."""
        self._cut = set(names)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, and deliver the messages that are due."""
        self.now += seconds
        while self._waiting and self._waiting[0][0] <= self.now:
            _, _, source, target, header, payload = heapq.heappop(self._waiting)
            if target in self._inboxes and (source in self._cut) == (target in self._cut):
                self._inboxes[target].append((source, header, payload))

    def post(self, source: str, target: str, message: Message) -> None:
        """Send a message; its losses, doubles and delays are drawn now."""
        header, payload = encode(message), bytes(memoryview(message.payload).cast("B"))
        copies = 1 + (self._random.random() < self.weather.doubling)
        for _ in range(copies):
            if self._random.random() < self.weather.loss:
                continue
            self._count += 1
            due = self.now + self._random.uniform(0, self.weather.delay)
            heapq.heappush(self._waiting, (due, self._count, source, target, header, payload))

    def take(self, name: str) -> tuple[str, bytes, bytes] | None:
        """Return (sender, header, payload) of the next message that has arrived for `name`; None if there is none."""
        inbox = self._inboxes[name]
        return inbox.pop(0) if inbox else None


class SimEndpoint:
    """An endpoint of a simulated network; a peer is named by its endpoint's name. `receive` never waits."""

    def __init__(self, network: Network, name: str) -> None:
        self._network, self._name = network, name
        self._sent = self._received = 0

    def send(self, peer: Peer, message: Message) -> Sent | None:
        """See `Endpoint.send`."""
        self._sent += 1
        self._network.post(self._name, peer, message)
        return _DELIVERED

    def receive(self, seconds: float) -> tuple[Peer, Message] | None:
        """See `Endpoint.receive`."""
        found = self._network.take(self._name)
        if found is None:
            return None
        self._received += 1
        source, header, payload = found
        return source, decode(header, bytearray(payload))

    def statistics(self) -> TransportStatistics:
        """See `Endpoint.statistics`."""
        return TransportStatistics(sent=self._sent, received=self._received)

    def close(self) -> None:
        """See `Endpoint.close`."""
