"""The interface that all transports have: an endpoint sends to peers and receives from them."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

from adam_mp.transport.messages import Message

Peer = Any  # what an endpoint knows a peer by: hashable, no one else's business


class Sent(Protocol):
    """A message on its way."""

    @property
    def done(self) -> bool:
        """Whether its payload may be written over."""


@dataclasses.dataclass(frozen=True)
class Delivered:
    """A message whose payload was copied: it may be written over at once."""

    done: bool = True


@dataclasses.dataclass(frozen=True)
class TransportStatistics:
    """An endpoint's counters: messages and payload bytes in both directions, frames dropped as unusable, refusals.

    `full` counts messages that were not taken because the peer's queue was full or the peer gone; `failed` counts
    connections that did not come about since one side refused the other, or said nothing it understands; `lost` those
    that ended, whoever ended them.
    """

    sent: int = 0
    received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    dropped: int = 0
    full: int = 0
    failed: int = 0
    lost: int = 0


class Endpoint(Protocol):
    """One end of a transport. Used by one thread."""

    def send(self, peer: Peer, message: Message) -> Sent | None:
        """Queue a message without waiting; None if the peer's bounded queue is full or the peer is gone.

        The payload must stay as it is until the result is `done`.
        """

    def receive(self, seconds: float) -> tuple[Peer, Message] | None:
        """Return the next message and who sent it, waiting `seconds` at most; None if there is none.

        The payload is valid for as long as it is held. Bytes that are no message are dropped, counted, and their sender
        is told with REFUSED.
        """

    def statistics(self) -> TransportStatistics:
        """Return the counters as of now."""

    def close(self) -> None:
        """Give everything back; what is queued has a moment to leave."""
