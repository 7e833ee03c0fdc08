"""What of a connection's silence is death, and what is a peer that reads nothing."""

from __future__ import annotations

import socket
import struct
import time

import pytest

from adam_mp.transport import connections
from adam_mp.transport.connections import is_dead
from adam_mp.transport.keys import Keys
from adam_mp.transport.messages import Kind, Message
from tests.transport.test_zeromq import HELLO, LARGE, SOON, ends, filled, met, new_keys, wait_until  # noqa: F401

NOW = 1000.0


def info(silence: float, resent: int, probes: int = 0) -> bytes:
    """What the kernel tells of a connection."""
    made = bytearray(connections._INFO_BYTES)
    made[connections._PROBES_AT] = probes
    struct.pack_into("=I", made, connections._HEARD_AT, round(1000 * silence))
    struct.pack_into("=I", made, connections._RESENT_AT, resent)
    return bytes(made)


@pytest.mark.parametrize(
    ("silence", "resent", "probes", "dead"),
    [
        (3.5, 4, 0, True),
        (3.5, 0, 2, True),
        (2.5, 4, 0, False),  # not yet
        (3600.0, 0, 0, False),  # nothing had to be sent
        (3600.0, 2, 0, False),
        (3600.0, 0, 1, False),
    ],
)
def test_who_leaves_several_attempts_unanswered_is_dead(silence, resent, probes, dead):
    assert is_dead(info(silence, resent, probes), connections._Heard(NOW - silence, 0), NOW) == dead


def test_who_answers_each_attempt_lives_however_far_apart_they_are():
    heard, now = connections._Heard(NOW, 0), NOW
    for attempt in range(1, 12):
        for step in range(1, 8):
            now += 1.0  # the kernel waits 7 s between attempts
            answered = now - (NOW + 7 * (attempt - 1)) - 0.1
            assert not is_dead(info(answered if attempt > 1 else step, attempt - (step < 7)), heard, now)


def test_the_kernel_tells_what_is_looked_at():
    with socket.create_server(("127.0.0.1", 0)) as door, socket.create_connection(door.getsockname()) as one:
        other, _ = door.accept()
        with other:
            one.sendall(b"x")
            assert other.recv(1) == b"x"
            time.sleep(0.1)
            told = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, connections._INFO_BYTES)
            silence, resent = (
                struct.unpack_from("=I", told, at)[0] for at in (connections._HEARD_AT, connections._RESENT_AT)
            )
            assert 50 < silence < 1000 * SOON
            assert (resent, told[connections._PROBES_AT]) == (0, 0)


def test_a_peer_that_reads_nothing_keeps_its_connection(ends, monkeypatch):  # noqa: F811
    monkeypatch.setattr(connections, "_DEAF", 0.3)
    monkeypatch.setattr(connections, "_LOOK", 0.05)
    listener, dialer, on_the_way = filled(ends)
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:  # in which its kernel is asked again and again whether it has room by now
        dialer.send(listener.address, Message(Kind.DELTA, LARGE))
        dialer.receive(0.05)
    for _ in on_the_way:
        assert listener.receive(SOON) is not None
    assert dialer.statistics().lost == listener.statistics().lost == 0


def test_a_connection_that_ended_is_counted_on_both_sides(ends):  # noqa: F811
    listener = ends.listen()
    dialer = ends.dial(listener.address)
    met(dialer, listener)
    other = ends.dial(listener.address)
    met(other, listener)
    other.close()
    wait_until(lambda: listener.receive(0.01) is None and listener.statistics().lost == 1, "the listener to notice")
    listener.close()
    wait_until(lambda: dialer.receive(0.01) is None and dialer.statistics().lost == 1, "the dialer to notice")
    assert dialer.statistics().failed == listener.statistics().failed == 0


@pytest.mark.parametrize("ours", [None, new_keys()])
def test_a_connection_that_is_refused_is_counted_on_both_sides(ends, ours: Keys | None):  # noqa: F811
    listener = ends.listen(new_keys())
    dialer = ends.dial(listener.address, ours)

    def counted() -> bool:
        assert listener.receive(0.01) is None
        assert dialer.send(listener.address, HELLO) is None
        return listener.statistics().failed > 0 and dialer.statistics().failed > 0

    wait_until(counted, "both to count it")
    seen = dialer.statistics().failed
    dialer.hang_up(listener.address)
    assert dialer.statistics().failed >= seen
    assert dialer.statistics().lost == listener.statistics().lost == 0


def test_what_comes_and_goes_at_a_listener_does_not_pile_up(ends):  # noqa: F811
    listener = ends.listen()
    ends.keep(listener)
    for number in range(1500):  # with two events each, more than ZeroMQ keeps
        ends.plain(listener.address).close()
        if number % 100 == 0:
            listener.receive(0)
    dialer = ends.dial(listener.address)
    met(dialer, listener)
    wait_until(lambda: listener.receive(0.01) is None and listener.statistics().failed == 1500, "all to be counted")
