"""The training side of remote data servers: pictures that other machines make, as if they were made here.

The machine has the data set too, so labels and digest can be compared; decoding, augmenting and normalising are done
elsewhere. A batch is asked for while the one before it is copied and trained. Asking is safe to repeat: the same
request has the same answer from every server, so what is late or comes twice is known by its sequence number and
ignored. `picture_messages` tells what the messages hold.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adam_mp.data.pictures import PictureSpec
from adam_mp.data.serving.picture_messages import (
    Answer,
    Describing,
    Opened,
    answer_bytes,
    most_samples,
    pack_request,
    unpack_answer,
)
from adam_mp.errors import SettingsError, TransportError
from adam_mp.memory.board import Counters
from adam_mp.memory.run_memory import RunMemory
from adam_mp.transport.forms import read, write
from adam_mp.transport.keys import Keys
from adam_mp.transport.messages import LONGEST, FrameError, Kind, Message, with_facts
from adam_mp.transport.places import Place, parse_place
from adam_mp.transport.refusal import Refusal, read_refusal
from adam_mp.transport.zeromq import ABSENT, SocketDialer

_WINDOW = 8  # requests on their way; the queues of a connection hold 16 messages
_AGAIN = 1.0  # seconds after which an unanswered question is asked again
_SILENCE = 3.0  # seconds after which the next server is tried
_LOOK, _RETRY = 0.05, 0.005  # seconds between looks at clocks, and where something could not be sent
_DESCRIBING = 1  # the sequence number of DESCRIBE; requests have those behind it


@dataclasses.dataclass(frozen=True)
class RemoteSource:
    """Which data servers make the pictures, and of what.

    `addresses` "HOST:PORT" or "unix:FILE", the first preferred; `digest` of the data set (`DataSet.digest`),
    `image_shape` (height, width, channels) of the pictures, `count` samples of all parts. `deadline` is how many
    seconds the last server that is tried has to answer, three at most where it opens no session; those before it have
    three each.
    """

    addresses: tuple[str, ...]
    keys: Keys | None
    digest: int
    image_shape: tuple[int, int, int]
    count: int
    deadline: float = 5.0


@dataclasses.dataclass(eq=False)
class _Request:
    """A part of a batch: sample numbers int64 [n], the question about them, when and in which session it was sent."""

    sequence: int
    samples: np.ndarray
    question: np.ndarray
    sent: float = -math.inf
    opened: int = 0
    answer: Answer | None = None


class RemotePictures:
    """Pictures of the samples of a run that data servers on other machines make; see `ArrayPictures`.

    Making one waits until a server has answered, or none did in time: then they are all `silent`. Raises TransportError
    where a server refuses. A sample that the server could not have is marked in the array `bad`, if there is one, and
    left out.
    """

    def __init__(self, spec: PictureSpec, remote: RemoteSource, memory: RunMemory, counters: Counters) -> None:
        self._counters, self._shape = counters, remote.image_shape
        self._labels, self._bad = memory.arrays["labels"], memory.arrays.get("bad")
        self._part = most_samples(self._shape)
        if answer_bytes(1, 0, self._shape) > LONGEST:
            raise SettingsError(
                f"pictures of {self._shape} have more than {LONGEST} bytes, too many for remote data servers; use a "
                "smaller --image-size"
            )
        self._answers = 0
        self._sequences = itertools.count(_DESCRIBING + 1)
        self._ahead: dict[tuple[int | None, bytes], list[_Request]] = {}
        self._waiting: dict[int, _Request] = {}  # by sequence, in the order in which they are wanted
        self._line = _Line(remote, _describe(spec, remote))
        try:
            while not self._line.ready() and not self.silent:
                self._receive(_RETRY)
                self._line.watch()
        except BaseException:
            self._line.close()
            raise

    @property
    def silent(self) -> bool:
        """Whether no server has answered in time."""
        return self._line.silent

    @property
    def address(self) -> Place:
        """The server that is asked at present."""
        return self._line.address

    def describe_silence(self) -> str:
        """Say that no server answers, why, and what comes of it."""
        return self._line.describe_silence()

    def look(self, batches: Sequence[np.ndarray], key: int | None) -> bool:
        """Tell whether a server has answered by now, without waiting; ask again.

        It asks again about batches that no server answered; if there are none, it asks about `batches`.
        """
        before = self._answers
        self._receive_all()
        self._line.watch()
        if not self._waiting:
            self.prepare(*batches, key=key)
        self._send_due()
        return self._answers > before

    def prepare(self, *batches: np.ndarray, key: int | None = None) -> None:
        """Ask for the pictures of these batches, and forget what was asked for others."""
        known, self._ahead = self._ahead, {}
        for samples in batches:
            name = _name(samples, key)
            if name not in self._ahead:
                self._ahead[name] = known.pop(name) if name in known else self._requests(samples, key)
        for requests in known.values():
            for request in requests:
                self._waiting.pop(request.sequence, None)
        self._receive_all()
        self._send_due()

    def fill(self, samples: np.ndarray, images: np.ndarray, labels: np.ndarray, key: int | None) -> int | None:
        """Write the pictures and labels of `samples`, those that can be had, in order; return how many.

        None: no server answered in time, and nothing is written. `key` stands for (seed, epoch); with None nothing is
        drawn.
        """
        requests = self._ahead.pop(_name(samples, key), None)
        requests = self._requests(samples, key) if requests is None else requests
        self._receive_all()
        self._line.begin()
        while any(request.answer is None for request in requests):
            self._receive(_LOOK if self._send_due() else _RETRY)
            self._line.watch()
            if self.silent:
                return None
        kept = 0
        for request in requests:
            answer = request.answer
            assert answer is not None
            count = len(answer.labels)
            images[kept : kept + count], labels[kept : kept + count] = answer.images, answer.labels
            kept += count
            self._mark(request.samples[answer.positions], answer.faults)
        return kept

    def close(self) -> None:
        """Hang up."""
        self._line.close()

    def _requests(self, samples: np.ndarray, key: int | None) -> list[_Request]:
        """Put the questions about a batch behind the others; samples that are known to be bad are left out."""
        if self._bad is not None:
            samples = samples[self._bad[samples] == 0]
        requests = []
        for begin in range(0, len(samples), self._part):
            part = samples[begin : begin + self._part].copy()
            requests.append(_Request(next(self._sequences), part, pack_request(part, key)))
        self._waiting.update({request.sequence: request for request in requests})
        return requests

    def _send_due(self) -> bool:
        """Send those of the first questions that were not asked yet, or long ago; False if one could not be sent."""
        line = self._line
        if not line.ready():
            return False
        assert line.session is not None
        now = time.monotonic()
        for request in itertools.islice(self._waiting.values(), _WINDOW):
            if request.opened == line.opened and now - request.sent < _AGAIN:
                continue
            question = Message(Kind.FETCH, request.question, shard=line.session, sequence=request.sequence)
            if not line.send(question):
                return False
            request.sent, request.opened = now, line.opened
        return True

    def _receive_all(self) -> None:
        while self._receive(0):
            pass

    def _receive(self, seconds: float) -> bool:
        """Take up a message, waiting `seconds` at most; False if there is none."""
        found = self._line.receive(seconds)
        if found is None:
            return False
        address, message = found
        if message.kind is Kind.PICTURES:
            request = self._waiting.get(message.sequence)
            if request is not None:
                request.answer = self._checked(address, request, message)
                del self._waiting[message.sequence]
                self._answers += 1
                self._line.answered(address)
        elif message.kind is Kind.DESCRIPTION:
            self._line.described(address, message)
        elif message.kind is Kind.REFUSED:
            self._line.refused(address, message, message.sequence in self._waiting)
        return True

    def _checked(self, address: Place, request: _Request, message: Message) -> Answer:
        """Return what an answer holds; raises TransportError if it cannot be the answer to this request."""
        try:
            answer = unpack_answer(message.payload, len(request.samples), self._shape)
        except TransportError as error:
            raise TransportError(f"data server {address} sent what cannot be used: {error}") from None
        samples = np.delete(request.samples, answer.positions)
        wrong = np.flatnonzero(answer.labels != self._labels[samples])
        if wrong.size:
            sample = samples[wrong[0]]
            raise TransportError(
                f"data server {address} has label {answer.labels[wrong[0]]} for sample {sample}, this machine "
                f"{self._labels[sample]}; give both the same data"
            )
        return answer

    def _mark(self, samples: np.ndarray, faults: np.ndarray) -> None:
        if self._bad is None:
            return
        for sample, fault in zip(samples.tolist(), faults.tolist(), strict=True):
            if not self._bad[sample]:
                self._bad[sample] = fault
                self._counters.add("bad", 1)


def _name(samples: np.ndarray, key: int | None) -> tuple[int | None, bytes]:
    """By what a batch is known again: the memory that its sample numbers come from is written over in each epoch."""
    return key, samples.tobytes()


def _describe(spec: PictureSpec, remote: RemoteSource) -> Mapping[str, Any]:
    return write(
        Describing.of(
            remote.digest, remote.count, remote.image_shape, spec.normalization, spec.augmentation, spec.keep
        )
    )  # fmt: skip


class _Line:
    """The way to the data servers: one of them is asked, with a session open there; when it is silent, the next.

    `session` is the session's number, None while there is none, and `opened` counts sessions opened so far. Servers
    that were asked before stay connected: what they still send is as good.
    """

    def __init__(self, remote: RemoteSource, facts: Mapping[str, Any]) -> None:
        if not remote.addresses:
            raise SettingsError("no data server is named; expected at least one HOST:PORT")
        self._addresses = [parse_place(text, "the address of a data server") for text in remote.addresses]
        self._facts = facts
        self._deadline, self._others = remote.deadline, _SILENCE * (len(remote.addresses) - 1)
        self._dialer = SocketDialer(remote.keys)
        self._turn = 0
        self._tried: list[Place] = []
        self._why: dict[Place, str] = {}
        self.session: int | None = None
        self.opened = 0
        self._described = -math.inf
        self._dial()
        self.begin()

    @property
    def address(self) -> Place:
        """The server that is asked at present."""
        return self._addresses[self._turn]

    def _dial(self) -> None:
        if self.address not in self._tried:
            self._tried.append(self.address)
        try:
            self._dialer.dial(self.address)
        except SettingsError as error:  # such as a socket file whose folder is not there yet
            if len(self._addresses) == 1:
                raise
            self._why[self.address] = str(error)

    def begin(self) -> None:
        """Count silence from now on: nobody listened before."""
        self._heard = self._progress = time.monotonic()

    def ready(self) -> bool:
        """Tell whether a session is open; where there is none, ask for one, again and again."""
        now = time.monotonic()
        if self.session is None and now - self._described >= _AGAIN:
            question = with_facts(Kind.DESCRIBE, self._facts, sequence=_DESCRIBING)
            if self._dialer.send(self.address, question) is not None:
                self._described = now
        return self.session is not None

    def send(self, message: Message) -> bool:
        """Send to the server that is asked at present; False if its queue is full or it is not there."""
        return self._dialer.send(self.address, message) is not None

    def receive(self, seconds: float) -> tuple[Place, Message] | None:
        """Return the next message, from whichever server, and who sent it; None if there is none in time."""
        found: tuple[Place, Message] | None = self._dialer.receive(seconds)
        return found

    def answered(self, address: Place) -> None:
        """Note that a server gave an answer that was waited for."""
        self._progress = time.monotonic()
        if address == self.address:
            self._heard = self._progress

    def described(self, address: Place, message: Message) -> None:
        """Take up the session that a server opened."""
        if address != self.address or self.session is not None:
            return
        try:
            opened = read(Opened, message.facts(), FrameError)
        except FrameError as error:
            raise TransportError(f"data server {address} sent what cannot be used: {error}") from None
        self.session, self._heard = opened.session, time.monotonic()
        self.opened += 1

    def refused(self, address: Place, message: Message, waited_for: bool) -> None:
        """Open a session again where it was unknown; raise TransportError where a question of ours was refused."""
        try:
            refusal = read_refusal(message)
        except FrameError:
            refusal = Refusal()
        reason = " ".join(refusal.reason.split())
        if refusal.session is not None:
            if address == self.address and refusal.session == self.session:
                self.session, self._described = None, -math.inf
        elif waited_for or message.sequence == _DESCRIBING:
            raise TransportError(f"data server {address} refuses: {reason}")
        else:  # of bytes that were damaged on their way, or of a version that it does not speak
            self._why[address] = f"it refuses: {reason}"

    @property
    def silent(self) -> bool:
        """Whether no server has answered in time."""
        last = self._deadline if self.session is not None else min(self._deadline, _SILENCE)
        return time.monotonic() - self._progress > self._others + last

    def watch(self) -> None:
        """Turn to the next server when this one is silent."""
        now = time.monotonic()
        if now - self._heard > _SILENCE and len(self._addresses) > 1:
            self._why[self.address] = self._reason(self.address)
            self._turn = (self._turn + 1) % len(self._addresses)
            self.session, self._described, self._heard = None, -math.inf, now
            self._dial()

    def describe_silence(self) -> str:
        """Say which servers do not answer, as far as they were tried, and why."""
        reasons = {address: self._reason(address) for address in self._tried}
        (first, reason), *others = reasons.items()
        also = "".join(f", nor does {address} ({why})" for address, why in others)
        missing = next((address for address, why in reasons.items() if why in ABSENT), None)
        start = "" if missing is None else f"; start it with: adam-mp serve-data --listen {missing} ..."
        return (
            f"data server {first} does not answer ({reason}){also}; this machine makes the pictures until one answers"
            f"{start}"
        )

    def _reason(self, address: Place) -> str:
        if address == self.address and self.session is not None:
            return "it opened a session, and then was silent"
        return self._why.get(address) or self._dialer.trouble(address)

    def close(self) -> None:
        self._dialer.close()
