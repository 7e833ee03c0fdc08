"""A process that makes pictures for a data server of other machines; `makers` starts it and gives it work.

It is told what to do through a line from the server, and writes answers where the server sends them from (see
`answer_slots`). Before it decodes a sample it notes which on the board: the server blames that sample, should the
process die.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pickle
from multiprocessing.connection import Connection

import numpy as np

from adam_mp.data.pictures import Pictures, PictureSpec, open_pictures
from adam_mp.data.reading.sources import SourceSpec
from adam_mp.data.serving.answer_slots import AnswerSlots, SlotsHandle
from adam_mp.data.serving.picture_messages import Look, answer_bytes, lay_out, unpack_request
from adam_mp.errors import AdamError, TransportError
from adam_mp.memory.cache import CacheHandle, ImageCache
from adam_mp.memory.run_memory import RunHandle, RunMemory


@dataclasses.dataclass(frozen=True)
class Served:
    """The data set that is served: its name, the shape (height, width, channels) of its pictures, and their source.

    `source` and `cache` are None where images are arrays.
    """

    name: str
    shape: tuple[int, int, int]
    source: SourceSpec | None = None
    cache: CacheHandle | None = None


@dataclasses.dataclass(frozen=True)
class MakerSpec:
    """What a process is told: its number, the memory with the data set, and its end of the line to the server."""

    process: int
    served: Served
    memory: RunHandle
    slots: SlotsHandle
    line: int


@dataclasses.dataclass(frozen=True)
class Session:
    """How the pictures of a session look, and whether the cache holds images as it wants them decoded."""

    look: Look
    cached: bool


@dataclasses.dataclass(frozen=True)
class Open:
    """Begin to make pictures of a session."""

    number: int
    session: Session


@dataclasses.dataclass(frozen=True)
class Forget:
    """Free what a session takes: it is used no more, or opened again first."""

    number: int


@dataclasses.dataclass(frozen=True)
class Task:
    """Make the answer to `request`, the payload of a FETCH, in a slot."""

    number: int
    session: int
    slot: int
    request: bytes


@dataclasses.dataclass(frozen=True)
class Made:
    """A task is done: the slot holds an answer of `size` bytes; or there is none, for a `reason`."""

    number: int
    size: int = 0
    reason: str | None = None


class PictureMaker:
    """Makes answers from a data set, which stands in `memory` (see `DataPlan.fill`)."""

    def __init__(self, served: Served, memory: RunMemory, process: int) -> None:
        self._served, self._memory = served, memory
        self._counters = memory.board.counters[process]
        self._labels = memory.arrays["labels"]
        self._sessions: dict[int, Session] = {}
        self._opened: dict[int, tuple[Pictures, np.ndarray | None]] = {}  # and what a request finds bad
        self._nothing: ImageCache | None = None

    def open(self, number: int, session: Session) -> None:
        """Begin to make pictures of a session."""
        self._sessions[number] = session

    def forget(self, number: int) -> None:
        """Free what a session takes."""
        del self._sessions[number]
        self._opened.pop(number, None)

    def _pictures(self, number: int) -> tuple[Pictures, np.ndarray | None]:
        if number not in self._opened:
            self._opened[number] = self._open(self._sessions[number])
        return self._opened[number]

    def _open(self, session: Session) -> tuple[Pictures, np.ndarray | None]:
        # A view of the memory with faults of its own: what could not be had once is tried again when a replica asks
        # again, and the faults found by a request are those of its samples, whatever other processes find.
        memory = RunMemory(self._memory.segment, self._memory.shape)
        source, cache, bad = self._served.source, self._served.cache, None
        if source is not None:
            height, width, _ = self._served.shape
            keep = session.look.keep
            source = dataclasses.replace(source, least=(math.ceil(height / keep), math.ceil(width / keep)))
            bad = memory.arrays["bad"] = np.zeros(len(self._labels), np.uint8)
            if not session.cached:
                places = memory.arrays["cache_places"] = np.zeros(len(self._labels), np.int64)
                self._nothing = self._nothing or ImageCache.create(0, 1, places)
                cache = self._nothing.handle
        look = session.look
        spec = PictureSpec(look.normalization, look.augmentation, look.keep, source, cache)
        return open_pictures(spec, memory, self._counters), bad

    def make(self, number: int, request: bytes, content: np.ndarray) -> int:
        """Write the payload of PICTURES for that of a FETCH into `content`, uint8; return its bytes.

        Raises TransportError for requests that cannot be answered.
        """
        samples, key = unpack_request(request)
        outside = samples[(samples < 0) | (samples >= len(self._labels))]
        if outside.size:
            raise TransportError(
                f"there is no sample {outside[0]} in {self._served.name}; expected 0 to {len(self._labels) - 1}"
            )
        pictures, bad = self._pictures(number)
        count, shape = len(samples), self._served.shape
        _, labels, images = lay_out(content, count, 0, shape)  # as if all were good
        if bad is not None:
            bad[samples] = self._memory.arrays["bad"][samples]  # those that the server leaves out
        pictures.prepare(samples, key=key)
        kept = pictures.fill(samples, images, labels, key)
        if kept < count:
            assert bad is not None, "arrays have all their samples"
            positions = np.flatnonzero(bad[samples])
            there, kept_labels = images[:kept].copy(), labels[:kept].copy()
            faults, labels, images = lay_out(content, kept, len(positions), shape)
            faults[:, 0], faults[:, 1] = positions, bad[samples[positions]]
            labels[:], images[:] = kept_labels, there
        return answer_bytes(kept, count - kept, shape)


def make_pictures(spec: MakerSpec) -> None:
    """Make pictures in this process, until the server hangs up."""
    slots = AnswerSlots.attach(spec.slots)
    memory = RunMemory.attach(spec.memory)
    maker = PictureMaker(spec.served, memory, spec.process)
    memory.board.counters[spec.process].publish("ready", 1)
    with Connection(spec.line) as line, contextlib.suppress(EOFError, ConnectionError):
        while True:
            match pickle.loads(line.recv_bytes()):  # from the process that started this one
                case Open(number, session):
                    maker.open(number, session)
                case Forget(number):
                    maker.forget(number)
                case Task() as task:
                    line.send_bytes(pickle.dumps(_answer(maker, task, slots.contents[task.slot])))


def _answer(maker: PictureMaker, task: Task, content: np.ndarray) -> Made:
    try:
        return Made(task.number, maker.make(task.session, task.request, content))
    except AdamError as error:
        return Made(task.number, reason=str(error))
    except Exception as error:  # the other replicas are still to be served
        return Made(task.number, reason=f"the pictures cannot be made: {type(error).__name__}: {error}")
