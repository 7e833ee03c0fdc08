"""The picture makers of a data server for other machines: starts them, gives them jobs, replaces those that die.

A picture maker has at most two tasks: one that it works on, and the next. When it dies or hangs, its tasks go to the
others. When two picture makers have died while they decoded the same sample, that sample is left out from then on.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import pickle
import signal
import time
from collections.abc import Callable, Collection
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from adam_mp.data.reading.faults import REASONS, Fault
from adam_mp.data.serving.answer_slots import AnswerSlots
from adam_mp.data.serving.blame import Blame
from adam_mp.data.serving.picture_maker import Forget, Made, MakerSpec, Open, Served, Session, Task, make_pictures
from adam_mp.data.serving.picture_messages import longest_answer, most_samples
from adam_mp.errors import ProcessError, SpaceError, refusal, several
from adam_mp.memory.run_memory import RunMemory
from adam_mp.process.child import Child, start_child
from adam_mp.process.early_deaths import EarlyDeaths

_SPARE_BYTES, _MOST_SPARE = 128 << 20, 16  # bytes, and slots, for answers that the data server is sending
_TASKS = 2  # of a picture maker, so that it need not wait for the data server between two
MOST_SESSIONS = 16  # that the data server, and each picture maker, keeps open
_LOOK = 0.05  # seconds between looks whether picture makers live; one whose pipe has ended is looked at at once
_STUCK = 60.0  # seconds without progress after which a picture maker with a task is ended; a file read may hang
_LONGEST_LOOK = 1.0  # seconds between two looks that count at most: this process itself may have been stopped
_START_DEADLINE, _STOP_DEADLINE = 120.0, 5.0  # seconds for picture makers to get ready, and to end
_START_LOOK = 0.01  # seconds between looks whether one is ready


@dataclasses.dataclass(frozen=True)
class Job:
    """An answer to make: to the FETCH with this `payload`, in session `number`, in at most `size` bytes.

    `request` is whatever the caller wants to find again in `Finished`.
    """

    request: Any
    number: int
    session: Session
    payload: bytes
    size: int


@dataclasses.dataclass(frozen=True)
class Finished:
    """A job that is done: its answer is the first `size` bytes of `slot`. Without an answer, `reason` says why."""

    job: Job
    slot: int | None
    size: int
    reason: str | None


@dataclasses.dataclass(eq=False)
class _Maker:
    """One picture maker: its child process, the data server's end of the pipe to it, its tasks, its open sessions."""

    name: str
    process: int
    child: Child
    pipe: Connection
    hung_up: bool = False  # the pipe has ended, or must not be used any more
    pulse: object = None  # its counters and tasks when they last changed
    still: float = 0.0  # seconds since then
    kept: list[int] = dataclasses.field(default_factory=list)  # slots of lost tasks; it may write there until its end
    tasks: dict[int, tuple[Job, int]] = dataclasses.field(default_factory=dict)  # task number -> job, slot
    sessions: collections.OrderedDict[int, Session] = dataclasses.field(default_factory=collections.OrderedDict)


class Makers:
    """`count` picture makers for `served`, whose data set is in `memory`. A context manager, for one thread.

    Entering starts them, leaving ends them. `place` says where a sample is, `notice` takes lines for the user,
    `function` is what the processes run. `look` raises ProcessError when a picture maker and its successors have died
    `restarts` + 1 times in a row, each soon after its start, and not because of a sample.

    Picture makers write answers into `slots`, in memory or in a deleted file in `folder`. Besides the slots of the jobs
    that `collect` returned last, the caller may keep `spare_slots` slots, while it sends their answers.
    """

    def __init__(
        self, count: int, served: Served, memory: RunMemory, place: Callable[[int], str],
        notice: Callable[[str], None], restarts: int, folder: Path | None = None,
        function: Callable[[MakerSpec], None] = make_pictures,
    ) -> None:  # fmt: skip
        self._served, self._memory = served, memory
        most = longest_answer(most_samples(served.shape), served.shape)
        self.spare_slots = min(max(_SPARE_BYTES // most, 1), _MOST_SPARE)
        finished = count  # one for each picture maker: it gets its next task before the caller takes its answer
        self.slots = AnswerSlots.create(count * _TASKS + finished + self.spare_slots, most, folder)
        self._descriptors = [memory.segment.handle.descriptor, self.slots.handle.segment.descriptor]
        if served.cache is not None:
            self._descriptors.append(served.cache.segment.descriptor)
        self._place, self._notice, self._function = place, notice, function
        self._count = count
        self._blame = Blame(memory)
        self._deaths = [EarlyDeaths(restarts) for _ in range(count)]
        self._makers: list[_Maker] = []
        self._jobs: collections.deque[Job] = collections.deque()  # that no picture maker has yet
        self._failed: list[Finished] = []  # jobs for whose answer there was no memory
        self._numbers = itertools.count()
        self._looked = 0.0

    def __enter__(self) -> Makers:
        try:
            for process in range(self._count):
                self._makers.append(self._start(process))
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait_ready(self, stop: Callable[[], bool]) -> None:
        """Wait until a picture maker is ready, or `stop()` is true.

        Raises ProcessError if none is ready in time, or if they keep dying.
        """
        deadline = time.monotonic() + _START_DEADLINE
        while not any(row.read().ready for row in self._memory.board.counters[: self._count]) and not stop():
            self.step()
            if time.monotonic() > deadline:
                raise ProcessError(
                    f"no picture maker was ready {_START_DEADLINE:g} s after its start; see if the machine is "
                    "overloaded"
                )
            time.sleep(_START_LOOK)

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + _STOP_DEADLINE
        for maker in self._makers:
            maker.pipe.close()  # the picture maker reads its end, and ends
        for maker in self._makers:
            if not maker.child.wait(deadline):
                maker.child.kill()
            maker.child.close()
        self.slots.close()

    def _start(self, process: int) -> _Maker:
        name = f"picture maker {process}"
        here, there = Pipe()
        with there:
            spec = MakerSpec(process, self._served, self._memory.handle, self.slots.handle, there.fileno())
            try:
                child = start_child(name, self._function, spec, [*self._descriptors, spec.pipe], None)
            except OSError as error:
                here.close()
                raise ProcessError(f"cannot start {name}: {refusal(error)}") from None
        return _Maker(name, process, child, here)

    @property
    def children(self) -> dict[str, Child]:
        """The child processes of all picture makers, by name."""
        return {maker.name: maker.child for maker in self._makers}

    @property
    def files(self) -> list[int]:
        """The descriptors of the pipes: one can be read when `collect` has something to do."""
        return [maker.pipe.fileno() for maker in self._makers if not maker.hung_up]

    def add(self, job: Job) -> None:
        """Queue a job behind those that were added before."""
        self._jobs.append(job)
        self._hand_out()

    def collect(self, ready: Collection[int]) -> list[Finished]:
        """Return the jobs that are finished; `ready` are those of `files` that can be read.

        The caller gives their slots back (`slots.give_back`).
        """
        finished, self._failed = self._failed, []
        for maker in self._makers:
            if not maker.hung_up and maker.pipe.fileno() in ready:
                try:
                    made: Made = pickle.loads(maker.pipe.recv_bytes())  # from a child of this process
                except (EOFError, OSError):
                    maker.hung_up, self._looked = True, 0.0
                    continue
                job, slot = maker.tasks.pop(made.number)
                if made.reason is not None:
                    self.slots.give_back(slot)
                finished.append(Finished(job, slot if made.reason is None else None, made.size, made.reason))
        self._hand_out()
        return finished

    def step(self) -> None:
        """Replace the picture makers that died, and end those that hang; their tasks go to others.

        Does nothing if it was called just before. Raises ProcessError if one has died too often in a row.
        """
        now = time.monotonic()
        since = now - self._looked
        if since < _LOOK:
            return
        self._looked = now
        for maker in list(self._makers):
            if maker.child.exit_code is not None:
                self._bury(maker)
            elif self._is_stuck(maker, min(since, _LONGEST_LOOK)):
                self._end_stuck(maker)
        self._hand_out()

    def _is_stuck(self, maker: _Maker, since: float) -> bool:
        """Tell whether a picture maker with a task has made no progress for too long.

        `since` are the seconds since the last look.
        """
        row = self._memory.board.counters[maker.process].read()
        pulse = row, tuple(maker.tasks)
        if not maker.tasks or pulse != maker.pulse:
            maker.pulse, maker.still = pulse, 0.0
            return False
        maker.still += since
        return maker.still > (_STUCK if row.ready else _START_DEADLINE)

    def _end_stuck(self, maker: _Maker) -> None:
        """Kill a picture maker, and give its tasks to others at once: in a read that hangs, even SIGKILL takes time."""
        self._notice(f"{maker.name} has not moved for {maker.still:.0f} s; it is ended")
        maker.child.ask(signal.SIGKILL)
        maker.hung_up = True
        for job, slot in reversed(maker.tasks.values()):
            maker.kept.append(slot)
            self._jobs.appendleft(job)
        maker.tasks.clear()

    def _bury(self, maker: _Maker) -> None:
        """Replace a picture maker that has ended; its tasks go to others."""
        child, process = maker.child, maker.process
        how = child.describe_end()
        sample, left_out = self._blame.note(process, child.exit_code)
        deaths = self._deaths[process]
        if sample is None:
            deaths.note(time.monotonic() - child.started)
        else:
            deaths.forgive()
        child.close()
        maker.pipe.close()
        for job, slot in reversed(maker.tasks.values()):
            maker.kept.append(slot)
            self._jobs.appendleft(job)
        for slot in maker.kept:
            self.slots.give_back(slot)
        self._memory.board.counters[process].clear()
        if deaths.too_many:
            raise ProcessError(
                f"no pictures can be made: {maker.name} died {several(deaths.in_a_row, 'time')} in a row soon after "
                f"its start; now it {how}"
            )
        self._notice(f"{maker.name} {how}; started again")
        if left_out and sample is not None:
            self._notice(f"{self._place(sample)}: {REASONS[Fault.CRASHED]}; it is left out")
        self._makers[process] = self._start(process)

    def _hand_out(self) -> None:
        """Give queued jobs to the picture makers with the fewest tasks."""
        while self._jobs:
            able = [maker for maker in self._makers if len(maker.tasks) < _TASKS and not maker.hung_up]
            if not able:
                return
            self._give(self._jobs.popleft(), min(able, key=lambda maker: len(maker.tasks)))

    def _give(self, job: Job, maker: _Maker) -> None:
        try:
            slot = self.slots.take(job.size)
        except SpaceError as error:
            self._failed.append(Finished(job, None, 0, str(error)))
            return
        task = Task(next(self._numbers), job.number, slot, job.payload)
        maker.tasks[task.number] = job, slot
        try:
            self._open(maker, job)
            maker.pipe.send_bytes(pickle.dumps(task))
        except OSError:  # the picture maker died: `look` gives its tasks to others
            maker.hung_up, self._looked = True, 0.0

    def _open(self, maker: _Maker, job: Job) -> None:
        """Have a picture maker open the job's session; if it has too many, it first closes the one used longest ago."""
        if job.number not in maker.sessions:
            if len(maker.sessions) >= MOST_SESSIONS:
                number, _ = maker.sessions.popitem(last=False)
                maker.pipe.send_bytes(pickle.dumps(Forget(number)))
            maker.pipe.send_bytes(pickle.dumps(Open(job.number, job.session)))
        maker.sessions[job.number] = job.session
        maker.sessions.move_to_end(job.number)
