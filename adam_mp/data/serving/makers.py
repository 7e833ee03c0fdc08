"""The processes that make pictures for a data server of other machines: started, given work, replaced when they die.

Each has two tasks at most, one that it works on and the next. Those of a process that died, or that does not move, are
given to others. A sample that two processes died of, while they decoded it, is left out from then on.
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

_SPARE_BYTES, _MOST_SPARE = 128 << 20, 16  # of answers on their way out
_TASKS = 2  # of a process: so that it need not wait for the server between two
MOST_SESSIONS = 16  # that the server, and each process, has open
_LOOK = 0.05  # seconds between looks at whether the processes live; a death that ends a line is seen at once
_STUCK = 60.0  # seconds in which a process that has something to do does not move, such as in a read that hangs
_LONGEST_LOOK = 1.0  # seconds that the time between two looks counts at most: this process may have been stopped
_START_DEADLINE, _STOP_DEADLINE = 120.0, 5.0
_START_LOOK = 0.01


@dataclasses.dataclass(frozen=True)
class Job:
    """An answer to be made: for which request (the server's own affair), in which session, `size` bytes at most."""

    request: Any
    number: int
    session: Session
    payload: bytes
    size: int


@dataclasses.dataclass(frozen=True)
class Finished:
    """A job that is done: its answer has `size` bytes and lies in `slot`; or there is none, for a `reason`."""

    job: Job
    slot: int | None
    size: int
    reason: str | None


@dataclasses.dataclass(eq=False)
class _Maker:
    """One process's place: the process in it, the server's end of its line, what it was told and not answered yet."""

    name: str
    process: int
    child: Child
    line: Connection
    hung_up: bool = False
    pulse: object = None  # its counters, as they were when it last moved
    still: float = 0.0  # seconds since then
    kept: list[int] = dataclasses.field(default_factory=list)  # slots in which it may still write until its end
    tasks: dict[int, tuple[Job, int]] = dataclasses.field(default_factory=dict)  # number -> job, slot
    sessions: collections.OrderedDict[int, Session] = dataclasses.field(default_factory=collections.OrderedDict)


class Makers:
    """`count` processes that make pictures of `served`, whose data set stands in `memory`.

    `place` tells where a sample is, `notice` takes lines for the user, `function` is what the processes run. A process
    that dies `restarts` + 1 times in a row, each time soon after its start and of no sample, is a ProcessError.

    Answers are made in `slots`, in memory or in a deleted file of `folder`. The caller may keep `spare_slots` of them
    while answers are on their way out, beside those of the finished jobs that `collect` returned last. Use as a context
    manager: leaving it ends the processes. For one thread.
    """

    def __init__(
        self, count: int, served: Served, memory: RunMemory, place: Callable[[int], str],
        notice: Callable[[str], None], restarts: int, folder: Path | None = None,
        function: Callable[[MakerSpec], None] = make_pictures,
    ) -> None:  # fmt: skip
        self._served, self._memory = served, memory
        most = longest_answer(most_samples(served.shape), served.shape)
        self.spare_slots = min(max(_SPARE_BYTES // most, 1), _MOST_SPARE)
        finished = count  # one of each process, which has its next tasks before the caller has these
        self.slots = AnswerSlots.create(count * _TASKS + finished + self.spare_slots, most, folder)
        self._descriptors = [memory.segment.handle.descriptor, self.slots.handle.segment.descriptor]
        if served.cache is not None:
            self._descriptors.append(served.cache.segment.descriptor)
        self._place, self._notice, self._function = place, notice, function
        self._count = count
        self._blame = Blame(memory)
        self._deaths = [EarlyDeaths(restarts) for _ in range(count)]
        self._makers: list[_Maker] = []
        self._jobs: collections.deque[Job] = collections.deque()  # that no process has
        self._failed: list[Finished] = []  # for which there was no memory
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
        """Wait until one of the processes can make pictures, or `stop()`; raises ProcessError."""
        deadline = time.monotonic() + _START_DEADLINE
        while not any(row.read().ready for row in self._memory.board.counters[: self._count]) and not stop():
            self.watch()
            if time.monotonic() > deadline:
                raise ProcessError(
                    f"no picture maker was ready {_START_DEADLINE:g} s after its start; see if the machine is "
                    "overloaded"
                )
            time.sleep(_START_LOOK)

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + _STOP_DEADLINE
        for maker in self._makers:
            maker.line.close()  # at which it ends
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
                child = start_child(name, self._function, spec, [*self._descriptors, spec.line], None)
            except OSError as error:
                here.close()
                raise ProcessError(f"cannot start {name}: {refusal(error)}") from None
        return _Maker(name, process, child, here)

    @property
    def children(self) -> dict[str, Child]:
        """Name -> process."""
        return {maker.name: maker.child for maker in self._makers}

    @property
    def files(self) -> list[int]:
        """The files that can be read when `collect` has something to do."""
        return [maker.line.fileno() for maker in self._makers if not maker.hung_up]

    def add(self, job: Job) -> None:
        """Have a job done, after those that were added before."""
        self._jobs.append(job)
        self._hand_out()

    def collect(self, ready: Collection[int]) -> list[Finished]:
        """Return what is finished, by those of `files` that can be read. Its slots are the caller's to give back."""
        finished, self._failed = self._failed, []
        for maker in self._makers:
            if not maker.hung_up and maker.line.fileno() in ready:
                try:
                    made: Made = pickle.loads(maker.line.recv_bytes())
                except (EOFError, OSError):
                    maker.hung_up, self._looked = True, 0.0
                    continue
                job, slot = maker.tasks.pop(made.number)
                if made.reason is not None:
                    self.slots.give_back(slot)
                finished.append(Finished(job, slot if made.reason is None else None, made.size, made.reason))
        self._hand_out()
        return finished

    def watch(self) -> None:
        """Replace those that died, and give what they had to do to others; raises ProcessError when it is no use."""
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
        """Tell whether a process has something to do and did not move for too long; `since` is the last look's age."""
        row = self._memory.board.counters[maker.process].read()
        pulse = row, tuple(maker.tasks)
        if not maker.tasks or pulse != maker.pulse:
            maker.pulse, maker.still = pulse, 0.0
            return False
        maker.still += since
        return maker.still > (_STUCK if row.ready else _START_DEADLINE)

    def _end_stuck(self, maker: _Maker) -> None:
        """Kill a process, and give its tasks to others at once: one that hangs in a read may not die for long."""
        self._notice(f"{maker.name} has not moved for {maker.still:.0f} s; it is ended")
        maker.child.ask(signal.SIGKILL)
        maker.hung_up = True
        for job, slot in reversed(maker.tasks.values()):
            maker.kept.append(slot)
            self._jobs.appendleft(job)
        maker.tasks.clear()

    def _bury(self, maker: _Maker) -> None:
        child, process = maker.child, maker.process
        how = child.describe_end()
        sample, left_out = self._blame.note(process, child.exit_code)
        deaths = self._deaths[process]
        if sample is None:
            deaths.note(time.monotonic() - child.started)
        else:
            deaths.forgive()
        child.close()
        maker.line.close()
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
        """Give jobs to the processes that have fewest to do."""
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
            maker.line.send_bytes(pickle.dumps(task))
        except OSError:  # it died: `watch` gives its tasks to others
            maker.hung_up, self._looked = True, 0.0

    def _open(self, maker: _Maker, job: Job) -> None:
        """Have a session open in a process, in the place of the one that was not used for longest."""
        if job.number not in maker.sessions:
            if len(maker.sessions) >= MOST_SESSIONS:
                number, _ = maker.sessions.popitem(last=False)
                maker.line.send_bytes(pickle.dumps(Forget(number)))
            maker.line.send_bytes(pickle.dumps(Open(job.number, job.session)))
        maker.sessions[job.number] = job.session
        maker.sessions.move_to_end(job.number)
