"""The training side of remote data servers: has pictures made by data servers on other machines (--data-from).

The other machines decode, augment and normalise. This machine has the data set too, so it compares digest and labels.
It asks for a batch while the one before is copied and trained. A request may be sent again: every data server gives the
same answer to it, and an answer that is late or comes twice is recognized by its sequence number and ignored.
`picture_messages` says what the messages hold.
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
from adam_mp.data.reading.options import LoadOptions
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

_WINDOW = 8  # requests that may be unanswered at a time; the queues of a connection hold 16 messages
_AGAIN = 1.0  # seconds after which an unanswered request is sent again
_SILENCE = 3.0  # seconds without an answer after which the next data server is asked
_LOOK, _RETRY = 0.05, 0.005  # longest wait for a message in seconds: usually, and after a request could not be sent
_DESCRIBING = 1  # the sequence number of DESCRIBE; requests have larger ones


@dataclasses.dataclass(frozen=True)
class RemoteSource:
    """Which data servers make the pictures, and of which data set.

    `addresses` are "HOST:PORT" or "unix:FILE"; the first is asked first. `digest` is that of the data set
    (`DataSet.digest`), `count` the samples of all its parts, `image_shape` the (height, width, channels) of pictures.
    `deadline` is the seconds that the last of the data servers has to answer before all count as silent, at most three
    while it has opened no session. The data servers asked before it have three seconds each.
    """

    addresses: tuple[str, ...]
    keys: Keys | None
    digest: int
    image_shape: tuple[int, int, int]
    count: int
    deadline: float = 5.0


@dataclasses.dataclass(eq=False)
class _Request:
    """A request for a part of a batch, and its answer."""

    sequence: int
    samples: np.ndarray  # sample numbers, int64 [n]
    payload: np.ndarray  # of the FETCH
    sent: float = -math.inf  # when it was sent last
    opened: int = 0  # how many sessions had been opened when it was sent last
    answer: Answer | None = None


class RemotePictures:
    """Has the pictures of a run made by remote data servers; its methods are those of `ArrayPictures`.

    The constructor waits until a data server has opened a session, or until all are `silent`. Methods raise
    TransportError if a data server refuses a request. If a data server answers that a sample is bad, the sample is left
    out, and its fault noted in the array `bad` if the run has one.
    """

    def __init__(self, spec: PictureSpec, remote: RemoteSource, memory: RunMemory, counters: Counters) -> None:
        self._counters, self._shape = counters, remote.image_shape
        self._labels, self._bad = memory.arrays["labels"], memory.arrays.get("bad")
        self._part = most_samples(self._shape)  # samples in a request
        if answer_bytes(1, 0, self._shape) > LONGEST:
            raise SettingsError(
                f"pictures of {self._shape} have more than {LONGEST} bytes, too many for remote data servers; use a "
                "smaller --image-size"
            )
        self._answers = 0
        self._sequences = itertools.count(_DESCRIBING + 1)
        self._ahead: dict[tuple[int | None, bytes], list[_Request]] = {}
        self._waiting: dict[int, _Request] = {}  # unanswered requests by sequence, in the order in which they are sent
        self._link = _Link(remote, _describe(spec, remote))
        try:
            while not self._link.ready() and not self.silent:
                self._receive(_RETRY)
                self._link.step()
        except BaseException:
            self._link.close()
            raise

    @property
    def silent(self) -> bool:
        """Whether no data server has answered in time."""
        return self._link.silent

    @property
    def address(self) -> Place:
        """The data server that is asked at present."""
        return self._link.address

    def describe_silence(self) -> str:
        """Return a line for the user: no data server answers, why, and what follows from that."""
        return self._link.describe_silence()

    def look(self, batches: Sequence[np.ndarray], key: int | None) -> bool:
        """Tell whether a data server has answered since the last call, without waiting; send requests again.

        The requests are those that are still unanswered; if there are none, those for `batches`.
        """
        before = self._answers
        self._receive_all()
        self._link.step()
        if not self._waiting:
            self.prepare(*batches, key=key)
        self._send_due()
        return self._answers > before

    def prepare(self, *batches: np.ndarray, key: int | None = None) -> None:
        """Ask for the pictures of these batches, and forget the requests for other batches."""
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
        """Write the pictures and labels of those of `samples` that are not bad, in order; return how many.

        Returns None, and writes nothing, if no data server answers in time. `images`, `labels` and `key` are as in
        `ArrayPictures.fill`.
        """
        requests = self._ahead.pop(_name(samples, key), None)
        requests = self._requests(samples, key) if requests is None else requests
        self._receive_all()
        self._link.begin()
        while any(request.answer is None for request in requests):
            self._receive(_LOOK if self._send_due() else _RETRY)
            self._link.step()
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
        """Close the connections to the data servers."""
        self._link.close()

    def _requests(self, samples: np.ndarray, key: int | None) -> list[_Request]:
        """Queue the requests for a batch behind the others, without samples known to be bad; return them."""
        if self._bad is not None:
            samples = samples[self._bad[samples] == 0]
        requests = []
        for begin in range(0, len(samples), self._part):
            part = samples[begin : begin + self._part].copy()
            requests.append(_Request(next(self._sequences), part, pack_request(part, key)))
        self._waiting.update({request.sequence: request for request in requests})
        return requests

    def _send_due(self) -> bool:
        """Send those of the first `_WINDOW` requests that are new or due again; False if one cannot be sent."""
        link = self._link
        if not link.ready():
            return False
        assert link.session is not None
        now = time.monotonic()
        for request in itertools.islice(self._waiting.values(), _WINDOW):
            if request.opened == link.opened and now - request.sent < _AGAIN:
                continue
            fetch = Message(Kind.FETCH, request.payload, shard=link.session, sequence=request.sequence)
            if not link.send(fetch):
                return False
            request.sent, request.opened = now, link.opened
        return True

    def _receive_all(self) -> None:
        while self._receive(0):
            pass

    def _receive(self, seconds: float) -> bool:
        """Receive and handle a message, waiting at most `seconds`; False if none came."""
        found = self._link.receive(seconds)
        if found is None:
            return False
        address, message = found
        if message.kind is Kind.PICTURES:
            request = self._waiting.get(message.sequence)
            if request is not None:
                request.answer = self._checked(address, request, message)
                del self._waiting[message.sequence]
                self._answers += 1
                self._link.answered(address)
        elif message.kind is Kind.DESCRIPTION:
            self._link.described(address, message)
        elif message.kind is Kind.REFUSED:
            self._link.refused(address, message, message.sequence in self._waiting)
        return True

    def _checked(self, address: Place, request: _Request, message: Message) -> Answer:
        """Return the answer in a PICTURES; raises TransportError if it cannot be the answer to this request."""
        try:
            answer = unpack_answer(message.payload, len(request.samples), self._shape)
        except TransportError as error:
            raise TransportError(f"data server {address} sent an answer that is not valid: {error}") from None
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
    """Return a key for a batch, with a copy of its sample numbers: their array is written over in each epoch."""
    return key, samples.tobytes()


def _describe(spec: PictureSpec, remote: RemoteSource) -> Mapping[str, Any]:
    options = LoadOptions() if spec.source is None else spec.source.options
    return write(
        Describing.of(
            remote.digest, remote.count, remote.image_shape, spec.normalization, spec.augmentation, spec.keep, options
        )
    )


class _Link:
    """The connections to the data servers. One of them is asked; when it is silent, the next.

    `session` is the number of the session at the data server that is asked, None while none is open; `opened` counts
    the sessions opened so far. Data servers that were asked before stay connected: their late answers are used too.
    """

    def __init__(self, remote: RemoteSource, description: Mapping[str, Any]) -> None:
        if not remote.addresses:
            raise SettingsError("no data server is named; expected at least one HOST:PORT")
        self._addresses = [parse_place(text, "the address of a data server") for text in remote.addresses]
        self._description = description  # the JSON object of DESCRIBE
        self._deadline, self._others = remote.deadline, _SILENCE * (len(remote.addresses) - 1)
        self._dialer = SocketDialer(remote.keys)
        self._turn = 0  # index of the data server that is asked
        self._tried: list[Place] = []
        self._why: dict[Place, str] = {}  # why a data server does not answer
        self.session: int | None = None
        self.opened = 0
        self._described = -math.inf  # when DESCRIBE was sent last
        self._dial()
        self.begin()

    @property
    def address(self) -> Place:
        """The data server that is asked at present."""
        return self._addresses[self._turn]

    def _dial(self) -> None:
        if self.address not in self._tried:
            self._tried.append(self.address)
        try:
            self._dialer.dial(self.address)
        except SettingsError as error:  # for example, the folder of a socket file does not exist yet
            if len(self._addresses) == 1:
                raise
            self._why[self.address] = str(error)

    def begin(self) -> None:
        """Count the data servers' silence from now on: before, this process did not listen."""
        self._heard = self._progress = time.monotonic()

    def ready(self) -> bool:
        """Tell whether a session is open; if not, ask for one, at most once a second."""
        now = time.monotonic()
        if self.session is None and now - self._described >= _AGAIN:
            describe = with_facts(Kind.DESCRIBE, self._description, sequence=_DESCRIBING)
            if self._dialer.send(self.address, describe) is not None:
                self._described = now
        return self.session is not None

    def send(self, message: Message) -> bool:
        """Send to the data server that is asked; False if its queue is full or it is not connected."""
        return self._dialer.send(self.address, message) is not None

    def receive(self, seconds: float) -> tuple[Place, Message] | None:
        """Return the next message from any data server, and which one sent it; None if none comes in time."""
        found: tuple[Place, Message] | None = self._dialer.receive(seconds)
        return found

    def answered(self, address: Place) -> None:
        """Note that a data server answered a request."""
        self._progress = time.monotonic()
        if address == self.address:
            self._heard = self._progress

    def described(self, address: Place, message: Message) -> None:
        """Use the session that a data server has opened, if it is the one that is asked."""
        if address != self.address or self.session is not None:
            return
        try:
            opened = read(Opened, message.facts(), FrameError)
        except FrameError as error:
            raise TransportError(f"data server {address} sent an answer that is not valid: {error}") from None
        self.session, self._heard = opened.session, time.monotonic()
        self.opened += 1

    def refused(self, address: Place, message: Message, waited_for: bool) -> None:
        """Handle a REFUSED; `waited_for` says that it refuses a request that is unanswered.

        If the data server does not know the session any more, it is opened again. Raises TransportError if the data
        server refuses a request or the description.
        """
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
        else:  # it got damaged bytes, or messages of a version that it does not know
            self._why[address] = f"it refuses: {reason}"

    @property
    def silent(self) -> bool:
        """Whether no data server has answered in time."""
        last = self._deadline if self.session is not None else min(self._deadline, _SILENCE)
        return time.monotonic() - self._progress > self._others + last

    def step(self) -> None:
        """If the data server that is asked is silent, ask the next from now on."""
        now = time.monotonic()
        if now - self._heard > _SILENCE and len(self._addresses) > 1:
            self._why[self.address] = self._reason(self.address)
            self._turn = (self._turn + 1) % len(self._addresses)
            self.session, self._described, self._heard = None, -math.inf, now
            self._dial()

    def describe_silence(self) -> str:
        """Say which of the data servers that were tried do not answer, why, and which of them to start."""
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
