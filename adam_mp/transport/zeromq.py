"""Messages between machines: ZeroMQ over TCP; between processes of one user, over a socket that a file is the name of.

A listener (ROUTER) answers whoever dials it (DEALER). A message is two frames, header and payload; large payloads leave
from and arrive in the memory that the caller sees, with no copy. Queues hold `_QUEUE` messages a peer in each
direction, then `send` says no. Dead connections are found while they should carry something (`connections`), and by the
kernel while they should not (TCP keep-alive); they are dialled again for as long as the endpoint lives. ZeroMQ's own
heartbeats take a connection under back-pressure for dead. Payloads that were queued for a dead connection are `done`
once the endpoint is next used. With keys, both sides prove that they hold the same key file, and all that goes over TCP
is encrypted (CURVE).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import zmq
import zmq.auth.thread

from adam_mp.errors import PlaceError, TransportError
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
_COPIED = 32 << 10  # bytes up to which a copy is cheaper than keeping track
_ALIVE_AFTER, _ALIVE_EVERY, _ALIVE_TIMES = 5, 2, 5  # seconds of silence, seconds between probes, probes
_LINGER = 500  # milliseconds
_HELLO = 3000  # milliseconds a new connection has to prove itself
_DIAL = 2000  # milliseconds for a connection to come about; the kernel's later attempts are ever further apart
_REDIAL, _SLOWEST_REDIAL = 100, 500  # milliseconds between two dials
_MOST_PARTS = 8  # frames of a message that are looked at
_CURVE_BYTES = 64  # at least what encryption adds to a frame
_DELIVERED = Delivered()
NOBODY = "nobody answers there"
ABSENT = (NOBODY, NO_FILE, NO_LISTENER)  # troubles that mean: what should be there does not run
_SILENT = "it is reached and does not answer; is it stopped?"


class _Allowed:
    """ZeroMQ's question whether a key may come in."""

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
        """Count what became of the connections of a socket that is no more."""
        self.values["failed"] += connections.failed
        self.values["lost"] += connections.lost

    def statistics(self, present: Iterable[Connections]) -> TransportStatistics:
        """Return them together with those of sockets that are used."""
        total = _Tally()
        total.values.update(self.values)
        for connections in present:
            connections.look()
            total.end(connections)
        return TransportStatistics(**total.values)


class SocketListener:
    """The side that is dialled; peers are known by the routing identity of their connection.

    One thread may use it. `address` is where it listens, the port filled in.
    """

    def __init__(self, address: Place, keys: Keys | None) -> None:
        self._way = way = way_to_listen(address, keys is not None)
        keys = keys if way.with_keys else None
        self._listens = False
        keep_freed_memory()
        self._tally = _Tally()
        self._context = zmq.Context()
        self._guard: zmq.auth.thread.ThreadAuthenticator | None = None
        if keys is not None:
            self._guard = zmq.auth.thread.ThreadAuthenticator(self._context)
            self._guard.start()
            self._guard.configure_curve_callback("*", credentials_provider=_Allowed(keys))
        self._socket = _socket(self._context, zmq.ROUTER, keys, way)
        self._socket.router_mandatory = True
        self._connections = Connections(self._socket, way.with_keys)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._connections.monitor, zmq.POLLIN)
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
        header = encode(message)  # what raises must do so before the first frame: there is no way back from it
        self._connections.look_if_due()
        try:
            self._socket.send(peer, zmq.SNDMORE | zmq.DONTWAIT)
        except zmq.ZMQError:  # its queue is full, or it is gone
            self._tally.values["full"] += 1
            return None
        self._socket.send(header, zmq.SNDMORE)
        return _send_payload(self._socket, message, self._tally)

    def wait(self, seconds: float, files: Collection[int]) -> set[int]:
        """Wait until something can be received or one of `files` can be read, `seconds` at most; return which can."""
        poller = zmq.Poller()
        for each in (self._socket, self._connections.monitor, *files):
            poller.register(each, zmq.POLLIN)
        found = {each for each, _ in poller.poll(round(seconds * 1000)) if isinstance(each, int)}
        self._connections.look()
        return found

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
        """Come back whenever something can be received, until `seconds` are over."""
        deadline = time.monotonic() + seconds
        late = _QUEUE  # looks after the time is over: unusable frames hide no message, and do not hold us either
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


class SocketDialer:
    """The side that dials; peers are known by the addresses they were dialled at. One thread may use it."""

    def __init__(self, keys: Keys | None) -> None:
        keep_freed_memory()
        self._keys, self._tally = keys, _Tally()
        self._context = zmq.Context()
        self._sockets: dict[Place, zmq.Socket[bytes]] = {}
        self._connections: dict[Place, Connections] = {}
        self._ways: dict[Place, Way] = {}
        self._hung_up: list[Way] = []  # a socket that was hung up may use its own until the end
        self._poller = zmq.Poller()
        self._ready: list[Place] = []

    def dial(self, address: Place) -> None:
        """Connect to `address` in the background, now and whenever the connection is lost."""
        if address in self._sockets:
            return
        way = way_to_dial(address, self._keys is not None)
        keys = self._keys if way.with_keys else None
        self._ways[address] = way
        socket = _socket(self._context, zmq.DEALER, keys, way)
        socket.immediate = True  # nothing waits for a peer that is not there
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

    def hang_up(self, address: Place) -> None:
        """Forget a peer."""
        socket, connections = self._sockets.pop(address, None), self._connections.pop(address, None)
        if socket is not None and connections is not None:
            self._poller.unregister(socket)
            self._poller.unregister(connections.monitor)
            connections.look()
            self._tally.end(connections)
            connections.close()
            socket.close(_LINGER)
            self._hung_up.append(self._ways.pop(address))

    def send(self, peer: Place, message: Message) -> Sent | None:
        """See `Endpoint.send`; None too while the connection is not there yet."""
        socket = self._sockets.get(peer)
        if socket is None:  # it could not be dialled
            return None
        self._connections[peer].look_if_due()
        try:
            socket.send(encode(message), zmq.SNDMORE | zmq.DONTWAIT)
        except zmq.ZMQError:
            self._tally.values["full"] += 1
            return None
        return _send_payload(socket, message, self._tally)

    def receive(self, seconds: float) -> tuple[Place, Message] | None:
        """See `Endpoint.receive`."""
        deadline = time.monotonic() + seconds
        late = _QUEUE  # looks after the time is over: unusable frames hide no message, and do not hold us either
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
                    return address, _message(parts, self._tally)
            left = deadline - time.monotonic()
            found = {socket for socket, _ in self._poller.poll(max(0, round(left * 1000)))}
            if left <= 0:
                if not found:
                    return None
                late -= 1
            self._ready = [address for address, socket in self._sockets.items() if socket in found]
            for connections in self._connections.values():
                _look(connections, found)
        return None

    def trouble(self, address: Place) -> str:
        """Say why a peer does not answer, as far as its connection tells: one of `ABSENT` if nobody is there."""
        connections = self._connections.get(address)
        if connections is None:
            return NOBODY
        connections.look()
        if connections.trouble:
            return connections.trouble
        if connections.reached:
            return _SILENT
        if connections.is_open:
            return MUTE
        return self._ways[address].describe_absence() or NOBODY

    def reaches(self, address: Place) -> bool:
        """Tell whether the connection to a peer has come about, and is open."""
        connections = self._connections.get(address)
        if connections is not None:
            connections.look()
        return connections is not None and connections.reached

    def statistics(self) -> TransportStatistics:
        """See `Endpoint.statistics`."""
        return self._tally.statistics(self._connections.values())

    def close(self) -> None:
        """See `Endpoint.close`."""
        for address in list(self._sockets):
            self.hang_up(address)
        _end(self._context)
        for way in (*self._hung_up, *self._ways.values()):
            way.close()
        self._hung_up.clear()


def _look(connections: Connections, found: Collection[Any]) -> None:
    """See to a socket's connections after a poll that `found` what can be received."""
    if connections.monitor in found:
        connections.look()
    else:
        connections.look_if_due()


def _reason(error: zmq.ZMQError) -> str:
    """Say why an address cannot be used, in the system's words without the library's."""
    if error.errno == errno.ENODEV:  # what ZeroMQ says of a name that it cannot resolve
        return "this machine has no such address"
    return str(zmq.strerror(error.errno)) if error.errno is not None else str(error.strerror)


def _socket(context: zmq.Context[Any], kind: int, keys: Keys | None, way: Way) -> zmq.Socket[bytes]:
    """Return a socket with bounded queues, keep-alive and keys."""
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
    """Return the routing identity, if the socket has them, and the frames; raises zmq.Again if there are none."""
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
    """End a context, but never wait for it: what cannot leave in time is let go."""
    ending = threading.Thread(target=context.term, daemon=True)
    ending.start()
    ending.join(2 * _LINGER / 1000)
