"""How the parts of a network send each other values and errors: what operations need of any transport.

Both sides of a message have an array for it. The sender's kernels write into it before `send`, the receiver's read it
once it has `arrived`. In shared memory both are one array. A message and its answer, such as a value and its error,
have one array too (`Message.home`): nobody writes an answer before it has read the message for the last time.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from adam_mp.network.part_layers import Message


class Mail(Protocol):
    """The messages of one partition for one batch at a time."""

    def array(self, message: Message) -> np.ndarray:
        """Return the message's array, always the same one: [batch, numbers], or [numbers] of a message `of_batch`."""

    def send(self, message: Message) -> None:
        """Send what the array has; it must stay so until the receiver answers, or has ended the batch."""

    def arrived(self, message: Message) -> bool:
        """Return whether the present batch's message is in its array."""


class Wait(NamedTuple):
    """Before call number `call` of a program, these messages must have arrived."""

    call: int
    messages: tuple[Message, ...]


class Posts:
    """The messages of one operation. It must be connected with a `Mail` before a program is made."""

    def __init__(self, layer: Any, node: str) -> None:
        self.part: int = layer.part
        self._messages: list[Message] = layer.messages(node)
        self._mail: Mail | None = None

    def connect(self, mail: Mail) -> None:
        """Send and receive by `mail`."""
        self._mail = mail

    def sent(self, purpose: str) -> list[tuple[Message, np.ndarray]]:
        """Return the messages that this partition sends, with their arrays."""
        return [(each, self._known.array(each)) for each in self._of(purpose) if each.sender == self.part]

    def received(self, purpose: str) -> dict[int, np.ndarray]:
        """Return sender -> array of each message that this partition receives."""
        return {each.sender: self._known.array(each) for each in self.awaited(purpose)}

    def awaited(self, purpose: str) -> tuple[Message, ...]:
        """Return the messages that must have arrived before the operation's second stage."""
        return tuple(each for each in self._of(purpose) if each.receiver == self.part)

    def send(self, purpose: str) -> list[tuple[Any, tuple[Any, ...]]]:
        """Return the calls that send what the arrays have."""
        return [(self._known.send, (each,)) for each, _ in self.sent(purpose)]

    @property
    def _known(self) -> Mail:
        if self._mail is None:
            raise RuntimeError("an operation of a partition was not connected with a mail")
        return self._mail

    def _of(self, purpose: str) -> list[Message]:
        return [each for each in self._messages if each.purpose == purpose]
