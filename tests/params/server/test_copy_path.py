"""The network path of copies: beats by a thread, copies both ways, and who is silent."""

from __future__ import annotations

import time

import numpy as np
import pytest

from adam_mp.params.server.copy_path import CopyThread, Others
from adam_mp.transport.addresses import Address
from adam_mp.transport.messages import Kind, Message
from adam_mp.transport.zeromq import SocketListener
from tests.system.conftest import wait_until

BEAT, PATIENCE = 0.02, 0.3


@pytest.fixture
def pair():
    """Two servers that know each other."""
    listeners = [SocketListener(Address("127.0.0.1", 0), None) for _ in range(2)]
    addresses = [str(listener.address) for listener in listeners]
    paths = [CopyThread(listener, None, BEAT, PATIENCE) for listener in listeners]
    for own, path in enumerate(paths):
        path.connect({20 + 1 - own: addresses[1 - own]}, {"run": 7, "sender": 20 + own})
    yield paths, addresses
    for path in paths:
        path.close()


def test_copies_go_both_ways_and_beats_are_not_handed_on(pair):
    paths, addresses = pair
    weights = np.arange(100_000, dtype=np.float32)
    for own, path in enumerate(paths):
        assert path.post(addresses[1 - own], Message(Kind.COPY, weights, run=7, sender=20 + own, shard=own))
    for own, path in enumerate(paths):
        taken = wait_until(path.take, "a copy")
        assert (taken.kind, taken.sender, taken.shard) == (Kind.COPY, 21 - own, 1 - own)
        assert np.array_equal(taken.array(), weights)
        assert path.take() is None


def test_messages_of_strangers_are_not_taken_and_none_goes_to_them(pair):
    paths, addresses = pair
    paths[1].connect({}, {"run": 7, "sender": 21})  # it does not know the other any more
    assert not paths[1].post(addresses[0], Message(Kind.COPY, run=7, sender=21))
    time.sleep(0.1)
    assert paths[0].post(addresses[1], Message(Kind.COPY, run=7, sender=20))
    time.sleep(0.3)
    assert paths[1].take() is None


def test_a_server_whose_connection_broke_is_silent_at_once(pair):
    paths, addresses = pair
    time.sleep(2 * PATIENCE)
    assert paths[0].silence(addresses[1]) < PATIENCE / 2
    paths[1].close()
    broke = time.monotonic()
    wait_until(lambda: paths[0].silence(addresses[1]) > PATIENCE, "silence")
    assert time.monotonic() - broke < PATIENCE / 2


def test_a_server_that_makes_its_connections_anew_is_heard_on(pair):
    paths, addresses = pair
    time.sleep(2 * PATIENCE)
    paths[0].renew()
    until = time.monotonic() + 3 * PATIENCE
    while time.monotonic() < until:
        assert paths[0].silence(addresses[1]) < PATIENCE, "it does not take its own deed for the other's death"
        assert paths[1].silence(addresses[0]) < PATIENCE
        time.sleep(0.01)
    assert paths[0].post(addresses[1], Message(Kind.COPY, run=7, sender=20))
    assert wait_until(paths[1].take, "a copy").sender == 20


def test_a_connection_that_this_side_ends_tells_nothing_of_the_other():
    for forgets in (False, True):
        others = Others(PATIENCE)
        others.expect(frozenset({"a"}))
        others.see("a", True)
        if forgets:
            others.forget_reached("a")
        others.see("a", False)
        assert (others.silence("a") > PATIENCE) is not forgets


def test_silence_is_counted_while_this_server_listens():
    others = Others(0.5)
    others.expect(frozenset({"a", "b"}))
    others.listened = 0.4
    others.hear("a")
    others.hear("stranger")
    others.listened = 0.7
    assert (round(others.silence("a"), 3), others.silence("b"), others.silence("stranger")) == (0.3, 0.7, 0.0)
    others.see("a", True)
    others.see("a", False)
    assert 0.5 < others.silence("a") < 0.51, "a broken connection tells at once"
    others.listened = 0.74
    others.hear("a")  # it may have been sent before
    assert others.silence("a") > 0.5
    others.listened = 0.8
    others.hear("a")
    assert others.silence("a") == 0.0
    others.expect(frozenset({"b"}))
    assert others.silence("a") == 0.0


def test_a_server_that_comes_back_is_heard_again():
    others = Others(0.5)
    others.expect(frozenset({"a"}))
    for reached in (True, False, True):
        others.see("a", reached)
    assert others.silence("a") == 0.0
