"""The connections of a ZeroMQ socket: what its monitor tells of them, and an end to those that carry nothing.

The kernel sends unacknowledged bytes again after 0.2, 0.4, 0.8 s and so on: once a network that was cut for 30 s is
back, up to 30 s more pass before anything is sent. So a connection whose peer's kernel leaves several of these attempts
without any answer, for `_DEAF` seconds, is ended here, and ZeroMQ dials anew. The kernel of a peer that reads nothing
(its queues are full, or it is stopped) answers every attempt: such a connection stays. A time limit of the kernel
(TCP_USER_TIMEOUT) does not tell the two apart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

_DEAF = 3.0  # seconds without any answer of the peer's kernel
_ATTEMPTS = 3  # to send the same bytes, none of them answered
_PROBES = 2  # of a peer that had no room for more bytes
_LOOK = 0.5  # seconds between looks at the connections
_SELDOM = 0.02  # seconds between looks at the monitor by who is not told that it has something
# In the kernel's struct tcp_info: probes without an answer; milliseconds since an answer; segments sent again.
_PROBES_AT, _HEARD_AT, _RESENT_AT, _INFO_BYTES = 3, 56, 100, 104
# What a failed handshake means to one that was given keys, and to one that was given none.
FAILURES: dict[tuple[int, bool], str] = {
    (zmq.EVENT_HANDSHAKE_FAILED_AUTH, True): "it refuses this key file; give that of the run",
    (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, True): "it has no keys; start it with this key file too, or give none here",
    (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, False): "it expects keys; give the run's --key-file",
    (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, True): "it ends the connection at once; does it have another key file?",
    (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, False): "it ends the connection at once; does it expect a --key-file?",
}
_STRANGER = "what answers there is no part of a run; give the address of one"
MUTE = "it takes the connection and says nothing; is it stopped, or no part of a run?"
_FAILED = sum({event for event, _ in FAILURES})
_OPENED = zmq.EVENT_CONNECTED | zmq.EVENT_ACCEPTED
_UNREACHED = zmq.EVENT_CLOSED  # of a socket that dials: an attempt to connect failed
_EVENTS = _OPENED | zmq.EVENT_HANDSHAKE_SUCCEEDED | _FAILED | zmq.EVENT_DISCONNECTED | _UNREACHED


@dataclasses.dataclass
class _Heard:
    """When the kernel of a connection's peer was last heard, and how many segments had been sent again by then."""

    at: float
    resent: int


class Connections:
    """All connections of one socket, from now on; used by the thread that uses the socket.

    `failed` counts handshakes that failed, `lost` connections that ended after theirs, whoever ended them. `trouble`
    says what was wrong with the last handshake, nothing if nobody was there for one. `reached`, of a socket that dials,
    is whether its connection has had its handshake and is open. Whoever uses the socket calls `look_if_due` each time,
    and `look` when `monitor` has something to receive: untaken, what ZeroMQ tells stops all of the socket's traffic at
    some point.
    """

    def __init__(self, of: zmq.Socket[bytes], has_keys: bool) -> None:
        self.monitor = of.get_monitor_socket(_EVENTS)
        self.failed = self.lost = 0
        self.trouble, self.reached = "", False
        self._socket, self._has_keys = of, has_keys
        self._failing = 0  # connections whose handshake failed, and whose end is told next
        self._open: dict[int, _Heard] = {}  # by their descriptors
        self._taken = self._looked = time.monotonic()

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, its handshake over or not."""
        return bool(self._open)

    def look_if_due(self) -> None:
        """Do as `look` does, unless that was done just now: a look takes longer than to send a small message."""
        if time.monotonic() - self._taken >= _SELDOM:
            self.look()

    def look(self) -> None:
        """Take what ZeroMQ tells, and end connections that are dead."""
        while not self.monitor.closed and int(self.monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._take(recv_monitor_message(self.monitor))
        now = self._taken = time.monotonic()
        if now - self._looked >= _LOOK:
            self._looked = now
            for descriptor, heard in self._open.items():
                _end_if_dead(descriptor, heard, now)

    def close(self) -> None:
        """Give the monitor back, before the socket is closed."""
        if not self.monitor.closed:
            self._socket.disable_monitor()
            self.monitor.close(0)

    def _take(self, told: Mapping[str, Any]) -> None:
        event, value = int(told["event"]), int(told["value"])
        if event & _OPENED:
            self._open[value] = _Heard(time.monotonic(), 0)
        elif event == zmq.EVENT_DISCONNECTED:
            self._open.pop(value, None)
            self.reached = False
            if self._failing:
                self._failing -= 1
            else:
                self.lost += 1
        elif event == _UNREACHED:
            self.trouble = ""
        else:
            self.trouble = _failure(event, value, self._has_keys)
            self.reached = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            if event & _FAILED:
                self.failed += 1
                self._failing += 1


def _end_if_dead(descriptor: int, heard: _Heard, now: float) -> None:
    """Look at a connection of ZeroMQ, and note in `heard` whether its peer was heard since; end it if it is dead.

    ZeroMQ may have closed the descriptor by now, and another file may have it: what is no TCP connection is left alone.
    """
    with contextlib.suppress(OSError):
        own = os.dup(descriptor)
        try:
            connection = socket.socket(fileno=own)
        except OSError:  # no socket
            os.close(own)
            return
        with connection:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
            if len(info) == _INFO_BYTES and is_dead(info, heard, now):
                connection.shutdown(socket.SHUT_RDWR)


def is_dead(info: bytes, heard: _Heard, now: float) -> bool:
    """Tell from the kernel's `info` whether a connection is dead; bring `heard` up to date.

    The connection is dead if the peer left several attempts unanswered since its last answer. The age of that answer is
    not enough: the kernel soon waits longer between attempts.
    """
    silence, resent = (struct.unpack_from("=I", info, place)[0] for place in (_HEARD_AT, _RESENT_AT))
    at = now - silence / 1000
    if at > heard.at + _LOOK / 10:
        heard.at, heard.resent = at, resent
    unanswered = resent - heard.resent >= _ATTEMPTS or info[_PROBES_AT] >= _PROBES
    return unanswered and now - heard.at >= _DEAF


def _failure(event: int, detail: int, has_keys: bool) -> str:
    """Say what ZeroMQ tells about a handshake; nothing if that went well."""
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and detail != zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
        return _STRANGER
    if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and detail == errno.EAGAIN:
        return MUTE  # it did not say anything in time
    return FAILURES.get((event, has_keys), "")
