"""A member's link to the coordinator: it joins, reports at intervals, leaves, and sends lost messages again.

The link sends a request under the same sequence until the answer comes. The coordinator gives a repeated sequence the
same answer as before. So a request counts once, however often it arrives.

Sequences grow for as long as the link lives, so an answer fits one request only. They begin at a random number (the
*life*, `new_life`), so another process with the same identity has other sequences.

A server that is not the coordinator says where the coordinator is: the link turns there. If the coordinator is elected
and silent, the link asks the other servers of the bucket map in turn.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from adam_mp.errors import AdamError, JoinError, StoppedError, TransportError
from adam_mp.params.run.listening import Listening
from adam_mp.params.run.member import LIFE
from adam_mp.params.run.news import News
from adam_mp.params.run.statements import Leaving
from adam_mp.transport.forms import read, write
from adam_mp.transport.messages import FrameError, Kind, Message, with_facts
from adam_mp.transport.places import Place, parse_place
from adam_mp.transport.refusal import Refusal, read_refusal
from adam_mp.transport.zeromq import ABSENT, SocketDialer

_AGAIN = 0.5  # seconds after which a request is sent again
_QUIET = 3.0  # seconds without an answer after which the caller is told why
_TURN = 2.0  # seconds without an answer after which another server is asked where an elected coordinator is
_LOOK = 0.05  # seconds that one wait for an answer lasts, before `stop` is asked again
_ANSWERS = {Kind.JOIN: Kind.WELCOME, Kind.REPORT: Kind.ORDERS, Kind.STATUS: Kind.STATE}
_Facts = Mapping[str, Any]
_Answer = TypeVar("_Answer")


class RejoinError(TransportError):
    """The coordinator does not know this member (any more): it must join again."""


def new_identity() -> int:
    """Return a random 63-bit number above 0, which identifies a member for as long as it lives."""
    return int.from_bytes(os.urandom(8), "little") >> 1 | 1


def new_life() -> int:
    """Return the first sequence of a member's life: its upper bits are random, so others cannot guess sequences."""
    return (int.from_bytes(os.urandom(4), "little") or 1) << LIFE


@dataclasses.dataclass
class _Request:
    message: Message
    sent: float


class CoordinatorLink:
    """One member's link to the coordinator. Used by one thread; `run` is 0 until WELCOME has told the run's number."""

    def __init__(self, dialer: SocketDialer, address: Place, identity: int) -> None:
        self.address, self.identity, self.run = address, identity, 0
        self.waiting = ""  # what this member has to wait for before it may join, as it was last told
        self._dialer = dialer
        self._sequence = new_life()
        self._open: _Request | None = None
        self._said = float("-inf")
        self._member = False
        self._listening = Listening()
        self._heard = 0.0
        self._servers: tuple[str, ...] = ()  # which of them is the coordinator may change; () if it cannot
        self._turned = 0.0
        dialer.dial(address)

    def turn_to(self, address: Place) -> None:
        """Ask the coordinator there from now on; an open request is sent there again."""
        if address == self.address:
            return
        self._dialer.hang_up(self.address)
        self.address, self._turned = address, self._listening.seconds
        self._dialer.dial(address)
        if self._open is not None:
            self._open.sent = 0.0

    def join(
        self, facts: _Facts, seconds: float, stop: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda _: None,
    ) -> News:  # fmt: skip
        """Join the run and return the coordinator's news. While the run waits for others, ask again and tell `say` why.

        `say` is also told why the coordinator does not answer, and in both cases for how long this goes on at most.
        Raises JoinError if the coordinator refuses, TransportError if it has not answered or not let this member in
        after `seconds`, StoppedError when `stop` returns True.
        """
        deadline, self._member, missing = self._listened() + seconds, False, ""

        def say_waiting(why: str) -> None:
            say(f"waiting to join {self.address}, for {deadline - self._listened():.0f} s more at most: {why}")

        while True:
            news: News = self.ask(Kind.JOIN, facts, deadline - self._listened(), stop, say_waiting)
            if self._member:
                return news
            before, missing = missing, str(news.waiting)
            if self._listened() + _AGAIN > deadline:  # too late to ask once more
                raise TransportError(f"{self.address} let nobody in within {seconds:g} s: {missing}")
            if missing != before:
                say_waiting(missing)
            time.sleep(0.1)

    def ask(
        self, kind: Kind, facts: _Facts, seconds: float, stop: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda _: None, unreached: float = math.inf,
    ) -> Any:  # fmt: skip
        """Send a request, wait for its answer and return it: the JSON object of STATE, or News.

        After three seconds without an answer, `say` is told why, as far as that is known; each reason once. Raises
        TransportError after `seconds`, or after `unreached` seconds if there is no connection; StoppedError when `stop`
        returns True; RejoinError if the coordinator does not know this member.
        """
        began, said = self._listened(), set[str]()
        self._begin(kind, facts)
        while not stop():
            answer = self._look(_LOOK)
            if answer is not None:
                return answer
            listened = self._listened() - began
            if listened > seconds or (listened > unreached and not self._dialer.reaches(self.address)):
                self._open = None
                raise TransportError(f"{self.address} does not answer for {listened:.0f} s: {self.trouble()}")
            if listened >= _QUIET and (trouble := self.trouble()) not in said:
                said.add(trouble)
                say(trouble)
        self._open = None
        raise StoppedError(f"interrupted before {self.address} answered; start it again to go on")

    def trouble(self) -> str:
        """Say why the coordinator does not answer, and what the user should check."""
        trouble = self._dialer.trouble(self.address)
        return trouble + ("; is 'adam-mp serve-params' running there?" if trouble in ABSENT else "")

    def report(self, make: Callable[[], _Facts], joining: Callable[[], _Facts], interval: float) -> News | None:
        """Take an answer that has come, or send the next report if `interval` seconds have passed. Never waits.

        `make` returns the facts of the report. If the coordinator no longer knows this member, the link joins again
        with the facts that `joining` returns. Return the answer, None if there is none now. Raises TransportError if
        the coordinator refuses.
        """
        if self._open is None and time.monotonic() - self._said >= (interval if self._member else _AGAIN):
            self._begin(*((Kind.REPORT, make()) if self._member else (Kind.JOIN, joining())))
        try:
            answer = self._look(0)
        except RejoinError:
            self._member, self._said = False, float("-inf")
            return None
        except JoinError as error:
            raise TransportError(str(error)) from None  # this member was in the run before, so its settings fit
        return answer if self._member else None

    @property
    def is_elected(self) -> bool:
        """Whether another server may become the coordinator."""
        return bool(self._servers)

    @property
    def who(self) -> str:
        """The coordinator in words, with its address unless that may change."""
        return "the coordinator" if self.is_elected else f"the coordinator at {self.address}"

    @property
    def busy(self) -> bool:
        """Whether a request waits for its answer."""
        return self._open is not None

    @property
    def silence(self) -> float:
        """Seconds in which this member listened since the coordinator's last message."""
        return self._listening.seconds - self._heard

    def leave(self, seconds: float = 1.0, member: int | None = None) -> None:
        """Tell the coordinator that this member goes, or that `member` is dead. No answer comes, so it may get lost."""
        deadline = time.monotonic() + seconds
        self._sequence += 1
        message = with_facts(
            Kind.LEAVE, write(Leaving(member)), run=self.run, sender=self.identity, sequence=self._sequence
        )
        while self._dialer.send(self.address, message) is None and time.monotonic() < deadline:
            time.sleep(_LOOK / 5)

    def close(self) -> None:
        """Hang up on the coordinator."""
        self._open = None
        self._dialer.hang_up(self.address)

    def _listened(self) -> float:
        return self._listening.step(time.monotonic())

    def _begin(self, kind: Kind, facts: _Facts) -> None:
        self._sequence += 1
        run = 0 if kind == Kind.JOIN else self.run
        message = with_facts(kind, facts, run=run, sender=self.identity, sequence=self._sequence)
        self._open = _Request(message, 0.0)
        self._said = time.monotonic()

    def _look(self, seconds: float) -> Any:
        """Send the open request (again) if it is time to, and return its answer if it comes within `seconds`."""
        self._listened()
        if self._open is not None and time.monotonic() - self._open.sent > _AGAIN:
            if self._dialer.send(self.address, self._open.message) is not None:
                self._open.sent = time.monotonic()
            elif seconds:
                time.sleep(_LOOK / 5)
        received = self._dialer.receive(seconds)
        if received is None or self._open is None:
            self._look_elsewhere()
            return None
        message = received[1]
        asked = self._open.message
        if message.kind == Kind.REFUSED and message.sequence == asked.sequence and self._is_elsewhere(message):
            return None
        self._heard = self._turned = self._listening.seconds
        if message.sequence != asked.sequence or message.kind not in (_ANSWERS[asked.kind], Kind.REFUSED):
            return None  # the answer to an earlier request
        try:
            facts = message.facts()
        except FrameError:
            return None
        self._open = None
        if message.kind == Kind.REFUSED:
            refusal = self._read(Refusal, facts)
            reason = f"{self.address} refuses: {refusal.reason}"
            if refusal.rejoin:
                raise RejoinError(reason)
            raise (JoinError if asked.kind == Kind.JOIN else TransportError)(reason)
        if message.kind == Kind.STATE:
            return facts
        news = self._read(News, facts)
        if news.map is not None:
            self._servers = news.map.addresses if news.elected else ()
        self.waiting = news.waiting or ""
        if message.kind == Kind.WELCOME and not news.waiting:
            self.run, self._member = news.run, True
        return news

    def _is_elsewhere(self, message: Message) -> bool:
        """Turn to the coordinator if a server that is not it says where it is; return whether one does.

        Two servers may each take the other for it for a moment, so the link turns back only after a pause.
        """
        try:
            told = read_refusal(message).coordinator
            if not told:
                return False
            again = self._listening.seconds - self._turned < _AGAIN
            self.turn_to(parse_place(told, "the coordinator's address"))
        except AdamError:
            return False
        if again and self._open is not None:
            self._open.sent = time.monotonic()
        return True

    def _look_elsewhere(self) -> None:
        """If an elected coordinator is silent, turn to the next server: it is the new one, or knows who is."""
        if self._open is None or not self._servers or self._listening.seconds - self._turned < _TURN:
            return
        here = str(self.address)
        place = self._servers.index(here) if here in self._servers else -1
        self.turn_to(parse_place(self._servers[(place + 1) % len(self._servers)], "the server's address"))
        self._turned = self._listening.seconds

    def _read(self, kind: type[_Answer], facts: _Facts) -> _Answer:
        try:
            return read(kind, facts, FrameError)
        except FrameError as error:
            raise TransportError(
                f"{self.address} sent what cannot be used: {error}; is it of another version?"
            ) from None
