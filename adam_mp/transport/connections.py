"""The connections of a ZeroMQ socket: what its monitor reports about them, and the end of dead ones.

The kernel sends unacknowledged bytes again after 0.2, 0.4, 0.8 s and so on. If a network was cut for 30 s, up to 30 s
more pass after it is back before the kernel sends again. So this module ends a connection when the peer's kernel has
left several such attempts unanswered for `_DEAF` seconds, and ZeroMQ dials anew. If the peer is only slow to read (its
queues are full, or it is stopped), its kernel answers every attempt, and the connection stays. The kernel's own time
limit (TCP_USER_TIMEOUT) does not distinguish the two cases.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import socket
import struct
import time

import zmq

_EVENT = struct.Struct("=Hi")  # the first frame of what a monitor reports: the event, and its value
_DEAF = 3.0  # seconds without any answer of the peer's kernel
_ATTEMPTS = 3  # unanswered attempts to send the same bytes
_PROBES = 2  # unanswered probes of a peer that had no room for more bytes
_LOOK = 0.5  # seconds between looks at the connections
_GIVEN_UP = 6.0  # seconds without any event: more than an attempt to connect and the handshake may take
_SELDOM = 0.02  # seconds between looks at the monitor by `step_if_due`
# Offsets in the kernel's struct tcp_info: probes without an answer; milliseconds since an answer; segments sent again.
_PROBES_AT, _HEARD_AT, _RESENT_AT, _INFO_BYTES = 3, 56, 100, 104
# (event, whether this side has keys) -> what a failed handshake means.
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
_UNREACHED = zmq.EVENT_CLOSED  # on a socket that dials: an attempt to connect failed
_EVENTS = _OPENED | zmq.EVENT_HANDSHAKE_SUCCEEDED | _FAILED | zmq.EVENT_DISCONNECTED | _UNREACHED


@dataclasses.dataclass
class _Heard:
    """When the peer's kernel answered last (`at`), and how many segments had been sent again by then (`resent`)."""

    at: float
    resent: int


class Connections:
    """All connections that one socket opens from now on. Only the thread that uses the socket may use it.

    `failed` counts failed handshakes. `lost` counts connections that ended after a good handshake, whichever side ended
    them. `trouble` says what was wrong with the last handshake, "" if nothing, or if nobody was there for one.
    `reached`, of a socket that dials, is whether its connection is open and had a good handshake. The thread calls
    `step_if_due` whenever it uses the socket, and `step` when `monitor` has something to receive: reports that nobody
    takes would at some point stop all traffic of the socket.
    """

    def __init__(self, of: zmq.Socket[bytes], has_keys: bool) -> None:
        self.monitor = of.get_monitor_socket(_EVENTS)
        self.failed = self.lost = 0
        self.trouble, self.reached = "", False
        self._socket, self._has_keys = of, has_keys
        self._failing = 0  # connections whose handshake failed and whose end the monitor has not reported yet
        self._open: dict[int, _Heard] = {}  # by the connections' descriptors
        self._taken = self._looked = self._event = time.monotonic()

    @property
    def is_open(self) -> bool:
        """Whether a connection is open, with or without its handshake done."""
        return bool(self._open)

    def is_given_up(self, now: float) -> bool:
        """Whether ZeroMQ does not dial any more: it never does after a handshake that it could not read."""
        if self.reached or now - self._event <= _GIVEN_UP:
            return False
        self.step()
        return not self.reached and now - self._event > _GIVEN_UP

    def step_if_due(self) -> None:
        """Call `step`, unless that was done in the last 20 ms: a look takes longer than sending a small message."""
        if time.monotonic() - self._taken >= _SELDOM:
            self.step()

    def step(self) -> None:
        """Take what the monitor reports; twice a second, also end the connections that are dead."""
        while not self.monitor.closed and int(self.monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._take(*_EVENT.unpack(self.monitor.recv_multipart()[0]))
        now = self._taken = time.monotonic()
        if now - self._looked >= _LOOK:
            self._looked = now
            for descriptor, heard in self._open.items():
                _end_if_dead(descriptor, heard, now)

    def close(self) -> None:
        """Close the monitor; the caller closes the socket afterwards."""
        if not self.monitor.closed:
            self._socket.disable_monitor()
            self.monitor.close(0)

    def _take(self, event: int, value: int) -> None:
        self._event = time.monotonic()
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
    """End the connection with this descriptor if it is dead; otherwise bring `heard` up to date.

    ZeroMQ may have closed the descriptor by now, and another file may have its number: files that are not TCP
    connections are left alone.
    """
    with contextlib.suppress(OSError):
        own = os.dup(descriptor)
        try:
            connection = socket.socket(fileno=own)
        except OSError:  # the descriptor is not a socket
            os.close(own)
            return
        with connection:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
            if len(info) == _INFO_BYTES and is_dead(info, heard, now):
                connection.shutdown(socket.SHUT_RDWR)


def is_dead(info: bytes, heard: _Heard, now: float) -> bool:
    """Tell from the kernel's `info` (a struct tcp_info) whether a connection is dead; bring `heard` up to date.

    It is dead if the peer's last answer is `_DEAF` seconds old and the peer left several attempts unanswered since
    then. The age alone is not enough: the kernel may not have tried again since, as it waits ever longer between
    attempts.
    """
    silence, resent = (struct.unpack_from("=I", info, place)[0] for place in (_HEARD_AT, _RESENT_AT))
    at = now - silence / 1000
    if at > heard.at + _LOOK / 10:
        heard.at, heard.resent = at, resent
    unanswered = resent - heard.resent >= _ATTEMPTS or info[_PROBES_AT] >= _PROBES
    return unanswered and now - heard.at >= _DEAF


def _failure(event: int, detail: int, has_keys: bool) -> str:
    """Say in words what a monitor's event means for the handshake; "" if the handshake was good."""
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and detail != zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
        return _STRANGER
    if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and detail == errno.EAGAIN:
        return MUTE  # the peer did not say anything in time
    return FAILURES.get((event, has_keys), "")
