"""The message REFUSED: its sender did not take a message, and says why."""

from __future__ import annotations

import dataclasses

from adam_mp.errors import AdamError
from adam_mp.transport.forms import ADDRESS, Flag, Optional, Text, Whole, entry, read, write
from adam_mp.transport.messages import FrameError, Kind, Message, with_facts

LONGEST_REASON = 500  # characters


class RefusedError(AdamError):
    """A receiver does not take a message, and answers its sender with the reason; `rejoin` asks it to join again."""

    def __init__(self, reason: str, rejoin: bool = False) -> None:
        super().__init__(reason)
        self.rejoin = rejoin


@dataclasses.dataclass(frozen=True)
class Refusal:
    """What REFUSED holds.

    `reason` is for people. `rejoin` asks the receiver of REFUSED to join the run again. `session` is the number of a
    session that the data server does not know: the receiver should open it again. `coordinator` is where the run's
    coordinator is, for a message that only it takes; "" if that is not the reason, or not known.
    """

    reason: str = entry(Text(LONGEST_REASON), "it does not say why")
    rejoin: bool = entry(Flag(), False)
    session: int | None = entry(Optional(Whole(0, (1 << 32) - 1)), None)
    coordinator: str = entry(ADDRESS, "")


def read_refusal(message: Message) -> Refusal:
    """Return what a REFUSED message says; raises FrameError if its payload cannot be read."""
    return read(Refusal, message.facts(), FrameError)


def refusal_message(refusal: Refusal, **header: int) -> Message:
    """Return the message REFUSED for a refusal; `header` sets fields of the header."""
    return with_facts(Kind.REFUSED, write(refusal), **header)
