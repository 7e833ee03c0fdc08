"""A picture maker: a process that makes pictures for a data server for other machines (`makers` starts it).

The data server sends tasks to it through a pipe. The picture maker writes each answer into the slot of shared memory
that the task names (`answer_slots`), and the data server sends the answer from there. Before the picture maker decodes
a sample, it writes the sample's number on the board, so that the data server knows which sample to blame if it dies.
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
    """The data set that is served.

    `shape` is the (height, width, channels) of its pictures; `source` and `cache` are None if its images are arrays.
    """

    name: str
    shape: tuple[int, int, int]
    source: SourceSpec | None = None
    cache: CacheHandle | None = None


@dataclasses.dataclass(frozen=True)
class MakerSpec:
    """What a picture maker is told: its process number, the data set, the memory that it shares with the data server.

    `memory` has the data set and the board, `slots` are for answers, `pipe` is the descriptor of its end of the pipe.
    """

    process: int
    served: Served
    memory: RunHandle
    slots: SlotsHandle
    pipe: int


@dataclasses.dataclass(frozen=True)
class Session:
    """How the pictures of a session look, and whether the session uses the cache (`PictureService`)."""

    look: Look
    cached: bool


@dataclasses.dataclass(frozen=True)
class Open:
    """To a picture maker: open this session; tasks of it will follow."""

    number: int
    session: Session


@dataclasses.dataclass(frozen=True)
class Forget:
    """To a picture maker: close this session, and free its memory. No task of it follows, unless it is opened again."""

    number: int


@dataclasses.dataclass(frozen=True)
class Task:
    """To a picture maker: write the answer to `request`, the payload of a FETCH, into a slot."""

    number: int
    session: int
    slot: int
    request: bytes


@dataclasses.dataclass(frozen=True)
class Made:
    """From a picture maker: task `number` is done, its answer has `size` bytes. If there is none, `reason` says why."""

    number: int
    size: int = 0
    reason: str | None = None


class PictureMaker:
    """Makes answers from the data set in `memory` (`DataPlan.fill` has copied it there)."""

    def __init__(self, served: Served, memory: RunMemory, process: int) -> None:
        self._served, self._memory = served, memory
        self._counters = memory.board.counters[process]
        self._labels = memory.arrays["labels"]
        self._sessions: dict[int, Session] = {}
        self._opened: dict[int, tuple[Pictures, np.ndarray | None]] = {}  # session -> its pictures, faults of samples
        self._nothing: ImageCache | None = None  # a cache without room, for sessions that do not use the cache

    def open(self, number: int, session: Session) -> None:
        """Open a session."""
        self._sessions[number] = session

    def forget(self, number: int) -> None:
        """Close a session, and free its memory."""
        del self._sessions[number]
        self._opened.pop(number, None)

    def _pictures(self, number: int) -> tuple[Pictures, np.ndarray | None]:
        if number not in self._opened:
            self._opened[number] = self._open(self._sessions[number])
        return self._opened[number]

    def _open(self, session: Session) -> tuple[Pictures, np.ndarray | None]:
        # A view of the memory with an array `bad` of its own. So a sample that could not be read is tried again at the
        # next request, and the faults in an answer are those that this request found, not those of other processes.
        memory = RunMemory(self._memory.segment, self._memory.shape)
        source, cache, bad = self._served.source, self._served.cache, None
        if source is not None:
            height, width, _ = self._served.shape
            keep = session.look.keep
            look = session.look
            options = dataclasses.replace(
                source.options, turned=look.turned, white=look.white, clipped=look.clipped
            )  # fmt: skip
            least = math.ceil(height / keep), math.ceil(width / keep)
            source = dataclasses.replace(source, least=least, options=options)
            bad = memory.arrays["bad"] = np.zeros(len(self._labels), np.uint8)
            if not session.cached:
                places = memory.arrays["cache_places"] = np.zeros(len(self._labels), np.int64)
                self._nothing = self._nothing or ImageCache.create(0, 1, places)
                cache = self._nothing.handle
        look = session.look
        spec = PictureSpec(look.normalization, look.augmentation, look.keep, source, cache)
        return open_pictures(spec, memory, self._counters), bad

    def make(self, number: int, request: bytes, content: np.ndarray) -> int:
        """Write the answer to `request`, the payload of a FETCH in session `number`, into `content`, uint8 [bytes].

        Returns the size of the answer, the payload of PICTURES. Raises TransportError if there can be no answer.
        """
        samples, key = unpack_request(request)
        outside = samples[(samples < 0) | (samples >= len(self._labels))]
        if outside.size:
            raise TransportError(
                f"there is no sample {outside[0]} in {self._served.name}; expected 0 to {len(self._labels) - 1}"
            )
        pictures, bad = self._pictures(number)
        count, shape = len(samples), self._served.shape
        _, labels, images = lay_out(content, count, 0, shape)  # as if all samples were good
        if bad is not None:
            bad[samples] = self._memory.arrays["bad"][samples]  # samples that the data server has left out (`blame`)
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
    """Make pictures in this process, until the data server closes the pipe."""
    slots = AnswerSlots.attach(spec.slots)
    memory = RunMemory.attach(spec.memory)
    maker = PictureMaker(spec.served, memory, spec.process)
    memory.board.counters[spec.process].publish("ready", 1)
    with Connection(spec.pipe) as pipe, contextlib.suppress(EOFError, ConnectionError):
        while True:
            match pickle.loads(pipe.recv_bytes()):  # safe to unpickle: from the process that started this one
                case Open(number, session):
                    maker.open(number, session)
                case Forget(number):
                    maker.forget(number)
                case Task() as task:
                    pipe.send_bytes(pickle.dumps(_answer(maker, task, slots.contents[task.slot])))


def _answer(maker: PictureMaker, task: Task, content: np.ndarray) -> Made:
    try:
        return Made(task.number, maker.make(task.session, task.request, content))
    except AdamError as error:
        return Made(task.number, reason=str(error))
    except Exception as error:  # this process goes on, for the other requests
        return Made(task.number, reason=f"the pictures cannot be made: {type(error).__name__}: {error}")
