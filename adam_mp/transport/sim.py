"""A simulated network for tests: messages arrive late, twice, out of order, damaged or never, drawn from a seed.

It has no threads and no clock: the test moves its time with `Network.advance`. Messages are encoded and decoded as on a
real network, so that sender and receiver share no memory by accident.
"""

from __future__ import annotations

import dataclasses
import heapq
import random

from adam_mp.transport.endpoint import Delivered, Peer, Sent, TransportStatistics
from adam_mp.transport.messages import FrameError, Message, decode, encode

_DELIVERED = Delivered()
BOTH, OUT, IN = "both", "out", "in"  # which messages a cut takes: all, those that cut endpoints send, or those to them


@dataclasses.dataclass(frozen=True)
class Weather:
    """How a network treats messages: the chances of loss, doubling and a changed bit, 0 to 1, and the delay.

    The delay is drawn between `least` and `delay` seconds for each message. So messages that are sent within
    `delay - least` seconds overtake each other.
    """

    loss: float = 0.0
    doubling: float = 0.0
    delay: float = 0.01
    least: float = 0.0
    flips: float = 0.0


class Network:
    """A simulated network: its endpoints by name, and the messages on their way between them."""

    def __init__(self, seed: int, weather: Weather) -> None:
        self.weather, self.now = weather, 0.0
        self._random = random.Random(seed)
        self._waiting: list[tuple[float, int, str, str, bytes, bytes]] = []
        self._count = 0
        self._inboxes: dict[str, list[tuple[str, bytes, bytes]]] = {}
        self._cut: set[str] = set()
        self._way = BOTH
        self._local: dict[str, Weather] = {}

    def endpoint(self, name: str) -> SimEndpoint:
        """Return a new endpoint of that name. It replaces an earlier one of the name, as after a restart."""
        self._inboxes[name] = []
        return SimEndpoint(self, name)

    def cut(self, *names: str, way: str = BOTH) -> None:
        """Separate these endpoints from all others, in one way or both, and heal all earlier cuts."""
        self._cut, self._way = set(names), way

    def set_weather(self, weather: Weather, *names: str) -> None:
        """Give the messages from and to these endpoints a weather of their own, and all others the network's again."""
        self._local = dict.fromkeys(names, weather)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, and deliver the messages that are due."""
        self.now += seconds
        while self._waiting and self._waiting[0][0] <= self.now:
            _, _, source, target, header, payload = heapq.heappop(self._waiting)
            if target in self._inboxes and self._passes(source, target):
                self._inboxes[target].append((source, header, payload))

    def _passes(self, source: str, target: str) -> bool:
        inside = source in self._cut, target in self._cut
        return inside[0] == inside[1] or (inside[0] and self._way == IN) or (inside[1] and self._way == OUT)

    def post(self, source: str, target: str, message: Message) -> None:
        """Send a message; its losses, doubles and delays are drawn now."""
        weather = self._local.get(source) or self._local.get(target) or self.weather
        header, payload = encode(message), bytes(memoryview(message.payload).cast("B"))
        copies = 1 + (self._random.random() < weather.doubling)
        for _ in range(copies):
            if self._random.random() < weather.loss:
                continue
            sent = (header, payload)
            if self._random.random() < weather.flips:
                sent = self._with_a_bit_changed(header, payload)
            self._count += 1
            due = self.now + self._random.uniform(weather.least, weather.delay)
            heapq.heappush(self._waiting, (due, self._count, source, target, *sent))

    def _with_a_bit_changed(self, header: bytes, payload: bytes) -> tuple[bytes, bytes]:
        both = bytearray(header + payload)
        both[self._random.randrange(len(both))] ^= 1 << self._random.randrange(8)
        return bytes(both[: len(header)]), bytes(both[len(header) :])

    def take(self, name: str) -> tuple[str, bytes, bytes] | None:
        """Return (sender, header, payload) of the next message that has arrived for `name`; None if there is none."""
        inbox = self._inboxes[name]
        return inbox.pop(0) if inbox else None


class SimEndpoint:
    """An endpoint of a simulated network; a peer is named by its endpoint's name. `receive` never waits."""

    def __init__(self, network: Network, name: str) -> None:
        self._network, self._name = network, name
        self._sent = self._received = self._dropped = 0

    def send(self, peer: Peer, message: Message) -> Sent | None:
        """See `Endpoint.send`."""
        self._sent += 1
        self._network.post(self._name, peer, message)
        return _DELIVERED

    def receive(self, seconds: float) -> tuple[Peer, Message] | None:
        """See `Endpoint.receive`."""
        while (found := self._network.take(self._name)) is not None:
            source, header, payload = found
            try:
                message = decode(header, bytearray(payload))
            except FrameError:
                self._dropped += 1
                continue
            self._received += 1
            return source, message
        return None

    def statistics(self) -> TransportStatistics:
        """See `Endpoint.statistics`."""
        return TransportStatistics(sent=self._sent, received=self._received, dropped=self._dropped)

    def close(self) -> None:
        """See `Endpoint.close`."""
