"""Answers to messages that arrived: each names its question. Refusals, and answers that nobody took, are counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from adam_mp.transport.endpoint import Endpoint, Peer
from adam_mp.transport.forms import write
from adam_mp.transport.messages import Kind, Message, with_facts
from adam_mp.transport.refusal import LONGEST_REASON, Refusal


@dataclasses.dataclass(frozen=True)
class Arrived:
    """A message and who sent it."""

    peer: Peer
    message: Message


class Replies:
    """Sends the answers of one process. `refused` counts refusals, `dropped` answers that the transport did not take.

    `header` has the header fields that the sender's answers have in common: run, sender, epoch of the map. Shard and
    sequence are those of the question.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.refused = self.dropped = 0

    def answer(
        self, to: Arrived, kind: Kind, header: Mapping[str, int], facts: Mapping[str, object] | None = None
    ) -> None:  # fmt: skip
        """Send an answer with these facts, or with no payload. Raises FrameError if they are too many for a message."""
        fields = {"shard": to.message.shard, "sequence": to.message.sequence, **header}
        message = Message(kind, **fields) if facts is None else with_facts(kind, facts, **fields)
        if self._endpoint.send(to.peer, message) is None:
            self.dropped += 1

    def refuse(self, to: Arrived, header: Mapping[str, int], reason: str, rejoin: bool = False) -> None:
        """Say why a message is not taken; `rejoin` asks its sender to join again."""
        self.refused += 1
        self.answer(to, Kind.REFUSED, header, write(Refusal(reason[:LONGEST_REASON], rejoin)))
