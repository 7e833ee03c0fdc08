"""The data server for other machines (`adam-mp serve-data`): answers their requests with pictures of its data set.

`PictureService` knows the data set and the sessions. `PictureServer` receives requests and sends answers; its picture
makers (`makers`) make the pictures. `picture_messages` says what the messages hold. A request that cannot be answered
is refused with a reason, and the data server goes on.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from adam_mp.data.reading.dataset import DataSet
from adam_mp.data.serving.makers import MOST_SESSIONS, Finished, Job, Makers
from adam_mp.data.serving.picture_maker import Session
from adam_mp.data.serving.picture_messages import Opened, longest_answer, most_samples, read_description, samples_in
from adam_mp.errors import AdamError, TransportError
from adam_mp.transport.endpoint import Sent
from adam_mp.transport.forms import short, write
from adam_mp.transport.messages import Kind, Message, with_facts
from adam_mp.transport.refusal import Refusal, refusal_message
from adam_mp.transport.zeromq import SocketListener

_MOST_REQUESTS = 256  # that are taken and not answered yet
_REQUESTS_A_TURN = 16  # messages that are received before the data server looks at finished answers again
_IDLE = 0.1  # seconds that the data server waits for a message or an answer before it asks `stop`


class PictureService:
    """The data set that a data server makes pictures of, and its open sessions.

    The cache holds images as they are decoded for the first session. For a session that wants them decoded in another
    way (`Look.decoded`), images are decoded each time.
    """

    def __init__(self, dataset: DataSet) -> None:
        self._digest, self._count, self._name = dataset.digest, dataset.count, dataset.name
        self.shape = dataset.image_shape
        self._cached: tuple[float, bool, float] | None = None
        self._sessions: collections.OrderedDict[int, Session] = collections.OrderedDict()

    @property
    def sessions(self) -> int:
        """How many sessions are open now."""
        return len(self._sessions)

    def describe(self, content: Mapping[str, Any]) -> Opened:
        """Open the session that the JSON object of a DESCRIBE describes; equal descriptions get the same session.

        Raises a child of AdamError if the replica's data set differs from this one, or if the description is not valid.
        """
        described = read_description(content, self.shape[2])
        for name, here in (("digest", self._digest), ("count", self._count), ("image_shape", tuple(self.shape))):
            if getattr(described, name) != here:
                raise TransportError(
                    f"the replica's data has {name} {short(getattr(described, name))}, the data served here "
                    f"({self._name}) {here}; give both sides the same data and --image-size"
                )
        look = described.look
        number = look.number
        if self._cached is None:
            self._cached = look.decoded
        session = Session(look, look.decoded == self._cached)
        if self._sessions.setdefault(number, session) != session:
            raise TransportError(
                f"session {number} is open already for pictures that look different; start the data server again"
            )
        self._sessions.move_to_end(number)
        if len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return Opened(number)

    def session(self, number: int) -> Session | None:
        """Return the session of this number; None if this data server has closed it, or has never opened it."""
        session = self._sessions.get(number)
        if session is not None:
            self._sessions.move_to_end(number)
        return session


@dataclasses.dataclass(frozen=True)
class ServingStatistics:
    """What a data server did so far: pictures sent, requests answered, sessions open now, payload bytes sent, refusals.

    `dropped` counts requests that came while too many others waited, and answers that could not be sent because the
    replica's queue was full or the replica was gone.
    """

    pictures: int
    requests: int
    sessions: int
    bytes: int
    refused: int
    dropped: int


@dataclasses.dataclass(frozen=True)
class _Request:
    """A FETCH that the data server took. If the replica sends it again before the answer, `name` is the same."""

    peer: bytes
    message: Message

    @property
    def name(self) -> tuple[bytes, int, int]:
        return self.peer, self.message.shard, self.message.sequence


class PictureServer:
    """Serves pictures until it is told to stop. One thread does all but making pictures, which is left to `makers`.

    Requests beyond `_MOST_REQUESTS` are dropped: replicas send unanswered requests again.
    """

    def __init__(self, service: PictureService, listener: SocketListener, makers: Makers) -> None:
        self._service, self._listener, self._makers = service, listener, makers
        self._most = most_samples(service.shape)
        self._taken: set[tuple[bytes, int, int]] = set()  # names of requests that are not answered yet
        self._leaving: list[tuple[Sent, int]] = []  # answers that are being sent, and their slots
        self._counts = dict.fromkeys(("pictures", "requests", "bytes", "refused", "dropped"), 0)

    def run(self, stop: Callable[[], bool]) -> None:
        """Serve until `stop()` is true; asks it at least every tenth of a second. Raises ProcessError: see `Makers`."""
        while not stop():
            ready = self._listener.wait(_IDLE, self._makers.files)
            self._take_requests()
            for finished in self._makers.collect(ready):
                self._answer(finished)
            self._makers.step()

    def statistics(self) -> ServingStatistics:
        """Return the counters as of now."""
        return ServingStatistics(sessions=self._service.sessions, **self._counts)

    def _take_requests(self) -> None:
        for _ in range(_REQUESTS_A_TURN):
            found = self._listener.receive(0)
            if found is None:
                return
            self._take(*found)

    def _take(self, peer: bytes, message: Message) -> None:
        if message.kind is Kind.FETCH:
            self._queue(_Request(peer, message))
            return
        try:
            if message.kind is not Kind.DESCRIBE:
                raise TransportError(f"a data server takes no {message.kind.name}")
            opened = self._service.describe(message.facts())
            answer = with_facts(Kind.DESCRIPTION, write(opened), sequence=message.sequence)
        except AdamError as error:
            answer = _refusal(message, str(error))
        self._send(peer, answer)

    def _queue(self, request: _Request) -> None:
        message = request.message
        if request.name in self._taken:
            return  # its answer is being made
        session, samples = self._service.session(message.shard), samples_in(message.payload)
        if samples > self._most:  # large requests could fill the memory while they wait
            self._send(request.peer, _refusal(message, f"request has more than {self._most} samples; ask for fewer"))
        elif session is None:
            reason = f"there is no session {message.shard} here"
            self._send(request.peer, _refusal(message, reason, message.shard))
        elif len(self._taken) >= _MOST_REQUESTS:
            self._counts["dropped"] += 1
        else:
            self._taken.add(request.name)
            size = longest_answer(samples, self._service.shape)
            self._makers.add(Job(request, message.shard, session, bytes(message.payload), size))

    def _answer(self, finished: Finished) -> None:
        """Send an answer from its slot, and give the slot back once the answer has left.

        A replica that takes none of its answers would keep their slots, and others would have none. So when too many
        answers are being sent, the answer is copied and its slot given back at once.
        """
        request: _Request = finished.job.request
        slots, slot = self._makers.slots, finished.slot
        self._taken.discard(request.name)
        if slot is None:
            self._send(request.peer, _refusal(request.message, str(finished.reason)))
            return
        for leaving in [each for each in self._leaving if each[0].done]:
            self._leaving.remove(leaving)
            slots.give_back(leaving[1])
        content: Any = slots.contents[slot, : finished.size].data
        if copied := len(self._leaving) >= self._makers.spare_slots:
            content = bytes(content)
        answer = Message(Kind.PICTURES, content, shard=finished.job.number, sequence=request.message.sequence)
        sent = self._send(request.peer, answer)
        if sent is None or sent.done or copied:
            slots.give_back(slot)
        else:
            self._leaving.append((sent, slot))

    def _send(self, peer: bytes, answer: Message) -> Sent | None:
        counts = self._counts
        if answer.kind is Kind.REFUSED:
            counts["refused"] += 1
        sent = self._listener.send(peer, answer)
        if sent is None:
            counts["dropped"] += 1
        elif answer.kind is Kind.PICTURES:
            counts["requests"] += 1
            counts["bytes"] += answer.length
            counts["pictures"] += int(np.frombuffer(answer.payload, "<i8", 1)[0])
        return sent


def _refusal(message: Message, reason: str, session: int | None = None) -> Message:
    return refusal_message(Refusal(reason, session=session), shard=message.shard, sequence=message.sequence)
