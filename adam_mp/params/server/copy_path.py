"""The network path of copies: a thread with sockets of its own sends and takes copies, and beats.

    server's thread                      this thread
      post(copy) ───────── queue ──────▶   ── COPY, COPIED ──▶ the other servers' addresses for copies
      take() ◀──────────── queue ───────   ◀─ COPY, COPIED ──
                                           ── BEAT, each `beat` seconds ──▶
      silence(address) ◀── when heard ──   ◀─ BEAT ──

Beats leave through connections of their own, so they do not wait behind copies. A message of any kind tells that its
sender lives. A connection that breaks tells at once that it does not. Each server sends through its own connections
only, so no message is an answer on the connection of another.

While the server's thread does not take what came, this thread reads no more, and nobody counts as silent meanwhile. If
the server's thread takes nothing for `_HUNG` seconds, beats end: then another server takes its place.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from adam_mp.errors import AdamError, TransportError
from adam_mp.params.run.listening import Listening
from adam_mp.transport.keys import Keys
from adam_mp.transport.messages import Kind, Message
from adam_mp.transport.places import Place, parse_place
from adam_mp.transport.zeromq import SocketDialer, SocketListener

_TURN = 0.05  # seconds that the thread waits for a message, at most
_BLOCKED = 0.01  # the same while a message cannot be sent, or cannot be handed on
_LONGEST_TURN = 0.1  # seconds of a turn that count as silence of others: in a longer one this process did not run
_LATE = 0.05  # seconds
_MOST_POSTED = 64  # messages to a server that wait to be sent
_HUNG = 5.0  # seconds
_UNREAD = 16  # copies that wait for the server's thread; then the thread reads no more, and primaries wait


class CopyPath(Protocol):
    """How a server reaches the others about copies. Addresses are those for copies, as the bucket map has them."""

    def connect(self, others: Mapping[int, str], header: Mapping[str, int]) -> None:
        """From now on reach these servers (identity -> address); `header` has the header fields of beats."""

    def post(self, address: str, message: Message) -> bool:
        """Queue a message for a server; return False if its queue is full."""

    def take(self) -> Message | None:
        """Return the next message, None if there is none."""

    def renew(self) -> None:
        """Make connections to all servers anew: others do not hear this server."""

    def silence(self, address: str) -> float:
        """Return for how many seconds a server has been silent; more than `patience` if its connection broke."""

    def unheard(self, address: str) -> float:
        """Return how many seconds ago a server was heard last."""

    @property
    def bytes_sent(self) -> int:
        """How many bytes of copies were sent."""


class Others:
    """When the other servers were heard. Written by one thread, read by others; times are seconds of listening."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._heard: dict[str, float] = {}
        self._broke: dict[str, float] = {}
        self._reached: set[str] = set()
        self.listened = 0.0

    def expect(self, addresses: frozenset[str]) -> None:
        """Know these servers, and no others; a new one counts as heard now."""
        for address in addresses - self._heard.keys():
            self._heard[address] = self.listened
        for address in self._heard.keys() - addresses:
            for known in (self._heard, self._broke):
                known.pop(address, None)
            self._reached.discard(address)

    def hear(self, address: str) -> None:
        """Note a message of a server. One that was read just after its connection broke may have come before."""
        if address in self._heard:
            self._heard[address] = self.listened
            if self.listened - self._broke.get(address, self.listened) > _LATE:
                del self._broke[address]

    def see(self, address: str, reached: bool) -> bool:
        """Note whether there is a connection to a server; return whether it has just broken."""
        if reached:
            self._reached.add(address)
            self._broke.pop(address, None)
        elif address in self._reached:
            self._reached.discard(address)
            self._broke[address] = self.listened
            return True
        return False

    def forget_reached(self, address: str) -> None:
        """Note that this side ends a connection itself, which tells nothing of the other."""
        self._reached.discard(address)

    def silence(self, address: str) -> float:
        """See `CopyPath.silence`."""
        heard, broke = self._heard.get(address), self._broke.get(address)
        if heard is None:
            return 0.0
        silent = self.listened - heard
        return silent if broke is None else max(silent, 1.001 * self._patience + self.listened - broke)

    def unheard(self, address: str) -> float:
        """See `CopyPath.unheard`."""
        return self.listened - self._heard.get(address, self.listened)


class CopyThread:
    """The path by ZeroMQ. `listener` is this server's address for copies; the thread ends it.

    A server is missing when it is silent for `patience` seconds. `heard` is readable whenever a message waits for
    `take`, for the server's thread to wait for it.
    """

    def __init__(self, listener: SocketListener, keys: Keys | None, beat: float, patience: float) -> None:
        self._listener, self._keys, self._beat = listener, keys, beat
        self.heard, self._posted = (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2))
        self._others = Others(patience)
        self._wanted: tuple[Mapping[int, str], Mapping[str, int]] = ({}, {})
        self._out: dict[str, deque[Message]] = {}
        self._in: deque[Message] = deque()
        self._taken = time.monotonic()  # when the server's thread last looked
        self._error: Exception | None = None  # that ended the thread
        self.bytes_sent = 0
        self._ends = self._renews = False
        self._thread = threading.Thread(target=self._run, name="copies", daemon=True)
        self._thread.start()

    def connect(self, others: Mapping[int, str], header: Mapping[str, int]) -> None:
        """See `CopyPath.connect`."""
        self._wanted = (dict(others), dict(header))

    def post(self, address: str, message: Message) -> bool:
        """See `CopyPath.post`."""
        queued = self._out.setdefault(address, deque())
        if address not in self._wanted[0].values() or len(queued) >= _MOST_POSTED:
            return False
        queued.append(message)
        os.eventfd_write(self._posted, 1)
        return True

    def take(self) -> Message | None:
        """See `CopyPath.take`. Raises TransportError if the thread has ended by an error."""
        if self._error is not None:
            raise TransportError(f"copies cannot be sent or taken any more: {self._error!r}")
        self._taken = time.monotonic()
        if self._in:
            return self._in.popleft()
        _clear(self.heard)
        return self._in.popleft() if self._in else None  # one may have come between

    def renew(self) -> None:
        """See `CopyPath.renew`."""
        self._renews = True

    def silence(self, address: str) -> float:
        """See `CopyPath.silence`."""
        return self._others.silence(address)

    def unheard(self, address: str) -> float:
        """See `CopyPath.unheard`."""
        return self._others.unheard(address)

    def close(self, seconds: float = 2.0) -> None:
        """End the thread and its sockets."""
        if self._ends:
            return
        self._ends = True
        os.eventfd_write(self._posted, 1)
        self._thread.join(seconds)
        if not self._thread.is_alive():
            os.close(self.heard)
            os.close(self._posted)

    # The thread.

    def _run(self) -> None:
        copies, beats = (SocketDialer(self._keys, answered=False) for _ in range(2))
        try:
            self._carry(copies, beats)
        except Exception as error:  # the server's thread raises it
            self._error = error
            os.eventfd_write(self.heard, 1)
        finally:
            for each in (copies, beats, self._listener):
                each.close()

    def _carry(self, copies: SocketDialer, beats: SocketDialer) -> None:
        places: dict[str, Place] = {}
        wanted, listening, beaten, read_all = None, Listening(_LONGEST_TURN), float("-inf"), True
        files: list[Any] = []
        changed = True  # whether a connection may have begun or broken
        while not self._ends:
            if wanted is not self._wanted:
                wanted = self._wanted
                places = self._dial(frozenset(wanted[0].values()), places, copies, beats)
                files, changed = [self._posted, *beats.monitors], True
            if self._renews:
                self._renews = False
                for address, place in places.items():
                    self._others.forget_reached(address)
                    beats.renew(place)
                    copies.renew(place)
            now, before = time.monotonic(), listening.seconds
            passed = listening.step(now) - before
            self._others.listened += passed if read_all else 0.0
            if now - beaten >= self._beat:
                beaten, changed = now, True
                if now - self._taken < _HUNG:
                    for place in places.values():
                        beats.send(place, Message(Kind.BEAT, **wanted[1]))
            if changed:
                self._see(places, beats)
            turn = min(_TURN, max(0.001, beaten + self._beat - now)) if self._send(places, copies) else _BLOCKED
            if len(self._in) >= _UNREAD:
                time.sleep(_BLOCKED)
                read_all, changed = False, True
            else:
                found = self._listener.wait(turn, files)
                changed = not found <= {self._posted, self._listener}
                read_all = self._receive(wanted[0]) if self._listener in found else True

    def _see(self, places: Mapping[str, Place], beats: SocketDialer) -> None:
        """Note which servers are connected; if a connection broke, wake the server's thread."""
        broke = [self._others.see(address, beats.reaches(place)) for address, place in places.items()]
        if any(broke):
            os.eventfd_write(self.heard, 1)

    def _dial(
        self, addresses: frozenset[str], before: Mapping[str, Place], copies: SocketDialer, beats: SocketDialer
    ) -> dict[str, Place]:  # fmt: skip
        self._others.expect(addresses)
        for address in before.keys() - addresses:
            copies.hang_up(before[address])
            beats.hang_up(before[address])
        places = {}
        for address in addresses:
            with contextlib.suppress(AdamError):  # one that cannot be dialled stays silent, and so is replaced
                place = parse_place(address, "the server's address for copies")
                copies.dial(place)
                beats.dial(place)
                places[address] = place
        return places

    def _send(self, places: Mapping[str, Place], copies: SocketDialer) -> bool:
        """Send what is posted; what cannot be sent now stays, in its order. Return whether nothing stays."""
        _clear(self._posted)
        for address, queued in list(self._out.items()):
            if address not in self._wanted[0].values():
                queued.clear()
            while queued and address in places and copies.send(places[address], queued[0]) is not None:
                self.bytes_sent += queued.popleft().length
        return not any(self._out.values())

    def _receive(self, known: Mapping[int, str]) -> bool:
        """Take what came, up to a bound. Return whether that was all there was."""
        came = False
        while len(self._in) < _UNREAD and (received := self._listener.receive(0)) is not None:
            message = received[1]
            address = known.get(message.sender)
            if address is None:
                continue
            self._others.hear(address)
            if message.kind != Kind.BEAT:
                self._in.append(message)
                came = True
        if came:
            os.eventfd_write(self.heard, 1)
        return len(self._in) < _UNREAD


def _clear(descriptor: int) -> None:
    try:
        os.eventfd_read(descriptor)
    except BlockingIOError:
        pass
