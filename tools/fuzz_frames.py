"""Feed a TCP listener with mutated messages and check that it takes none: python tools/fuzz_frames.py --frames 1000000.

The listener is a process of its own. Mutated frames come over raw ZeroMQ sockets, messages to prove that it still
serves over a real dialer. What is a message is told by a rule written down here, beside `decode`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import zmq
from crc32c import crc32c

from adam_mp.transport.addresses import Address
from adam_mp.transport.messages import FrameError, Kind, Message, decode, encode, with_facts
from adam_mp.transport.zeromq import SocketDialer, SocketListener

Frames = list[bytes]

SOCKETS = 4
BATCH = 100  # frames between looks at the answers
PATIENCE = 30.0  # seconds that anything may take
NUMBERS = (16, 17, 18, 20)  # kinds whose payload is numbers
FIELDS = {  # name: offset in the header, bytes
    "magic": (0, 4), "version": (4, 2), "kind": (6, 2), "run": (8, 8), "sender": (16, 8), "map epoch": (24, 4),
    "shard": (28, 4), "sequence": (32, 8), "shard version": (40, 8), "length": (48, 8), "encoding": (56, 2),
    "group": (58, 2), "crc32c": (60, 4),
}  # fmt: skip


class FuzzError(Exception):
    """The listener did what it must not do."""


@dataclasses.dataclass
class Counts:
    """What was done and what came of it."""

    sent: int = 0  # mutated frames
    valid: int = 0  # of these, those that still were messages
    probes: int = 0  # messages sent to see whether it serves
    accepted: int = 0  # messages that the listener took, by its own count, probes too
    dropped: int = 0  # by its own count
    refused: int = 0  # REFUSED that came back
    answered: int = 0  # answers to the valid among the mutated that came back
    answered_probes: int = 0
    unsaid: int = 0  # answers that the listener could not queue, by its own count
    disagreements: int = 0  # times that decode and the rule here saw it differently

    def check(self) -> None:
        """Raise FuzzError unless all adds up."""
        equal = {
            "decode is the rule": (self.disagreements, 0),
            "dropped = invalid": (self.dropped, self.sent - self.valid),
            "accepted = valid + probes": (self.accepted, self.valid + self.probes),
            "probes answered": (self.answered_probes, self.probes),
            "answers + unsaid = sent": (self.refused + self.answered + self.unsaid, self.sent),
        }
        wrong = [f"{name}: {one} is not {other}" for name, (one, other) in equal.items() if one != other]
        if self.refused > self.dropped or self.answered > self.valid:
            wrong.append("more answers than frames")
        if wrong:
            raise FuzzError("; ".join(wrong))


def fuzz(frames: int, seed: int = 0, probe_every: int = 1000) -> Counts:
    """Send so many mutated frames; return the counts, or raise FuzzError."""
    child = subprocess.Popen([sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        with zmq.Context() as context:
            counts = _Fuzzer(context, int(child.stdout.readline())).run(frames, seed, probe_every)
        child.stdin.close()
        if child.wait(PATIENCE):
            raise FuzzError(f"the listener ended with {child.returncode}")
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
    counts.check()
    return counts


class _Fuzzer:
    """The sockets of one run of the fuzzer."""

    def __init__(self, context: zmq.Context[Any], port: int) -> None:
        self.counts = Counts()
        self.address = Address("127.0.0.1", port)
        self.sockets = [context.socket(zmq.DEALER) for _ in range(SOCKETS)]
        for socket in self.sockets:
            socket.linger, socket.sndtimeo = 0, int(1000 * PATIENCE)
            socket.connect(f"tcp://{self.address}")
        self.dialer = SocketDialer(None)
        self.dialer.dial(self.address)

    def run(self, frames: int, seed: int, probe_every: int) -> Counts:
        try:
            self._probe()
            for number, parts in enumerate(mutated(seed, frames), 1):
                self._send(self.sockets[number % SOCKETS], parts)
                if number % BATCH == 0:
                    self._drain()
                if number % probe_every == 0:
                    self._probe()
            self._settle()
        finally:
            self.dialer.close()
            for socket in self.sockets:
                socket.close()
        return self.counts

    def _send(self, socket: zmq.Socket[bytes], parts: Frames) -> None:
        valid = is_message(parts)
        self.counts.sent += 1
        self.counts.valid += valid
        self.counts.disagreements += valid != _decodes(parts)
        try:
            socket.send_multipart(parts)
        except zmq.Again:
            raise FuzzError(f"the listener reads nothing for {PATIENCE:g} s after {self.counts.sent} frames") from None

    def _drain(self) -> None:
        for socket in self.sockets:
            while socket.poll(0, zmq.POLLIN):
                header, payload = socket.recv_multipart()
                answer = decode(header, payload)
                if answer.kind is Kind.REFUSED:
                    if not answer.facts()["reason"]:
                        raise FuzzError("refused without a reason")
                    self.counts.refused += 1
                else:
                    self.counts.answered += 1

    def _probe(self) -> dict[str, int]:
        """Ask a real message; return the listener's counters."""
        deadline = time.monotonic() + PATIENCE
        number = self.counts.probes + 1
        question = with_facts(Kind.STATUS, {"padding": "x" * (number % 3 * 30000)}, sequence=number)
        while self.dialer.send(self.address, question) is None:
            self._wait(deadline, "no way to send a message")
        self.counts.probes += 1
        while True:
            received = self.dialer.receive(0.1)
            if received is not None:
                answer = received[1]
                if (answer.kind, answer.sequence) != (Kind.STATE, number):
                    raise FuzzError(f"message {number} is answered by {answer}")
                self.counts.answered_probes += 1
                return answer.facts()
            self._wait(deadline, f"message {number} is not answered")

    def _wait(self, deadline: float, what: str) -> None:
        self._drain()
        if time.monotonic() > deadline:
            raise FuzzError(f"{what} after {self.counts.sent} frames: {self.dialer.trouble(self.address)}")
        time.sleep(0.001)

    def _settle(self) -> None:
        """Wait until the listener saw everything and its answers are here."""
        counts, deadline = self.counts, time.monotonic() + PATIENCE
        while True:
            said = self._probe()
            self._drain()
            counts.accepted, counts.dropped, counts.unsaid = said["received"], said["dropped"], said["full"]
            seen = counts.accepted + counts.dropped == counts.sent + counts.probes
            if seen and counts.refused + counts.answered + counts.unsaid == counts.sent:
                return
            if time.monotonic() > deadline:
                return  # `check` says what is missing
            time.sleep(0.05)


def _decodes(parts: Frames) -> bool:
    try:
        if len(parts) != 2:
            return False
        decode(*parts)
    except FrameError:
        return False
    return True


def is_message(parts: Frames) -> bool:
    """Tell whether frames are a message, by the page that describes them and not by the code that reads them."""
    if len(parts) != 2 or len(parts[0]) != 64:
        return False
    header, payload = parts
    magic, version, kind = struct.unpack_from("<4sHH", header)
    length, encoding = struct.unpack_from("<QH", header, 48)
    if (magic, version, length) != (b"AdMP", 4, len(payload)) or encoding > 2:
        return False
    if not (1 <= kind <= 10 or 16 <= kind <= 28 or kind in (32, 33) or 48 <= kind <= 56):
        return False
    if kind in NUMBERS and length % (2 if encoding else 4):
        return False
    return header[60:] == crc32c(header[:60] + bytes(4) + payload).to_bytes(4, "little")


def mutated(seed: int, count: int) -> Iterator[Frames]:
    """Yield messages with one to three mutations each."""
    chance = random.Random(seed)
    messages = [_some_message(chance) for _ in range(300)]
    mutations = (_flip, _flip, _cut, _insert, _field, _field, _field_with_checksum, _fewer, _more, _swap, _garbage)
    for _ in range(count):
        parts = list(chance.choice(messages))
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            parts = chance.choice(mutations)(chance, parts)
        yield parts


def _some_message(chance: random.Random) -> Frames:
    kind, encoding = chance.choice(list(Kind)), chance.randrange(3)
    size = chance.choice((0, 4, 8, chance.randrange(2000), chance.randrange(2000), chance.randrange(80_000)))
    payload = chance.randbytes(size // 4 * 4 if kind in NUMBERS else size)
    long = (chance.getrandbits(64) for _ in range(4))
    message = Message(
        kind, payload, next(long), next(long), chance.getrandbits(32), chance.getrandbits(32), next(long), next(long),
        encoding,
    )  # fmt: skip
    return [encode(message), payload]


def _flip(chance: random.Random, parts: Frames) -> Frames:
    at = chance.randrange(len(parts))
    part = bytearray(parts[at])
    if part:
        for _ in range(chance.choice((1, 1, 2, 8))):
            part[chance.randrange(len(part))] ^= 1 << chance.randrange(8)
    return [*parts[:at], bytes(part), *parts[at + 1 :]]


def _cut(chance: random.Random, parts: Frames) -> Frames:
    at = chance.randrange(len(parts))
    return [*parts[:at], parts[at][: chance.randrange(len(parts[at]) + 1)], *parts[at + 1 :]]


def _insert(chance: random.Random, parts: Frames) -> Frames:
    at = chance.randrange(len(parts))
    before = chance.randrange(len(parts[at]) + 1)
    more = chance.randbytes(chance.randrange(100))
    return [*parts[:at], parts[at][:before] + more + parts[at][before:], *parts[at + 1 :]]


def _field(chance: random.Random, parts: Frames) -> Frames:
    offset, size = chance.choice(list(FIELDS.values()))
    number = chance.choice((0, 1, (1 << 8 * size) - 1, chance.getrandbits(8 * size), chance.getrandbits(8)))
    header = parts[0]
    return [header[:offset] + number.to_bytes(size, "little") + header[offset + size :], *parts[1:]]


def _field_with_checksum(chance: random.Random, parts: Frames) -> Frames:
    """Change a field, and write the checksum that fits: all other checks must find it."""
    parts = _field(chance, parts)
    if len(parts) != 2 or len(parts[0]) != 64:
        return parts
    header = parts[0][:60]
    return [header + crc32c(header + bytes(4) + parts[1]).to_bytes(4, "little"), parts[1]]


def _fewer(chance: random.Random, parts: Frames) -> Frames:
    return [chance.choice(parts)]


def _more(chance: random.Random, parts: Frames) -> Frames:
    return parts + [chance.choice((b"", parts[0], chance.randbytes(10)))] * chance.choice((1, 1, 2, 20))


def _swap(chance: random.Random, parts: Frames) -> Frames:
    return chance.sample(parts, len(parts))


def _garbage(chance: random.Random, parts: Frames) -> Frames:
    return [chance.randbytes(chance.choice((0, 64, chance.randrange(200)))) for _ in parts]


def serve() -> None:
    """Listen, decode all that comes, answer each message, until standard input ends."""
    ended = threading.Event()

    def wait_for_end() -> None:
        os.read(0, 1)
        ended.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    listener = SocketListener(Address("127.0.0.1", 0), None)
    print(listener.address.port, flush=True)
    while not ended.is_set():
        received = listener.receive(0.1)
        if received is not None:
            peer, message = received
            facts = dataclasses.asdict(listener.statistics())
            listener.send(peer, with_facts(Kind.STATE, facts, sequence=message.sequence))
    listener.close()


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--probe-every", type=int, default=1000, metavar="N")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return 0
    began = time.monotonic()
    try:
        counts = fuzz(arguments.frames, arguments.seed, arguments.probe_every)
    except FuzzError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    print(" ".join(f"{name}={number}" for name, number in dataclasses.asdict(counts).items()))
    print(f"all adds up, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
