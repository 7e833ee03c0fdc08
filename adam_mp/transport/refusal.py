"""REFUSED: why a message was not taken."""

from __future__ import annotations

import dataclasses

from adam_mp.errors import AdamError
from adam_mp.transport.forms import Flag, Optional, Text, Whole, entry, read, write
from adam_mp.transport.messages import FrameError, Kind, Message, with_facts

LONGEST_REASON = 500  # letters


class RefusedError(AdamError):
    """A message is not taken, and its sender is told why. `rejoin` asks it to join again."""

    def __init__(self, reason: str, rejoin: bool = False) -> None:
        super().__init__(reason)
        self.rejoin = rejoin


@dataclasses.dataclass(frozen=True)
class Refusal:
    """What REFUSED holds: the `reason`; whether the sender is to `rejoin`; a `session` that is not known there."""

    reason: str = entry(Text(LONGEST_REASON), "it does not say why")
    rejoin: bool = entry(Flag(), False)
    session: int | None = entry(Optional(Whole(0, (1 << 32) - 1)), None)


def read_refusal(message: Message) -> Refusal:
    """Return what a REFUSED says; raises FrameError if that cannot be read."""
    return read(Refusal, message.facts(), FrameError)


def refusal_message(refusal: Refusal, **header: int) -> Message:
    """Return the message that refuses something."""
    return with_facts(Kind.REFUSED, write(refusal), **header)
