"""A partition's line to the leader of its group, on another machine: it joins, reports, and does what it is asked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from adam_mp.errors import AdamError, JoinError, StoppedError, TransportError
from adam_mp.params.run.listening import Listening
from adam_mp.params.run.membership import new_life
from adam_mp.partitions.frames import Doing
from adam_mp.partitions.statements import GOES_ON, PartJoining, PartOrders, PartReport, PartWelcome
from adam_mp.transport.forms import read, write
from adam_mp.transport.keys import Keys
from adam_mp.transport.messages import FrameError, Kind, Message, with_facts
from adam_mp.transport.places import Place
from adam_mp.transport.refusal import read_refusal
from adam_mp.transport.zeromq import ABSENT, SocketDialer

_AGAIN = 0.5  # seconds between two requests to join, and between two reports
_SOON = 0.02  # seconds between two reports of which the second says what the leader waits for
_SILENT = 20.0  # seconds in which this process listened, and had no connection
_LONGEST = 600.0  # seconds of silence with a connection: the leader may wait for a slow disk
_QUIET = 3.0  # seconds without an answer after which the user is told why
_LOOK = 0.05


class LeaderLostError(TransportError):
    """The leader does not answer, or knows nothing of this partition: it may come back with its last checkpoint."""


class Spaces(Protocol):
    """The flat spaces of this partition."""

    def read(self, space: int, begin: int, end: int) -> np.ndarray:
        """Return numbers of a flat space; raises IndexError if there are none there."""

    def write(self, space: int, begin: int, values: np.ndarray) -> None:
        """Set numbers of a flat space; raises IndexError if there are none there."""

    def are_finite(self) -> bool:
        """Return whether all weights are finite numbers."""

    def average(self, share: float) -> None:
        """Move the average of the weights by `share` towards them."""

    def note_updates(self, updates: int) -> None:
        """Note how many updates the run has made: it was resumed, or has gone back."""


class _Waiting:
    """Says why this partition waits, once a reason has stood for some seconds; each reason once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._why, self._since = say, "", 0.0
        self._said = set[str]()

    def look(self, why: str, now: float) -> None:
        """Note the present reason."""
        if why != self._why:
            self._why, self._since = why, now
        elif now - self._since > _QUIET and why not in self._said:
            self._said.add(why)
            self._say(why)


class LeaderLine:
    """One partition's line to the leader at `place`. Used by one thread."""

    def __init__(self, place: Place, keys: Keys | None, joining: PartJoining) -> None:
        self.place, self._joining = place, joining
        self._dialer = SocketDialer(keys)
        self._dialer.dial(place)
        self._sequence, self._run = new_life(), 0
        self._life = int.from_bytes(os.urandom(4), "little")
        self._listening, self._heard, self._reported = Listening(), 0.0, float("-inf")
        self._unreached = 0.0  # seconds without a connection
        self._orders, self._told = PartOrders(), PartReport()
        self._done: tuple[int, Message] | None = None  # the last request, and its answer

    def join(self, seconds: float, stop: Callable[[], bool], say: Callable[[str], None]) -> PartWelcome:
        """Join, and return what the leader says. Tell `say` what this waits for, each reason once.

        Raises JoinError if the leader refuses, TransportError after `seconds`, StoppedError if `stop` returns True.
        """
        began, asked = time.monotonic(), float("-inf")
        waiting = _Waiting(
            lambda why: say(f"waiting for the leader at {self.place}, for {seconds:.0f} s at most: {why}")
        )
        is_told = False
        while not stop():
            now = time.monotonic()
            if now - began > seconds:
                raise TransportError(f"{self.place} let nobody in within {seconds:.0f} s: {self._trouble()}")
            if now - asked > _AGAIN:
                self._sequence += 1
                asking = with_facts(Kind.JOIN, write(self._joining), sequence=self._sequence, map_epoch=self._life)
                self._send(asking)
                asked = now
            if not is_told:
                waiting.look(self._trouble(), now)
            received = self._dialer.receive(_LOOK)
            if received is None or received[1].sequence != self._sequence:
                continue
            message = received[1]
            if message.kind == Kind.WELCOME:
                welcome: PartWelcome = _read(PartWelcome, message)
                self._run, self._heard = welcome.run, self._listening.step(time.monotonic())
                return welcome
            if message.kind == Kind.REFUSED:
                refusal = read_refusal(message)
                if not refusal.rejoin:
                    raise JoinError(f"{self.place} refuses: {refusal.reason}")
                if not is_told:
                    say(f"{self.place} says: {refusal.reason}; asking again, for {seconds:.0f} s at most")
                is_told = True
        raise StoppedError(f"interrupted before {self.place} answered; start it again to go on")

    def _trouble(self) -> str:
        trouble = self._dialer.trouble(self.place)
        return trouble + ("; does partition 1 run there, with --listen?" if trouble in ABSENT else "")

    def step(self, report: PartReport, spaces: Spaces, seconds: float = 0.0) -> PartOrders:
        """Report if it is time to, do what the leader asks, and return its last orders; wait for it `seconds`.

        Raises LeaderLostError if the leader is silent, or does not know this partition any more.
        """
        now = time.monotonic()
        before = self._listening.seconds
        passed = self._listening.step(now) - before
        self._unreached = 0.0 if self._dialer.reaches(self.place) else self._unreached + passed
        if now - self._reported > (_AGAIN if report.awaited == self._told.awaited else _SOON):
            self._sequence += 1
            self._send(with_facts(Kind.REPORT, write(report), **self._header(self._sequence)))
            self._reported, self._told = now, report
        while (received := self._dialer.receive(seconds)) is not None:
            seconds = 0.0
            self._take(received[1], spaces)
        silence = self._listening.seconds - self._heard
        if silence > _LONGEST or min(silence, self._unreached) > _SILENT:
            raise LeaderLostError(f"the leader at {self.place} is silent: {self._trouble()}")
        return self._orders

    def _take(self, message: Message, spaces: Spaces) -> None:
        if message.kind == Kind.REFUSED and message.sequence == self._sequence:
            raise LeaderLostError(f"the leader at {self.place} says: {read_refusal(message).reason}")
        if message.run != self._run:
            return
        self._heard = self._listening.seconds
        if message.kind == Kind.ORDERS:
            self._orders = _read(PartOrders, message)
            if self._orders.state != GOES_ON:
                self.leave()
        elif message.kind in (Kind.READ, Kind.WRITE, Kind.DO) and message.length % 4 == 0:
            if self._done is None or self._done[0] != message.sequence:
                self._done = message.sequence, self._answer(message, spaces)
            self._send(self._done[1])

    def _answer(self, message: Message, spaces: Spaces) -> Message:
        """Do what the leader asks, and return the answer."""
        kind, payload, version = Kind.DONE, b"", 0
        if message.kind == Kind.READ:
            kind, payload = Kind.NUMBERS, spaces.read(message.shard, message.version, message.map_epoch)  # type: ignore[assignment]
        elif message.kind == Kind.WRITE:
            spaces.write(message.shard, message.version, message.array())
        elif message.shard == Doing.CHECK:
            version = int(spaces.are_finite())
        elif message.shard == Doing.AVERAGE and message.length == 8:
            spaces.average(float(np.frombuffer(message.payload, "<f8")[0]))
        elif message.shard == Doing.RESUME and message.length == 8:
            spaces.note_updates(int(np.frombuffer(message.payload, "<i8")[0]))
        return Message(kind, payload, version=version, **self._header(message.sequence))

    def leave(self) -> None:
        """Tell the leader that this partition goes. No answer comes, so it may get lost."""
        self._sequence += 1
        self._send(Message(Kind.LEAVE, b"{}", **self._header(self._sequence)))

    def _header(self, sequence: int) -> dict[str, int]:
        """Return the fields of a message's header that say who sends it."""
        return {
            "run": self._run, "sender": self._joining.partition, "map_epoch": self._life, "sequence": sequence
        }  # fmt: skip

    def close(self) -> None:
        """Hang up."""
        self._dialer.close()

    def _send(self, message: Message) -> None:
        """Send if there is a connection; the leader asks, and this side reports, again."""
        self._dialer.send(self.place, message)


def _read(kind: type[Any], message: Message) -> Any:
    try:
        return read(kind, message.facts(), FrameError)
    except AdamError as error:
        raise TransportError(f"the leader sent what cannot be used: {error}; is it of another version?") from None
