"""A replica's questions on their way to servers, and those that wait for their turn."""

from __future__ import annotations

import dataclasses

import numpy as np

from adam_mp.params.server.buffers import WINDOW
from adam_mp.transport.endpoint import Peer, Sent
from adam_mp.transport.messages import Message


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
