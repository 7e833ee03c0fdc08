"""The serving side of remote data servers: makes pictures of its own copy of a data set for machines that train.

`PictureService` answers what is asked, `PictureServer` carries questions and answers over TCP; `picture_messages` tells
what they hold. What cannot be answered is refused with a reason, and the server goes on.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import queue
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from adam_mp.data.dataset import DataSet
from adam_mp.data.picture_messages import (
    MOST_SAMPLES,
    Look,
    answer_bytes,
    blank_answer,
    parse_look,
    short,
    unpack_request,
)
from adam_mp.data.pictures import Pictures, PictureSpec, open_pictures
from adam_mp.data.sources import SourceSpec
from adam_mp.errors import AdamError, SettingsError, TransportError
from adam_mp.memory.cache import CacheHandle, ImageCache
from adam_mp.memory.run_memory import RunMemory
from adam_mp.transport.messages import LONGEST, Kind, Message, with_facts
from adam_mp.transport.tcp import TcpListener

_MOST_SESSIONS = 16
_MOST_REQUESTS = 256  # taken and not answered yet
_REQUESTS_A_TURN = 16
_IDLE, _BUSY = 0.1, 0.001  # seconds to wait for requests where nothing is being made, for answers where something is
_TICK, _END = 0.5, 5.0


class SessionError(TransportError):
    """The server knows no session of this number: it is another one than before, or has forgotten it."""


class PictureService:
    """Answers about one data set, which stands in `memory` (see `DataPlan.fill`). For any number of threads.

    `source` and `cache` are None where images are arrays. The cache holds images as the first session wants them
    decoded; a session that wants another part of them (`keep`) has its images decoded each time.
    """

    def __init__(
        self, dataset: DataSet, memory: RunMemory, source: SourceSpec | None = None, cache: CacheHandle | None = None
    ) -> None:
        self._digest, self._count, self._shape = dataset.digest, dataset.count, dataset.image_shape
        self._name = dataset.name
        self._memory, self._source, self._cache = memory, source, cache
        self._cached_keep: float | None = None
        self._lock = threading.Lock()
        self._sessions: collections.OrderedDict[int, Look] = collections.OrderedDict()
        self._mine = threading.local()  # a thread's pictures, by session
        self._threads = itertools.count()
        self._nothing = None if source is None else ImageCache.create(0, 1, np.zeros(self._count, np.int64))
        if self._nothing is not None:
            weakref.finalize(self, self._nothing.close)

    @property
    def sessions(self) -> int:
        """How many sessions are kept now."""
        return len(self._sessions)

    def describe(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Open the session of a DESCRIPTION, the same for the same facts; return {"session": number}.

        Raises a child of AdamError if the data are others than here, or no picture can look like that.
        """
        for name, here in (("digest", self._digest), ("count", self._count), ("image_shape", list(self._shape))):
            if facts.get(name) != here:
                raise TransportError(
                    f"the replica's data has {name} {short(facts.get(name))}, the data served here ({self._name}) "
                    f"{here}; give both sides the same data and --image-size"
                )
        look = parse_look(facts, self._shape[2])
        number = look.number
        with self._lock:
            if self._sessions.setdefault(number, look) != look:
                raise TransportError(f"session {number} is another one's; start the data server again")
            self._sessions.move_to_end(number)
            if len(self._sessions) > _MOST_SESSIONS:
                self._sessions.popitem(last=False)
            if self._cached_keep is None:
                self._cached_keep = look.keep
        return {"session": number}

    def fetch(self, session: int, payload: Any) -> memoryview:
        """Return the payload of PICTURES for that of a FETCH; see `picture_messages` for both.

        Raises SessionError, and TransportError for requests that cannot be answered.
        """
        with self._lock:
            look = self._sessions.get(session)
            if look is None:
                raise SessionError(f"there is no session {session} here")
            self._sessions.move_to_end(session)
        samples, key = unpack_request(payload)
        outside = samples[(samples < 0) | (samples >= self._count)]
        if outside.size:
            raise TransportError(f"there is no sample {outside[0]} in {self._name}; expected 0 to {self._count - 1}")
        if answer_bytes(len(samples), 0, self._shape) > LONGEST:
            raise TransportError(
                f"{len(samples)} pictures of {self._shape} are more than {LONGEST} bytes; ask for fewer"
            )
        pictures, bad = self._pictures(session, look)
        return _make_answer(pictures, bad, samples, key, self._shape)

    def _pictures(self, session: int, look: Look) -> tuple[Pictures, np.ndarray | None]:
        """Return this thread's pictures of a session, and its own array of faults, None for arrays."""
        mine: dict[int, tuple[Pictures, np.ndarray | None]] | None = getattr(self._mine, "pictures", None)
        if mine is None:
            mine = self._mine.pictures = {}
            self._mine.number = next(self._threads)
        if session not in mine:
            for old in [old for old in mine if old not in self._sessions]:
                del mine[old]
            mine[session] = self._open(look)
        return mine[session]

    def _open(self, look: Look) -> tuple[Pictures, np.ndarray | None]:
        # A view of the memory with faults of its own: what could not be had once is tried again when a replica asks
        # again, and the faults found by a request are those of its samples, whatever other threads find.
        memory = RunMemory(self._memory.segment, self._memory.shape)
        source, cache, bad = self._source, self._cache, None
        if source is not None:
            bad = memory.arrays["bad"] = np.zeros(self._count, np.uint8)
            least = (math.ceil(self._shape[0] / look.keep), math.ceil(self._shape[1] / look.keep))
            source = dataclasses.replace(source, least=least)
            if cache is None or look.keep != self._cached_keep:
                assert self._nothing is not None
                cache = self._nothing.handle
                memory.arrays["cache_places"] = np.zeros(self._count, np.int64)
        spec = PictureSpec(look.normalization, look.augmentation, look.keep, source, cache)
        counters = memory.board.counters
        return open_pictures(spec, memory, counters[self._mine.number % len(counters)]), bad


def _make_answer(
    pictures: Pictures, bad: np.ndarray | None, samples: np.ndarray, key: int | None, shape: tuple[int, int, int]
) -> memoryview:
    """Return an answer: made in place as if all samples were good, moved up where some are not."""
    count = len(samples)
    content, labels, images = blank_answer(count, 0, shape)
    if bad is not None:
        bad[samples] = 0
    pictures.prepare(samples, key=key)
    kept = pictures.fill(samples, images, labels, key)
    content[:16].view(np.int64)[:] = kept, count - kept
    if kept == count:
        return content.data
    assert bad is not None, "arrays have all their samples"
    positions = np.flatnonzero(bad[samples])
    shorter, fewer_labels, fewer_images = blank_answer(kept, len(positions), shape)
    shorter[:16] = content[:16]
    shorter[16 : 16 + 16 * len(positions)].view(np.int64)[:] = np.stack(
        [positions, bad[samples[positions]]], axis=1
    ).reshape(-1)
    fewer_labels[:], fewer_images[:] = labels[:kept], images[:kept]
    return shorter.data


@dataclasses.dataclass(frozen=True)
class ServingStatistics:
    """What a server did so far: pictures and payload bytes sent, requests answered, sessions kept now, refusals.

    `dropped` are requests that found too many others waiting, and answers that nobody was there to take.
    """

    pictures: int
    requests: int
    sessions: int
    bytes: int
    refused: int
    dropped: int


@dataclasses.dataclass(frozen=True)
class _Request:
    """A FETCH that was taken; the same one asked again meanwhile has the same `name`."""

    peer: bytes
    message: Message

    @property
    def name(self) -> tuple[bytes, int, int]:
        return self.peer, self.message.shard, self.message.sequence


class PictureServer:
    """Serves pictures over TCP until it is told to stop.

    The thread that calls `run` alone has the listener. It hands requests to `threads` others, which make pictures and
    hand them back; kernels and decoders leave Python's lock to each other. Requests beyond `_MOST_REQUESTS` are
    dropped: replicas ask again.
    """

    def __init__(self, service: PictureService, listener: TcpListener, threads: int) -> None:
        if threads < 1:
            raise SettingsError(f"threads are {threads}; expected at least 1")
        self._service, self._listener = service, listener
        self._requests: queue.Queue[_Request] = queue.Queue(_MOST_REQUESTS)
        self._answers: queue.Queue[tuple[_Request, Message]] = queue.Queue()  # as many as were taken, at most
        self._taken: set[tuple[bytes, int, int]] = set()  # asked and not answered yet
        self._ending = threading.Event()
        self._makers = [
            threading.Thread(target=self._make, name=f"pictures {number}", daemon=True) for number in range(threads)
        ]
        self._counts = dict.fromkeys(("pictures", "requests", "bytes", "refused", "dropped"), 0)

    def run(self, stop: Callable[[], bool]) -> None:
        """Serve until `stop()`, which is asked at least every tenth of a second. To be called once."""
        for maker in self._makers:
            maker.start()
        try:
            while not stop():
                self._take_requests(0 if self._taken else _IDLE)
                self._send_answers(_BUSY)
        finally:
            self._ending.set()
            for maker in self._makers:
                maker.join(_END)

    def statistics(self) -> ServingStatistics:
        """Return the counters as of now."""
        return ServingStatistics(sessions=self._service.sessions, **self._counts)

    def _take_requests(self, seconds: float) -> None:
        for _ in range(_REQUESTS_A_TURN):
            found = self._listener.receive(seconds)
            if found is None:
                return
            self._take(*found)
            seconds = 0

    def _take(self, peer: bytes, message: Message) -> None:
        if message.kind is Kind.FETCH:
            self._queue(_Request(peer, message))
            return
        try:
            if message.kind is not Kind.DESCRIBE:
                raise TransportError(f"a data server takes no {message.kind.name}")
            answer = with_facts(
                Kind.DESCRIPTION, self._service.describe(message.facts()), sequence=message.sequence
            )  # fmt: skip
        except AdamError as error:
            answer = _refusal(message, str(error))
        self._send(peer, answer)

    def _queue(self, request: _Request) -> None:
        if request.name in self._taken:
            return  # it is being made
        if request.message.length > 8 * (2 + MOST_SAMPLES):  # large ones could fill the memory while they wait
            self._send(request.peer, _refusal(request.message, f"request has more than {MOST_SAMPLES} samples"))
        elif len(self._taken) >= _MOST_REQUESTS:
            self._counts["dropped"] += 1
        else:
            self._taken.add(request.name)
            self._requests.put_nowait(request)

    def _send_answers(self, seconds: float) -> None:
        """Send what is ready, waiting `seconds` at most for the first of it where something is being made."""
        wait = bool(self._taken)
        while self._taken:
            try:
                request, answer = self._answers.get(wait, seconds)
            except queue.Empty:
                return
            wait = False
            self._taken.discard(request.name)
            self._send(request.peer, answer)

    def _send(self, peer: bytes, answer: Message) -> None:
        counts = self._counts
        if answer.kind is Kind.REFUSED:
            counts["refused"] += 1
        if self._listener.send(peer, answer) is None:
            counts["dropped"] += 1
        elif answer.kind is Kind.PICTURES:
            counts["requests"] += 1
            counts["bytes"] += answer.length
            counts["pictures"] += int(np.frombuffer(answer.payload, "<i8", 1)[0])

    def _make(self) -> None:
        """Answer requests, in a thread of its own."""
        while not self._ending.is_set():
            try:
                request = self._requests.get(timeout=_TICK)
            except queue.Empty:
                continue
            self._answers.put((request, self._answer(request.message)))

    def _answer(self, message: Message) -> Message:
        try:
            payload = self._service.fetch(message.shard, message.payload)
        except SessionError as error:
            return _refusal(message, str(error), session=message.shard)
        except AdamError as error:
            return _refusal(message, str(error))
        except Exception as error:  # the other replicas are still to be served
            return _refusal(message, f"the pictures cannot be made: {type(error).__name__}: {error}")
        return Message(Kind.PICTURES, payload, shard=message.shard, sequence=message.sequence)


def _refusal(message: Message, reason: str, **more: int) -> Message:
    facts = {"reason": reason, **more}
    return with_facts(Kind.REFUSED, facts, shard=message.shard, sequence=message.sequence)
