from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import psutil
import pytest
import zmq

from adam_mp.errors import SettingsError, TransportError
from adam_mp.transport import connections, messages, zeromq
from adam_mp.transport.addresses import Address
from adam_mp.transport.connections import FAILURES
from adam_mp.transport.endpoint import Sent
from adam_mp.transport.keys import Keys
from adam_mp.transport.messages import HEADER_BYTES, LONGEST, FrameError, Kind, Message, decode, encode, with_facts
from adam_mp.transport.zeromq import SocketDialer, SocketListener
from tools.ports import free_port

ANY_PORT = Address("127.0.0.1", 0)
HELLO = with_facts(Kind.STATUS, {"hello": "there"}, sequence=1)
NOBODY = "nobody answers there"
LARGE = np.random.default_rng(1).random(1 << 20, np.float32)  # 4 MiB
SOON = 5.0


def new_keys() -> Keys:
    return Keys(*zmq.curve_keypair())


def wait_until(condition, what: str, seconds: float = 2 * SOON):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited {seconds:g} s in vain for {what}")


class Ends:
    """Opens endpoints and sockets, and closes them with the test."""

    def __init__(self) -> None:
        self.opened: list = []
        self.context = zmq.Context()

    def listen(self, keys: Keys | None = None, address: Address = ANY_PORT) -> SocketListener:
        return self.keep(SocketListener(address, keys))

    def dial(self, address: Address, keys: Keys | None = None) -> SocketDialer:
        dialer = self.keep(SocketDialer(keys))
        dialer.dial(address)
        return dialer

    def raw(self, address: Address, kind: int = zmq.DEALER) -> zmq.Socket:
        """A ZeroMQ socket that sends whatever one likes."""
        opened = self.keep(self.context.socket(kind))
        opened.linger, opened.sndtimeo, opened.rcvtimeo = 0, int(1000 * SOON), int(1000 * SOON)
        opened.connect(f"tcp://{address}")
        return opened

    def plain(self, address: Address) -> socket.socket:
        return self.keep(socket.create_connection((address.host, address.port), SOON))

    def keep(self, opened):
        self.opened.append(opened)
        return opened

    def close(self) -> None:
        for opened in reversed(self.opened):
            opened.close()
        self.context.term()


@pytest.fixture
def ends() -> Iterator[Ends]:
    opened = Ends()
    yield opened
    opened.close()


def send(dialer: SocketDialer, address: Address, message: Message, seconds: float = SOON):
    """Send as soon as the connection is there."""
    return wait_until(lambda: dialer.send(address, message), "the connection", seconds)


def met(dialer: SocketDialer, listener: SocketListener, message: Message = HELLO) -> bytes:
    """Bring a message from the dialer to the listener; return what the listener knows the dialer by."""
    send(dialer, listener.address, message)
    received = listener.receive(SOON)
    assert received is not None
    assert received[1] == message
    return received[0]


def filled(ends: Ends) -> tuple[SocketListener, SocketDialer, list[Sent]]:
    """A listener that reads nothing, a dialer whose queue to it is full of large payloads, and these."""
    listener = ends.listen()
    dialer = ends.dial(listener.address)
    met(dialer, listener)
    on_the_way: list[Sent] = []
    while (sent := dialer.send(listener.address, Message(Kind.DELTA, LARGE))) is not None:
        on_the_way.append(sent)
        assert len(on_the_way) < 100
    assert not on_the_way[-1].done  # its bytes are still those of the caller
    return listener, dialer, on_the_way


def serves(ends: Ends, listener: SocketListener, keys: Keys | None = None) -> bool:
    """Whether a new, right client gets its answer."""
    dialer = ends.dial(listener.address, keys)
    peer = met(dialer, listener)
    assert listener.send(peer, HELLO) is not None
    return dialer.receive(SOON) == (listener.address, HELLO)


class TestMessages:
    @pytest.mark.parametrize("with_keys", [False, True])
    def test_a_message_and_its_answer_arrive(self, ends, with_keys):
        keys = new_keys() if with_keys else None
        listener = ends.listen(keys)
        assert listener.address.port > 0
        assert serves(ends, listener, keys)

    @pytest.mark.parametrize("host", ["127.0.0.2", "localhost", "::1"])
    def test_every_address_of_this_machine_will_do(self, ends, host):
        listener = ends.listen(address=Address(host, 0))
        assert listener.address.host == host
        assert serves(ends, listener)

    @pytest.mark.parametrize("size", [0, 1, 32 << 10, (32 << 10) + 1, 64 << 10, (64 << 10) + 1])
    def test_payloads_of_every_size_arrive_both_ways(self, ends, size):
        message = Message(Kind.PICTURES, os.urandom(size), 1, 2, 3, 4, 5, 6)
        listener = ends.listen()
        dialer = ends.dial(listener.address)
        peer = met(dialer, listener, message)
        assert listener.send(peer, message) is not None
        assert dialer.receive(SOON) == (listener.address, message)

    @pytest.mark.parametrize("with_keys", [False, True])
    def test_large_payloads_arrive_intact_both_ways(self, ends, with_keys):
        keys = new_keys() if with_keys else None
        listener = ends.listen(keys)
        dialer = ends.dial(listener.address, keys)
        message = Message(Kind.DELTA, LARGE.reshape(4, -1), shard=3)
        there = send(dialer, listener.address, message)
        received = listener.receive(SOON)
        assert received is not None
        peer, taken = received
        assert (taken.kind, taken.shard, taken.length) == (Kind.DELTA, 3, LARGE.nbytes)
        assert np.array_equal(taken.array(), LARGE)
        back = listener.send(peer, taken)
        answer = dialer.receive(SOON)
        assert answer is not None
        assert np.array_equal(answer[1].array(), LARGE)
        wait_until(lambda: there.done and back.done, "the payloads to be free")

    def test_a_received_payload_outlives_later_messages(self, ends):
        listener = ends.listen()
        dialer = ends.dial(listener.address)
        payloads = [np.full(1 << 18, number, np.float32) for number in range(5)]
        for payload in payloads:
            send(dialer, listener.address, Message(Kind.DELTA, payload))
        received = [listener.receive(SOON)[1].array() for _ in payloads]
        assert all(np.array_equal(one, other) for one, other in zip(received, payloads, strict=True))

    def test_large_payloads_leave_without_a_copy_and_say_when_they_are_gone(self, ends):
        listener, _, on_the_way = filled(ends)
        for _ in on_the_way:
            assert listener.receive(SOON) is not None
        wait_until(lambda: all(sent.done for sent in on_the_way), "the payloads to be free")

    def test_payloads_are_given_back_when_the_peer_dies(self, ends):
        listener, dialer, on_the_way = filled(ends)
        listener.close()

        def free() -> bool:
            assert dialer.receive(0) is None  # the endpoint learns of the death while it is used
            return all(sent.done for sent in on_the_way)

        wait_until(free, "the payloads to be free")

    @pytest.mark.parametrize("with_keys", [False, True])
    def test_the_longest_payload_arrives(self, ends, with_keys):
        keys = new_keys() if with_keys else None
        listener = ends.listen(keys)
        dialer = ends.dial(listener.address, keys)
        payload = np.zeros(LONGEST // 4, np.float32)
        payload[-1] = 7
        send(dialer, listener.address, Message(Kind.FRESH, payload))
        received = listener.receive(30)
        assert received is not None
        assert np.array_equal(received[1].array(), payload)

    def test_receive_waits_no_longer_than_it_is_told(self, ends):
        listener = ends.listen()
        dialer = ends.dial(listener.address)
        for seconds in (0, 0.1):
            assert listener.receive(seconds) is None
            assert dialer.receive(seconds) is None

    def test_messages_of_one_peer_keep_their_order(self, ends):
        listener = ends.listen()
        dialer = ends.dial(listener.address)
        numbers = []
        for number in range(200):
            send(dialer, listener.address, Message(Kind.STATUS, bytes(number % 3 * 40_000), sequence=number))
            if number % 7 == 6:
                numbers += [listener.receive(SOON)[1].sequence for _ in range(7)]
        while (received := listener.receive(0.2)) is not None:
            numbers.append(received[1].sequence)
        assert numbers == list(range(200))

    def test_a_peer_that_never_stops_does_not_hide_the_others(self, ends):
        listeners = [ends.listen(), ends.listen()]
        dialer = ends.dial(listeners[0].address)
        dialer.dial(listeners[1].address)
        peers = [met(dialer, listener) for listener in listeners]
        for quiet in (0, 1):
            loud = 1 - quiet
            for _ in range(10):
                listeners[loud].send(peers[loud], HELLO)
            assert dialer.receive(SOON)[0] == listeners[loud].address
            listeners[quiet].send(peers[quiet], HELLO)
            for _ in range(100):
                wait_until(partial(listeners[loud].send, peers[loud], HELLO), "room in the queue")
                assert dialer._sockets[listeners[loud].address].poll(1000 * SOON)
                if dialer.receive(SOON)[0] == listeners[quiet].address:
                    break
            else:
                raise AssertionError("the quiet peer is never heard")
            while dialer.receive(0.1) is not None:
                pass

    def test_statistics_count_messages_and_payload_bytes(self, ends):
        listener = ends.listen()
        dialer = ends.dial(listener.address)
        peer = met(dialer, listener, Message(Kind.PICTURES, bytes(100)))
        listener.send(peer, Message(Kind.PICTURES, bytes(50_000)))
        assert dialer.receive(SOON) is not None
        said = listener.statistics()
        assert (said.received, said.bytes_received, said.sent, said.bytes_sent) == (1, 100, 1, 50_000)
        said = dialer.statistics()
        assert (said.received, said.bytes_received, said.sent, said.bytes_sent) == (1, 50_000, 1, 100)
        assert said.dropped == 0

    def test_a_message_that_no_header_holds_leaves_the_endpoint_usable(self, ends):
        listener = ends.listen()
        dialer = ends.dial(listener.address)
        peer = met(dialer, listener)
        for wrong, error in (
            (Message(Kind.STATUS, run=-1), struct.error),
            (Message(Kind.FRESH, bytearray(LONGEST + 4)), FrameError),
        ):
            with pytest.raises(error):
                listener.send(peer, wrong)
            with pytest.raises(error):
                dialer.send(listener.address, wrong)
        assert listener.send(peer, HELLO) is not None
        assert dialer.receive(SOON) == (listener.address, HELLO)
        assert met(dialer, listener) == peer


class TestConnections:
    @pytest.mark.parametrize("with_keys", [False, True])
    def test_a_port_in_use_is_an_error_that_names_the_address(self, ends, with_keys):
        taken = ends.listen().address
        with pytest.raises(TransportError, match=f"cannot listen on {taken}: .*choose another --listen"):
            ends.listen(new_keys() if with_keys else None, taken)

    def test_listening_for_others_without_keys_is_refused(self, ends):
        for host in ("0.0.0.0", "::", "10.0.0.5"):
            with pytest.raises(SettingsError, match="keygen"):
                ends.listen(address=Address(host, 0))

    def test_listening_for_others_with_keys_works(self, ends):
        keys = new_keys()
        everywhere = ends.listen(keys, Address("0.0.0.0", 0))
        dialer = ends.dial(Address("127.0.0.1", everywhere.address.port), keys)
        send(dialer, Address("127.0.0.1", everywhere.address.port), HELLO)
        assert everywhere.receive(SOON)[1] == HELLO

    @pytest.mark.parametrize("host", ["*", "lo", "eth0"])
    def test_names_that_zeromq_reads_otherwise_open_nothing_to_others(self, ends, host):
        try:
            port = ends.listen(address=Address(host, 0)).address.port
        except SettingsError:
            return
        numbers = [c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.laddr and c.laddr.port == port]
        assert numbers
        assert set(numbers) <= {"127.0.0.1", "::1"}

    def test_dialling_others_without_keys_is_refused(self, ends):
        with pytest.raises(SettingsError, match=r"cannot join 10.0.0.5:7 without keys; give the run's key_file"):
            ends.dial(Address("10.0.0.5", 7))

    @pytest.mark.parametrize("side", ["listen", "dial"])
    def test_a_name_is_not_looked_up_again_after_it_was_checked(self, ends, monkeypatch, side):
        other = ends.listen(address=Address("127.0.0.1", 0)).address
        answers = [["127.0.0.1"], ["127.0.0.2"]]  # what ZeroMQ would ask for, and may have changed meanwhile

        def look(*_, **__):
            numbers = answers.pop(0) if len(answers) > 1 else answers[0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, 0)) for number in numbers]

        monkeypatch.setattr(socket, "getaddrinfo", look)
        name = Address("this-machine.invalid", other.port if side == "dial" else 0)
        if side == "dial":
            dialer = ends.dial(name)
            endpoint = wait_until(lambda: dialer._sockets[name].getsockopt_string(zmq.LAST_ENDPOINT), "the endpoint")
            assert endpoint == f"tcp://{other}"
            send(dialer, name, HELLO)
        else:
            listener = ends.listen(address=name)
            assert listener._socket.getsockopt_string(zmq.LAST_ENDPOINT).startswith("tcp://127.0.0.1:")

    def test_dialling_what_is_no_address_is_an_error_and_leaves_nothing(self, ends):
        dialer = ends.keep(SocketDialer(new_keys()))
        with pytest.raises(TransportError, match="cannot dial a b:7"):
            dialer.dial(Address("a b", 7))
        assert dialer.receive(0) is None

    def test_nobody_there_takes_no_message_and_is_said(self, ends):
        address = Address("127.0.0.1", free_port())
        dialer = ends.dial(address)
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            assert dialer.send(address, HELLO) is None
            assert dialer.receive(0.05) is None
            assert dialer.trouble(address) == NOBODY
        assert dialer.statistics().full > 0
        assert dialer.statistics().sent == 0

    def test_what_takes_a_connection_and_says_nothing_is_not_nobody(self, ends):
        with socket.create_server(("127.0.0.1", 0)) as mute:
            address = Address("127.0.0.1", mute.getsockname()[1])
            dialer = ends.dial(address)
            wait_until(lambda: "takes the connection and says nothing" in dialer.trouble(address), "the trouble")
            assert not dialer.reaches(address)
            began = time.monotonic()
            while time.monotonic() - began < 3.5:  # longer than a new connection has to prove itself
                dialer.receive(0.05)
                assert "takes the connection and says nothing" in dialer.trouble(address)
        wait_until(lambda: dialer.receive(0.05) or dialer.trouble(address) == NOBODY, "the end of what listened")

    def test_one_that_is_reached_and_gives_no_answer_is_told_from_nobody(self, ends):
        listener = ends.listen()
        dialer = ends.dial(listener.address)
        met(dialer, listener)
        assert dialer.reaches(listener.address)
        assert "does not answer; is it stopped?" in dialer.trouble(listener.address)
        listener.close()
        wait_until(lambda: dialer.receive(0.05) or dialer.trouble(listener.address) == NOBODY, "its end")
        assert not dialer.reaches(listener.address)

    def test_a_listener_that_comes_late_is_reached(self, ends):
        address = Address("127.0.0.1", free_port())
        dialer = ends.dial(address)
        assert dialer.send(address, HELLO) is None
        time.sleep(0.1)
        met(dialer, ends.listen(address=address))

    @pytest.mark.parametrize("with_keys", [False, True])
    def test_a_restarted_listener_is_reached_again(self, ends, with_keys):
        keys = new_keys() if with_keys else None
        listener = ends.listen(keys)
        dialer = ends.dial(listener.address, keys)
        peer = met(dialer, listener)
        address = listener.address
        listener.close()
        again = wait_until(lambda: listen_again(ends, keys, address), "the port to be free")
        deadline = time.monotonic() + SOON
        while (received := again.receive(0.05)) is None and time.monotonic() < deadline:
            dialer.send(address, HELLO)
        assert received is not None
        assert again.send(peer, HELLO) is None  # it knew another connection
        assert again.send(received[0], HELLO) is not None
        assert dialer.receive(SOON) == (address, HELLO)

    def test_a_peer_that_went_takes_no_message(self, ends):
        listener = ends.listen()
        dialer = ends.dial(listener.address)
        peer = met(dialer, listener)
        dialer.close()
        wait_until(lambda: listener.send(peer, HELLO) is None, "the listener to notice")
        assert listener.send(b"nobody", HELLO) is None
        assert serves(ends, listener)

    def test_a_peer_that_was_hung_up_is_forgotten_and_can_be_dialled_again(self, ends):
        listener = ends.listen()
        dialer = ends.dial(listener.address)
        peer = met(dialer, listener)
        listener.send(peer, HELLO)
        dialer.hang_up(listener.address)
        dialer.hang_up(listener.address)
        assert not dialer._poller.sockets
        assert dialer.receive(0.2) is None
        dialer.dial(listener.address)
        dialer.dial(listener.address)
        assert met(dialer, listener) != peer

    def test_what_is_told_of_connections_does_not_pile_up(self, ends, monkeypatch):
        monkeypatch.setattr(zeromq, "_REDIAL", 1)
        monkeypatch.setattr(zeromq, "_SLOWEST_REDIAL", 1)
        door = ends.keep(socket.create_server(("127.0.0.1", 0)))
        door.settimeout(0.2)
        came = threading.Event()

        def slam() -> None:
            count = 0
            while count < 2300 and not came.is_set():  # more than ZeroMQ keeps
                try:
                    door.accept()[0].close()
                    count += 1
                except TimeoutError:
                    continue
                except OSError:
                    return
            came.set()

        thread = threading.Thread(target=slam)
        thread.start()
        dialer = ends.dial(Address("127.0.0.1", door.getsockname()[1]))
        deadline = time.monotonic() + 20
        while not came.is_set() and time.monotonic() < deadline:
            dialer.receive(0.01)
        in_time = came.is_set()
        came.set()
        thread.join()
        assert in_time


def listen_again(ends: Ends, keys: Keys | None, address: Address) -> SocketListener | None:
    try:
        return ends.listen(keys, address)
    except TransportError:
        return None


class TestKeys:
    @pytest.mark.parametrize(("theirs", "ours"), [("right", "wrong"), ("right", None), (None, "right")])
    def test_a_wrong_key_lets_nothing_through(self, ends, theirs, ours):
        keys = {"right": new_keys(), "wrong": new_keys(), None: None}
        listener = ends.listen(keys[theirs])
        dialer = ends.dial(listener.address, keys[ours])
        began, said = time.monotonic(), NOBODY
        while (passed := time.monotonic() - began) < SOON and (said == NOBODY or passed < 0.4):
            said = dialer.trouble(listener.address)
            assert dialer.send(listener.address, HELLO) is None
            assert listener.receive(0.02) is None
            assert dialer.receive(0.02) is None
        assert "key" in said
        assert said in FAILURES.values()
        assert (listener.statistics().received, dialer.statistics().received) == (0, 0)
        assert serves(ends, listener, keys[theirs])
        assert listener.receive(0.1) is None  # nor does anything come late
        assert dialer.receive(0) is None

    def test_who_knows_the_public_key_alone_is_not_let_in(self, ends):
        keys, own = new_keys(), new_keys()
        listener = ends.listen(keys)
        raw = ends.keep(ends.context.socket(zmq.DEALER))
        raw.linger = 0
        raw.curve_serverkey, raw.curve_publickey, raw.curve_secretkey = keys.public, own.public, own.secret
        raw.connect(f"tcp://{listener.address}")
        raw.send_multipart([encode(HELLO), HELLO.payload])
        assert listener.receive(0.6) is None
        assert serves(ends, listener, keys)
        assert listener.receive(0.1) is None

    def test_with_keys_the_dialer_believes_no_other_listener(self, ends):
        keys, other = new_keys(), new_keys()
        false = ends.keep(ends.context.socket(zmq.ROUTER))
        false.linger = 0
        false.curve_server, false.curve_publickey, false.curve_secretkey = True, other.public, other.secret
        address = Address("127.0.0.1", false.bind_to_random_port("tcp://127.0.0.1"))
        dialer = ends.dial(address, keys)
        deadline = time.monotonic() + 0.6
        while time.monotonic() < deadline:
            assert dialer.send(address, HELLO) is None
            assert dialer.receive(0.02) is None
        assert not false.poll(0)

    @pytest.mark.parametrize("with_keys", [False, True])
    def test_with_keys_nobody_on_the_way_can_read(self, ends, with_keys):
        keys = new_keys() if with_keys else None
        listener = ends.listen(keys)
        relay = ends.keep(Relay(listener.address))
        dialer = ends.dial(relay.address, keys)
        secret = b"a secret of some length" * 10
        send(dialer, relay.address, Message(Kind.PICTURES, secret))
        assert listener.receive(SOON)[1].payload == secret
        assert (secret in bytes(relay.seen)) is not with_keys


class Relay:
    """Passes on one connection, and remembers what passed."""

    def __init__(self, target: Address) -> None:
        self.door = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self.door.getsockname()[1])
        self.target, self.seen, self.ended = target, bytearray(), threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        self.door.settimeout(SOON)
        near = self.door.accept()[0]
        far = socket.create_connection((self.target.host, self.target.port))
        with near, far:
            near.settimeout(0.01)
            far.settimeout(0.01)
            while not self.ended.is_set():
                for source, sink in ((near, far), (far, near)):
                    try:
                        data = source.recv(65536)
                    except TimeoutError:
                        continue
                    self.seen += data
                    sink.sendall(data)

    def close(self) -> None:
        self.ended.set()
        self.thread.join()
        self.door.close()


class TestSlowReaders:
    @pytest.mark.parametrize("who", ["listener", "dialer"])
    def test_a_peer_that_reads_nothing_costs_a_bounded_number_of_messages(self, ends, who):
        listener = ends.listen()
        dialer = ends.dial(listener.address)
        peer = met(dialer, listener)
        sender, to = (dialer, listener.address) if who == "listener" else (listener, peer)
        size = 1 << 20
        taken, refused_in_a_row = 0, 0
        while refused_in_a_row < 20:
            if sender.send(to, Message(Kind.DELTA, np.ones(size // 4, np.float32))) is None:
                refused_in_a_row += 1
                time.sleep(0.01)
            else:
                taken, refused_in_a_row = taken + 1, 0
            assert taken < 100
        process = psutil.Process()
        before = process.memory_info().rss
        for number in range(2000):
            sender.send(to, Message(Kind.DELTA, np.full(size // 4, number, np.float32)))
            if number % 100 == 0:
                assert process.memory_info().rss - before < 100 * size
        assert process.memory_info().rss - before < 100 * size
        assert sender.statistics().full > 1900

    def test_a_peer_that_reads_nothing_does_not_hold_up_others(self, ends):
        listener = ends.listen()
        slow = ends.dial(listener.address)
        peer = met(slow, listener)
        for _ in range(200):
            listener.send(peer, Message(Kind.FRESH, LARGE))
        assert serves(ends, listener)

    @pytest.mark.parametrize("who", ["listener", "dialer"])
    def test_closing_with_unsent_data_ends(self, ends, who):
        listener = ends.listen()
        dialer = ends.dial(listener.address)
        peer = met(dialer, listener)
        sender, to = (dialer, listener.address) if who == "listener" else (listener, peer)
        while sender.send(to, Message(Kind.DELTA, LARGE)) is not None:
            pass
        began = time.monotonic()
        sender.close()
        assert time.monotonic() - began < SOON  # a deadline: without one it would wait for ever
        sender.close()

    def test_what_is_queued_when_an_endpoint_closes_has_a_moment_to_leave(self, ends):
        listener = ends.listen()
        dialer = ends.dial(listener.address)
        met(dialer, listener)
        for number in range(10):
            send(dialer, listener.address, Message(Kind.DELTA, LARGE[: 1 << 18], sequence=number))
        dialer.close()
        assert [listener.receive(SOON)[1].sequence for _ in range(10)] == list(range(10))


def recoded(offset: int, content: bytes) -> list[bytes]:
    header = encode(HELLO)
    return [header[:offset] + content + header[offset + len(content) :], HELLO.payload]


UNUSABLE = {
    "one frame": ([encode(HELLO)], "1 frames; expected header and payload"),
    "one empty frame": ([b""], "1 frames; expected header and payload"),
    "three frames": ([encode(HELLO), HELLO.payload, b""], "3 frames; expected header and payload"),
    "very many frames": ([encode(HELLO), HELLO.payload] * 500, "frames; expected header and payload"),
    "truncated header": ([encode(HELLO)[:-1], HELLO.payload], f"header has 63 bytes; expected {HEADER_BYTES}"),
    "truncated payload": ([encode(HELLO), HELLO.payload[:-1]], "message says 17 bytes, but 16 came"),
    "wrong magic": (recoded(0, b"HTTP"), "begins with b'HTTP'; expected b'AdMP'"),
    "wrong crc": (recoded(60, b"crc?"), "does not match its checksum"),
    "wrong version": (
        recoded(4, b"\x07\x00"),
        f"peer speaks version 7 of the messages, this side version {messages.VERSION}",
    ),
}


class TestUnusableFrames:
    @pytest.mark.parametrize("name", UNUSABLE)
    def test_they_are_dropped_counted_and_refused_with_the_reason(self, ends, name):
        parts, reason = UNUSABLE[name]
        listener = ends.listen()
        raw = ends.raw(listener.address)
        raw.send_multipart(parts)
        wait_until(lambda: listener.receive(0.01) or listener.statistics().dropped, "the frames")
        answer = decode(*raw.recv_multipart())
        assert answer.kind is Kind.REFUSED
        assert reason in answer.facts()["reason"]
        assert listener.statistics().dropped == 1
        assert listener.statistics().received == 0
        raw.send_multipart([encode(HELLO), HELLO.payload])  # nor is this peer sent away
        assert listener.receive(SOON)[1] == HELLO
        assert serves(ends, listener)

    def test_they_do_not_hide_the_message_behind_them(self, ends):
        listener = ends.listen()
        raw = ends.raw(listener.address)
        for _ in range(10):
            raw.send(b"junk")
        raw.send_multipart([encode(HELLO), HELLO.payload])
        time.sleep(0.2)
        received = listener.receive(0) or listener.receive(SOON)
        assert received is not None
        assert received[1] == HELLO
        assert listener.statistics().dropped == 10

    def test_the_dialer_drops_and_counts_them(self, ends):
        false = ends.keep(ends.context.socket(zmq.ROUTER))
        false.linger, false.rcvtimeo = 0, int(1000 * SOON)
        address = Address("127.0.0.1", false.bind_to_random_port("tcp://127.0.0.1"))
        dialer = ends.dial(address)
        send(dialer, address, HELLO)
        peer = false.recv_multipart()[0]
        for parts, _ in UNUSABLE.values():
            false.send_multipart([peer, *parts])
        false.send_multipart([peer, encode(HELLO), HELLO.payload])
        assert dialer.receive(SOON) == (address, HELLO)
        assert dialer.statistics().dropped == len(UNUSABLE)

    @pytest.mark.parametrize("who", ["listener", "dialer"])
    @pytest.mark.parametrize("seconds", [0, 0.1])
    def test_a_flood_of_them_does_not_hold_receive(self, ends, who, seconds, monkeypatch):
        listener = ends.listen()
        dialer = ends.dial(listener.address)
        peer = met(dialer, listener)
        sender, to, receiver = (dialer, listener.address, listener) if who == "listener" else (listener, peer, dialer)
        sender.send(to, HELLO)
        waiting = receiver._socket if who == "listener" else receiver._sockets[listener.address]
        assert waiting.poll(1000 * SOON)
        limit = time.monotonic() + SOON

        def junk(*_) -> tuple[bytes, list[bytes]]:  # and what waits goes on waiting
            assert time.monotonic() < limit, "receive goes on for as long as unusable frames come"
            return b"nobody", [b"junk"]

        with monkeypatch.context() as patch:
            patch.setattr(zeromq, "_receive_parts", junk)
            assert receiver.receive(seconds) is None
        assert receiver.statistics().dropped > 0
        assert receiver.receive(SOON)[1] == HELLO


def zmtp_greeting() -> bytes:
    return b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def zmtp_ready() -> bytes:
    body = b"\x05READY" + b"\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
    return b"\x04" + bytes([len(body)]) + body


GARBAGE = {
    "random bytes": np.random.default_rng(2).bytes(100_000),
    "zeros": bytes(100_000),
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + np.random.default_rng(3).bytes(500),
    "a greeting and garbage": zmtp_greeting() + np.random.default_rng(4).bytes(10_000),
    "half a greeting": zmtp_greeting()[:20],
    "a handshake and garbage": zmtp_greeting() + zmtp_ready() + np.random.default_rng(5).bytes(10_000),
    "a handshake and half a frame": zmtp_greeting() + zmtp_ready() + b"\x01\x40half",
    "a frame without end": zmtp_greeting() + zmtp_ready() + b"\x02" + (1 << 62).to_bytes(8, "big") + bytes(1000),
    "a frame of 1 GiB": zmtp_greeting() + zmtp_ready() + b"\x02" + (1 << 30).to_bytes(8, "big") + bytes(1000),
}


class TestGarbage:
    @pytest.mark.parametrize("with_keys", [False, True])
    def test_garbage_harms_nobody(self, ends, with_keys):
        keys = new_keys() if with_keys else None
        listener = ends.listen(keys)
        before = psutil.Process().memory_info().rss
        for garbage in GARBAGE.values():
            plain = ends.plain(listener.address)
            try:
                plain.sendall(garbage)
            except OSError:
                pass  # it hangs up, and is right
        while (received := listener.receive(0.2)) is not None:
            raise AssertionError(f"garbage became a message: {received}")
        assert serves(ends, listener, keys)
        assert psutil.Process().memory_info().rss - before < 200 << 20

    @pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
    def test_a_listener_that_talks_garbage_does_not_harm_the_dialer(self, ends, garbage):
        door = ends.keep(socket.create_server(("127.0.0.1", 0)))
        door.settimeout(SOON)
        address = Address("127.0.0.1", door.getsockname()[1])
        dialer = ends.dial(address)
        false = ends.keep(door.accept()[0])
        try:
            false.sendall(garbage)
        except OSError:
            pass
        assert dialer.receive(0.1) is None
        listener = ends.listen()
        dialer.dial(listener.address)
        met(dialer, listener)


class Swallowing(threading.Thread):
    """Carries connections to a listener; once told so, the present ones stay open and carry nothing to who dialled."""

    def __init__(self, target: Address, port: int = 0) -> None:
        super().__init__(daemon=True)
        self._target, self._swallowed, self._links = target, set[int](), list[socket.socket]()
        self._unread = set[int]()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.address = Address("127.0.0.1", self._listener.getsockname()[1])
        self.start()

    def run(self) -> None:
        while True:
            try:
                dialled, _ = self._listener.accept()
            except OSError:
                return
            onward = socket.create_connection((self._target.host, self._target.port))
            self._links += [dialled, onward]
            for source, sink in ((dialled, onward), (onward, dialled)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                if id(source) in self._unread:
                    return
                if id(sink) not in self._swallowed:
                    sink.sendall(data)
        except OSError:
            pass

    def swallow(self) -> None:
        self._swallowed = {id(link) for link in self._links[::2]}

    def stop_reading(self) -> None:
        self._unread = {id(link) for link in self._links}

    @property
    def carried(self) -> int:
        """How many connections there were."""
        return len(self._links) // 2

    def close(self) -> None:
        for link in (self._listener, *self._links):
            link.close()


def asks(dialer, listener, address, seconds=SOON):
    """Ask again and again; tell whether an answer comes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        dialer.send(address, HELLO)
        while (asked := listener.receive(0.05)) is not None:
            listener.send(*asked)
        if dialer.receive(0.05) is not None:
            return True
    return False


def test_a_connection_that_swallows_all_answers_is_dialled_anew(ends, monkeypatch):
    monkeypatch.setattr(zeromq, "_WEDGED", 1.0)
    listener = ends.listen()
    way = ends.keep(Swallowing(listener.address))
    dialer = ends.dial(way.address)
    assert asks(dialer, listener, way.address)
    way.swallow()
    assert asks(dialer, listener, way.address)
    assert way.carried == 2


def test_a_peer_that_is_not_to_answer_keeps_its_connection(ends, monkeypatch):
    monkeypatch.setattr(zeromq, "_WEDGED", 0.2)
    listener = ends.listen()
    way = ends.keep(Swallowing(listener.address))
    dialer = ends.keep(SocketDialer(None, answered=False))
    dialer.dial(way.address)
    assert asks(dialer, listener, way.address)
    way.swallow()
    assert not asks(dialer, listener, way.address, 1.0)
    assert way.carried == 1


class Damaging(threading.Thread):
    """Answers the first connection with what is no handshake; carries later ones to a listener."""

    def __init__(self, target: Address) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._listener.getsockname()[1])
        self._target, self.onward = target, None
        self.start()

    def run(self) -> None:
        link, _ = self._listener.accept()
        with link:
            link.sendall(b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL" + bytes(48) + b"\x04\x08\x07damaged")
            link.recv(1000)
        self._listener.close()
        self.onward = Swallowing(self._target, self.address.port)

    def close(self) -> None:
        self._listener.close()
        if self.onward is not None:
            self.onward.close()


def test_a_peer_whose_handshake_came_damaged_is_dialled_anew(ends, monkeypatch):
    monkeypatch.setattr(connections, "_GIVEN_UP", 3.0)
    listener = ends.listen()
    way = ends.keep(Damaging(listener.address))
    dialer = ends.dial(way.address)
    assert asks(dialer, listener, way.address, 2 * SOON)
    assert dialer.statistics().failed == 1


def test_a_peer_that_takes_nothing_is_dialled_anew(ends, monkeypatch):
    monkeypatch.setattr(zeromq, "_WEDGED", 1.0)
    listener = ends.listen()
    way = ends.keep(Swallowing(listener.address))
    dialer = ends.keep(SocketDialer(None, answered=False))
    dialer.dial(way.address)
    assert asks(dialer, listener, way.address)
    way.stop_reading()
    large = Message(Kind.COPY, LARGE, run=7)
    deadline = time.monotonic() + 2 * SOON
    while way.carried < 2 and time.monotonic() < deadline:
        dialer.send(way.address, large)
        time.sleep(0.01)
    assert way.carried == 2
