"""Answers to messages. An answer carries the shard and the sequence of the message that it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from adam_mp.transport.endpoint import Endpoint, Peer
from adam_mp.transport.forms import write
from adam_mp.transport.messages import Kind, Message, with_facts
from adam_mp.transport.refusal import LONGEST_REASON, Refusal


@dataclasses.dataclass(frozen=True)
class Arrived:
    """A message that arrived, and the peer that sent it."""

    peer: Peer
    message: Message


class Replies:
    """Sends the answers of one process. `refused` counts refusals, `dropped` the answers that could not be queued.

    `header` has the header fields that all answers of the process share: run, sender, map epoch.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.refused = self.dropped = 0

    def answer(
        self, to: Arrived, kind: Kind, header: Mapping[str, int], facts: Mapping[str, object] | None = None
    ) -> None:  # fmt: skip
        """Send an answer with `facts` as JSON, or without payload. Raises FrameError if they are too long."""
        fields = {"shard": to.message.shard, "sequence": to.message.sequence, **header}
        message = Message(kind, **fields) if facts is None else with_facts(kind, facts, **fields)
        if self._endpoint.send(to.peer, message) is None:
            self.dropped += 1

    def refuse(
        self, to: Arrived, header: Mapping[str, int], reason: str, rejoin: bool = False, coordinator: str = ""
    ) -> None:  # fmt: skip
        """Send REFUSED, as `Refusal` says."""
        self.refused += 1
        refusal = Refusal(reason[:LONGEST_REASON], rejoin, coordinator=coordinator)
        self.answer(to, Kind.REFUSED, header, write(refusal))
