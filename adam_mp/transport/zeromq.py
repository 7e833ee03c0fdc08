"""The transport by ZeroMQ: over TCP between machines, and over socket files between the processes of one user.

A listener (a ROUTER socket) answers the peers that dial it (DEALER sockets). A message is two frames, header and
payload. Large payloads are sent from the caller's memory and received into memory that the caller gets, with no copy.
Queues hold `_QUEUE` messages a peer in each direction; when a queue is full, `send` returns None.

A connection that dies while bytes are on their way is found and ended by `connections`, an idle one by the kernel (TCP
keep-alive). A dialer dials again for as long as it lives. Bytes that are damaged on the way do worse: ZeroMQ never
again dials a peer whose handshake it cannot read, and a frame with a wrong length swallows all that comes after it. So
a dialer also dials peers anew that ZeroMQ has given up, and those that have taken nothing or answered nothing for
`_WEDGED` seconds. ZeroMQ's own heartbeats are off: they end a connection whose peer is only slow to read. Payloads that
were queued for a dead connection become `done` when the endpoint is next used.

With keys, both sides prove that they hold the same key file, and everything that goes over TCP is encrypted (CURVE).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import zmq

from adam_mp.errors import AdamError, PlaceError, TransportError
from adam_mp.machine import keep_freed_memory
from adam_mp.transport.addresses import Address
from adam_mp.transport.connections import MUTE, Connections
from adam_mp.transport.endpoint import Delivered, Sent, TransportStatistics
from adam_mp.transport.keys import Keys
from adam_mp.transport.messages import LONGEST, FrameError, Message, decode, encode
from adam_mp.transport.places import Place, Way, way_to_dial, way_to_listen
from adam_mp.transport.refusal import Refusal, refusal_message
from adam_mp.transport.socket_files import NO_FILE, NO_LISTENER

_QUEUE = 16  # messages
_COPIED = 32 << 10  # bytes; copying a payload up to this size is cheaper than tracking when it has left
_ALIVE_AFTER, _ALIVE_EVERY, _ALIVE_TIMES = 5, 2, 5  # seconds of silence, seconds between probes, probes
_LINGER = 500  # milliseconds
_HELLO = 3000  # milliseconds for the handshake of a new connection
_DIAL = 2000  # milliseconds for the kernel to connect, then ZeroMQ dials anew: the kernel itself tries ever more rarely
_REDIAL, _SLOWEST_REDIAL = 100, 500  # milliseconds between two dials: at first, and at most
_WEDGED = 10.0  # seconds in which this side listened for an answer
_LOOK = 0.5  # seconds between two looks for it; if twice that have passed, this process did not listen
_FREE_WITHIN, _SELDOM = 5.0, 0.05  # seconds for which a place in use is tried, and between two tries
_MOST_PARTS = 8  # frames of a message that are kept; more are read and thrown away
_CURVE_BYTES = 64  # at least what encryption adds to a frame
_DELIVERED = Delivered()
NOBODY = "nobody answers there"  # the reason for a peer that is not reached, when nothing more is known
ABSENT = (NOBODY, NO_FILE, NO_LISTENER)  # the reasons that mean: the peer does not run
_SILENT = "it is reached and does not answer; is it stopped?"


class _Allowed:
    """Answers ZeroMQ's question whether a peer with a certain public key may connect: only with the run's own key."""

    def __init__(self, keys: Keys) -> None:
        self._key = keys.public

    def callback(self, _domain: str, key: bytes) -> bool:
        return key == self._key


class _Tally:
    """The counters of an endpoint."""

    def __init__(self) -> None:
        self.values = dict.fromkeys((field.name for field in dataclasses.fields(TransportStatistics)), 0)

    def count(self, direction: str, size: int) -> None:
        self.values[direction] += 1
        self.values[f"bytes_{direction}"] += size

    def end(self, connections: Connections) -> None:
        """Add what became of the connections of a socket that is closed now."""
        self.values["failed"] += connections.failed
        self.values["lost"] += connections.lost

    def statistics(self, present: Iterable[Connections]) -> TransportStatistics:
        """Return the counters, together with those of the sockets that are open (`present`)."""
        total = _Tally()
        total.values.update(self.values)
        for connections in present:
            connections.step()
            total.end(connections)
        return TransportStatistics(**total.values)


class SocketListener:
    """The endpoint that peers dial; a peer is named by the routing identity of its connection.

    Only one thread may use it. `address` is where it listens; if port 0 was asked for, with the port that the system
    chose. Raises SettingsError and TransportError as `way_to_listen` does, and TransportError if it cannot listen.
    """

    def __init__(self, address: Place, keys: Keys | None) -> None:
        self._way = way = way_to_listen(address, keys is not None)
        keys = keys if way.with_keys else None
        self._listens = False
        keep_freed_memory()
        self._tally = _Tally()
        self._context = zmq.Context()
        self._guard: Any = None
        if keys is not None:
            from zmq.auth.thread import (
                ThreadAuthenticator,  # imports asyncio, for which runs without keys need not wait
            )

            self._guard = ThreadAuthenticator(self._context)
            self._guard.start()
            self._guard.configure_curve_callback("*", credentials_provider=_Allowed(keys))
        self._socket = _socket(self._context, zmq.ROUTER, keys, way)
        self._socket.router_mandatory = True
        self._connections = Connections(self._socket, way.with_keys)
        self._poller = _poller_of(self._socket, self._connections.monitor)
        self._waiting: tuple[tuple[Any, ...], zmq.Poller] = ((), self._poller)
        if keys is not None:
            self._socket.curve_server = True
        try:
            self._socket.bind(way.endpoint)
        except zmq.ZMQError as error:
            self.close()
            kind = TransportError if error.errno == errno.EADDRINUSE else PlaceError
            raise kind(f"cannot listen on {address}: {_reason(error)}; choose another --listen") from None
        self._listens = True
        self.address = address
        if isinstance(address, Address):
            bound = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
            self.address = Address(address.host, int(bound.rpartition(":")[2]))

    def send(self, peer: bytes, message: Message) -> Sent | None:
        """See `Endpoint.send`."""
        header = encode(message)  # before the first frame is sent: an error after that would leave half a message
        self._connections.step_if_due()
        try:
            self._socket.send(peer, zmq.SNDMORE | zmq.DONTWAIT)
        except zmq.ZMQError:  # the peer's queue is full, or the peer is gone
            self._tally.values["full"] += 1
            return None
        self._socket.send(header, zmq.SNDMORE)
        return _send_payload(self._socket, message, self._tally)

    def wait(self, seconds: float, files: Sequence[Any]) -> set[Any]:
        """Wait at most `seconds` until a message can be received or one of `files` can be read.

        Returns those of `files`, descriptors and monitors of a `SocketDialer`, that can be read, and this listener if a
        message can be received.
        """
        if self._waiting[0] != tuple(files):
            self._waiting = (tuple(files), _poller_of(self._socket, self._connections.monitor, *files))
        found: set[Any] = {each for each, _ in self._waiting[1].poll(math.ceil(seconds * 1000))}
        _look(self._connections, found)
        if self._socket in found:
            found.add(self)
        return found - {self._socket, self._connections.monitor}

    def receive(self, seconds: float) -> tuple[bytes, Message] | None:
        """See `Endpoint.receive`."""
        for _ in self._until(seconds):
            peer, parts = _receive_parts(self._socket, 1)
            try:
                message = _message(parts, self._tally)
            except FrameError as error:
                self.send(peer, refusal_message(Refusal(str(error))))
                continue
            return peer, message
        return None

    def _until(self, seconds: float) -> Iterator[None]:
        """Yield whenever frames can be received, until `seconds` are over."""
        deadline = time.monotonic() + seconds
        # Frames that still may be read after the deadline: invalid ones must neither hide a message behind them nor
        # hold the caller for long.
        late = _QUEUE
        while late:
            left = deadline - time.monotonic()
            found = {socket for socket, _ in self._poller.poll(max(0, round(left * 1000)))}
            _look(self._connections, found)
            if self._socket in found:
                late -= left <= 0
                yield
            elif left <= 0:
                return

    def statistics(self) -> TransportStatistics:
        """See `Endpoint.statistics`."""
        return self._tally.statistics([self._connections])

    def close(self) -> None:
        """See `Endpoint.close`."""
        if self._listens:
            self._way.end_listening()
            self._listens = False
        self._connections.close()
        self._socket.close(_LINGER)
        if self._guard is not None:
            self._guard.stop()
        _end(self._context)
        self._way.close()


def listen_when_free(place: Place, keys: Keys | None) -> SocketListener:
    """Return a listener at a place that an earlier process may still hold for a moment.

    Raises what `SocketListener` raises; a TransportError, because the place is in use, only after `_FREE_WITHIN`.
    """
    deadline = time.monotonic() + _FREE_WITHIN
    while True:
        try:
            return SocketListener(place, keys)
        except PlaceError:
            raise
        except TransportError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_SELDOM)


class SocketDialer:
    """The endpoint that dials peers; a peer is named by the place that was dialled. Only one thread may use it.

    `answered` says that peers answer what is sent to them; what they do not answer, the user of a dialer sends again.
    `renewed` counts the connections that this side gave up and dialled anew; like those that the statistics call lost,
    they may have swallowed what was sent.
    """

    def __init__(self, keys: Keys | None, answered: bool = True) -> None:
        keep_freed_memory()
        self._answered, self._looked = answered, time.monotonic()
        # For how many seconds peers have not answered, and taken nothing that was to be sent.
        self._unanswered: dict[Place, float] = {}
        self._refusing: dict[Place, float] = {}
        self._keys, self._tally, self.renewed = keys, _Tally(), 0
        self._context = zmq.Context()
        self._sockets: dict[Place, zmq.Socket[bytes]] = {}
        self._connections: dict[Place, Connections] = {}
        self._ways: dict[Place, Way] = {}
        self._hung_up: list[Way] = []  # ways of closed sockets, which may use them until the context ends
        self._poller = zmq.Poller()
        self._ready: list[Place] = []

    def dial(self, address: Place) -> None:
        """Connect to `address` in the background: once now, and anew each time the connection is lost.

        Raises SettingsError as `way_to_dial` does, TransportError if ZeroMQ cannot use the address.
        """
        if address in self._sockets:
            return
        way = way_to_dial(address, self._keys is not None)
        keys = self._keys if way.with_keys else None
        self._ways[address] = way
        socket = _socket(self._context, zmq.DEALER, keys, way)
        socket.immediate = True  # queue messages only for a connection that exists
        if keys is not None:
            socket.curve_serverkey = keys.public
        connections = Connections(socket, way.with_keys)
        self._sockets[address], self._connections[address] = socket, connections
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(connections.monitor, zmq.POLLIN)
        try:
            socket.connect(way.endpoint)
        except zmq.ZMQError as error:
            self.hang_up(address)
            raise PlaceError(f"cannot dial {address}: {_reason(error)}; give HOST:PORT or unix:FILE") from None

    def renew(self, address: Place) -> None:
        """Close the connection to a peer and dial anew; what was sent and has not left is lost."""
        self.renewed += 1
        trouble = self._connections[address].trouble if address in self._connections else ""
        self.hang_up(address)
        with contextlib.suppress(AdamError):  # then there is no connection, and whoever needs one dials
            self.dial(address)
            self._connections[address].trouble = trouble

    def _look_after(self) -> None:
        """Twice a second, dial peers anew that ZeroMQ has given up, or that have taken or answered nothing for long."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        passed, self._looked = min(now - self._looked, 2 * _LOOK), now
        for seconds in (self._unanswered, self._refusing):
            for address in seconds:
                seconds[address] += passed
        for address, connections in list(self._connections.items()):
            stands = max(self._unanswered.get(address, 0.0), self._refusing.get(address, 0.0))
            is_wedged = connections.reached and stands > _WEDGED
            if is_wedged or connections.is_given_up(now):
                self.renew(address)

    def hang_up(self, address: Place) -> None:
        """Close the connection to a peer and forget the peer."""
        self._unanswered.pop(address, None)
        self._refusing.pop(address, None)
        socket, connections = self._sockets.pop(address, None), self._connections.pop(address, None)
        if socket is not None and connections is not None:
            self._poller.unregister(socket)
            self._poller.unregister(connections.monitor)
            connections.step()
            self._tally.end(connections)
            connections.close()
            socket.close(_LINGER)
            self._hung_up.append(self._ways.pop(address))

    def send(self, peer: Place, message: Message) -> Sent | None:
        """See `Endpoint.send`; returns None also while there is no connection to the peer."""
        self._look_after()
        socket = self._sockets.get(peer)
        if socket is None:  # `dial` failed
            return None
        self._connections[peer].step_if_due()
        try:
            socket.send(encode(message), zmq.SNDMORE | zmq.DONTWAIT)
        except zmq.ZMQError:
            self._tally.values["full"] += 1
            self._refusing.setdefault(peer, 0.0)
            return None
        self._refusing.pop(peer, None)
        if self._answered:
            self._unanswered.setdefault(peer, 0.0)
        return _send_payload(socket, message, self._tally)

    def receive(self, seconds: float) -> tuple[Place, Message] | None:
        """See `Endpoint.receive`."""
        deadline = time.monotonic() + seconds
        late = _QUEUE  # looks after the deadline: see `SocketListener._until`
        while late:
            while self._ready:  # one message of each peer in turn
                address = self._ready.pop()
                if address not in self._sockets:
                    continue
                try:
                    _, parts = _receive_parts(self._sockets[address], 0)
                except zmq.Again:
                    continue
                with contextlib.suppress(FrameError):
                    message = _message(parts, self._tally)
                    self._unanswered.pop(address, None)
                    return address, message
            left = deadline - time.monotonic()
            found = {socket for socket, _ in self._poller.poll(max(0, round(left * 1000)))}
            if left <= 0:
                if not found:
                    self._look_after()
                    return None
                late -= 1
            self._ready = [address for address, socket in self._sockets.items() if socket in found]
            for connections in self._connections.values():
                _look(connections, found)
        return None

    def trouble(self, address: Place) -> str:
        """Say why a peer does not answer, as far as ZeroMQ has told: one of `ABSENT` if the peer does not run."""
        connections = self._connections.get(address)
        if connections is None:
            return NOBODY
        connections.step()
        if connections.trouble:
            return connections.trouble
        if connections.reached:
            return _SILENT
        if connections.is_open:
            return MUTE
        return self._ways[address].describe_absence() or NOBODY

    @property
    def monitors(self) -> list[Any]:
        """What `SocketListener.wait` waits for to hear of connections that begin or break; `reaches` tells which."""
        return [connections.monitor for connections in self._connections.values()]

    def reaches(self, address: Place) -> bool:
        """Return whether the connection to a peer is open and had a good handshake."""
        connections = self._connections.get(address)
        if connections is not None:
            connections.step()
        return connections is not None and connections.reached

    def statistics(self) -> TransportStatistics:
        """See `Endpoint.statistics`."""
        return self._tally.statistics(self._connections.values())

    def close(self) -> None:
        """See `Endpoint.close`."""
        for address in list(self._sockets):
            self.hang_up(address)
        _end(self._context)
        for way in (*self._hung_up, *self._ways.values()):  # only now: closed sockets used theirs until here
            way.close()
        self._hung_up.clear()


def _poller_of(*sockets: Any) -> zmq.Poller:
    poller = zmq.Poller()
    for each in sockets:
        poller.register(each, zmq.POLLIN)
    return poller


def _look(connections: Connections, found: Collection[Any]) -> None:
    """Look at a socket's connections; `found` are the sockets and monitors that have something to receive."""
    if connections.monitor in found:
        connections.step()
    else:
        connections.step_if_due()


def _reason(error: zmq.ZMQError) -> str:
    """Say why an address cannot be used, in the words of the operating system."""
    if error.errno == errno.ENODEV:  # ZeroMQ gives this for a name that it cannot resolve
        return "this machine has no such address"
    return str(zmq.strerror(error.errno)) if error.errno is not None else str(error.strerror)


def _socket(context: zmq.Context[Any], kind: int, keys: Keys | None, way: Way) -> zmq.Socket[bytes]:
    """Return a socket with bounded queues, TCP keep-alive, time limits and, if there are any, keys."""
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.sndhwm = socket.rcvhwm = _QUEUE
    socket.maxmsgsize = LONGEST + _CURVE_BYTES
    socket.tcp_keepalive, socket.tcp_keepalive_idle = 1, _ALIVE_AFTER
    socket.tcp_keepalive_intvl, socket.tcp_keepalive_cnt = _ALIVE_EVERY, _ALIVE_TIMES
    socket.connect_timeout, socket.handshake_ivl = _DIAL, _HELLO
    socket.reconnect_ivl, socket.reconnect_ivl_max = _REDIAL, _SLOWEST_REDIAL
    socket.ipv6 = way.is_version_6
    if keys is not None:
        socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
    return socket


def _send_payload(socket: zmq.Socket[bytes], message: Message, tally: _Tally) -> Sent:
    length = message.length
    tally.count("sent", length)
    if length <= _COPIED:
        socket.send(message.payload)
        return _DELIVERED
    tracker: Sent = socket.send(message.payload, copy=False, track=True)
    return tracker


def _receive_parts(socket: zmq.Socket[bytes], addressed: int) -> tuple[bytes, list[Any]]:
    """Return (routing identity of the sender, frames) of the next message; raises zmq.Again if there is none.

    `addressed` is 1 for a ROUTER socket, whose messages begin with the identity, and 0 for others: then the identity is
    b"". Frames beyond `_MOST_PARTS` are read and thrown away.
    """
    peer = socket.recv(zmq.DONTWAIT) if addressed else b""
    parts: list[Any] = []
    while not parts or socket.getsockopt(zmq.RCVMORE):
        frame = socket.recv(zmq.DONTWAIT, copy=False)
        if len(parts) < _MOST_PARTS:
            parts.append(frame.buffer)
    return peer, parts


def _message(parts: list[Any], tally: _Tally) -> Message:
    try:
        if len(parts) != 2:
            raise FrameError(f"message has {len(parts)} frames; expected header and payload")
        message = decode(*parts)
    except FrameError:
        tally.values["dropped"] += 1
        raise
    tally.count("received", message.length)
    return message


def _end(context: zmq.Context[Any]) -> None:
    """End a ZeroMQ context within twice `_LINGER`; messages that have not left by then are lost."""
    ending = threading.Thread(target=context.term, daemon=True)
    ending.start()
    ending.join(2 * _LINGER / 1000)
