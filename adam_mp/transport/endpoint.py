"""The interface of all transports: an endpoint sends messages to peers, and receives messages from them."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

from adam_mp.transport.messages import Message

Peer = Any  # how an endpoint names a peer: a hashable value; only that endpoint knows what it means


class Sent(Protocol):
    """A message that an endpoint has taken and may still be sending."""

    @property
    def done(self) -> bool:
        """Whether the caller may write over the message's payload."""


@dataclasses.dataclass(frozen=True)
class Delivered:
    """A message whose payload the endpoint has copied: the caller may write over the payload at once."""

    done: bool = True


@dataclasses.dataclass(frozen=True)
class TransportStatistics:
    """An endpoint's counters: messages and payload bytes in both directions, and what went wrong.

    `dropped` counts received frames that were not a valid message. `full` counts messages that `send` did not take,
    because the peer's queue was full or the peer was gone. `failed` counts connections whose handshake failed: one side
    refused the other, or did not understand it. `lost` counts connections that ended after a good handshake, whichever
    side ended them.
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
    """One end of a transport. Only one thread may use it."""

    def send(self, peer: Peer, message: Message) -> Sent | None:
        """Queue a message for a peer, without waiting; return None if the peer's queue is full or the peer is gone.

        The caller must not change the payload before the result is `done`.
        """

    def receive(self, seconds: float) -> tuple[Peer, Message] | None:
        """Return the next message and the peer that sent it; wait at most `seconds`, then return None.

        The payload is valid while the caller keeps a reference to it. The endpoint drops and counts bytes that are not
        a valid message; a listener also answers their sender with REFUSED.
        """

    def statistics(self) -> TransportStatistics:
        """Return the counters as of now."""

    def close(self) -> None:
        """Close the endpoint; messages in its queues have a moment to leave."""
