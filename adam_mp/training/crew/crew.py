"""The crew: all child processes of a run, started, watched, replaced when they die, ended together.

What a dead process held goes back to the ledgers before its successor starts. A process that dies again and again
soon after its start is given up; the run goes on while at least one data server and one worker live (in steps of all
workers: while all do), and data that a lost worker's ring still holds is taken back.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from adam_mp.data.serving.blame import Blame
from adam_mp.data.serving.server import DataServerSpec, serve
from adam_mp.errors import ProcessError, refusal, several
from adam_mp.machine import allowed_cores
from adam_mp.memory.board import HERE, STOP, Progress
from adam_mp.memory.ledger import HELD, LEASED
from adam_mp.memory.ring import NO_PRODUCER
from adam_mp.memory.run_memory import RunMemory
from adam_mp.memory.steps import StepMemory
from adam_mp.params.replica.synchronizer import SynchronizerSpec, synchronize
from adam_mp.process.child import Child, start_child
from adam_mp.process.early_deaths import EarlyDeaths
from adam_mp.training.folder.figures import WorkerFigures
from adam_mp.training.worker.synchronous import left_to_a_successor
from adam_mp.training.worker.worker import WorkerSpec, work

_START_DEADLINE = 120.0
_STOP_DEADLINE = 5.0
_SUMS = ("heartbeat", "images", "updates", "staleness", "waited_ns", "busy_ns", "loss", "augmented",
         "hits", "decoded", "decode_ns", "augment_ns", "bad")  # fmt: skip


@dataclasses.dataclass
class _Member:
    """One place in the crew: its specification, its deaths, and its present process (None once given up)."""

    name: str
    function: Callable[[Any], None]
    spec: Any
    core: int | None
    deaths: EarlyDeaths
    child: Child | None = None


class Crew:
    """Workers, data servers and perhaps a synchronizer of a run. Used by the supervisor's thread alone.

    `share` is which of how many replicas on this machine this is, all with as many workers; `on_failure` what comes
    after a worker's death: "restart", "continue" without it, or "stop". `steps` are those that all make together.
    """

    def __init__(
        self, memory: RunMemory, descriptors: list[int], workers: list[WorkerSpec], servers: list[DataServerSpec],
        restarts: int, on_notice: Callable[[str, str], None], synchronizer: SynchronizerSpec | None = None,
        share: tuple[int, int] = (0, 1), on_failure: str = "restart", steps: StepMemory | None = None,
    ) -> None:  # fmt: skip
        self.memory, self.descriptors = memory, descriptors
        self.on_notice, self.on_failure, self.steps = on_notice, on_failure, steps
        tasks: list[tuple[str, Callable[[Any], None], Any, int | None]] = [
            (f"worker {spec.process}", work, spec, core)
            for spec, core in zip(workers, _worker_cores(len(workers), share), strict=True)
        ]
        tasks += [(f"data server {number}", serve, spec, None) for number, spec in enumerate(servers)]
        if synchronizer is not None:
            tasks.append(("synchronizer", synchronize, synchronizer, None))
        self.members = [_Member(*task, EarlyDeaths(restarts)) for task in tasks]
        self.workers, self.servers = len(workers), len(servers)
        self.first_failure: str | None = None
        self._blame = Blame(memory)
        self.disturbances = 0  # processes that died, and changes of who makes the pictures
        self._made_by = 0  # as far as the user was told
        self._retired = dict.fromkeys(_SUMS, 0.0)
        self._retired_workers: list[tuple[int, Progress]] = []  # place, and what a dead process did there

    def start(self) -> None:
        """Start all processes; does not wait for them."""
        for member in self.members:
            self._start(member)

    def wait_ready(self, tend: Callable[[], None]) -> None:
        """Wait until a worker, a data server where there are any, and the synchronizer are at work.

        Meanwhile `tend`, which calls `watch`, is called. Raises ProcessError.
        """
        deadline = time.monotonic() + _START_DEADLINE
        while missing := self._missing():
            tend()
            if time.monotonic() > deadline:
                raise ProcessError(
                    f"no {' and no '.join(missing)} was ready {_START_DEADLINE:g} s after its start; "
                    "see if the machine is overloaded"
                )
            time.sleep(0.005)

    def _missing(self) -> list[str]:
        """Return the kinds of processes of which there are some, and none is at work yet."""
        ready = [bool(row.read().ready) for row in self.memory.board.counters]
        behind = self.workers + self.servers
        kinds = {
            "worker": ready[: self.workers],
            "data server": ready[self.workers : behind],
            "synchronizer": ready[behind:],
        }
        return [kind for kind, some in kinds.items() if some and not any(some)]

    def _start(self, member: _Member) -> None:
        try:
            member.child = start_child(member.name, member.function, member.spec, self.descriptors, member.core)
        except OSError as error:
            raise ProcessError(f"cannot start {member.name}: {refusal(error)}") from None

    def watch(self) -> None:
        """Replace those that died; raises ProcessError, naming the first failure, when the run cannot go on."""
        for number, member in enumerate(self.members):
            if member.child is not None and member.child.exit_code is not None:
                self._bury(number, member)
        self._hear_who_makes_pictures()
        for ring, ends in zip(self.memory.rings, self.memory.shape.rings, strict=True):
            if self.members[ends.worker].child is None:
                self._drain(ring)

    def _hear_who_makes_pictures(self) -> None:
        """Say once that data servers on other machines make the pictures no more, and once that they do again."""
        places = range(self.workers, self.workers + self.servers)
        words = {number: self.memory.board.counters[number].observe("made_by") for number in places}
        made_by = max(words.values(), default=0)  # one that makes its own counts for all
        if made_by in (0, self._made_by):
            return
        if self._made_by or made_by == HERE:
            number = next(number for number in places if words[number] == made_by)
            child = self.members[number].child
            if child is None:
                return
            lines = child.last_words().strip().splitlines()
            self.on_notice(lines[-1] if lines else f"data server {number} makes pictures itself, or asks again", "")
            self.disturbances += 1
        self._made_by = made_by

    def _bury(self, number: int, member: _Member) -> None:
        child = member.child
        assert child is not None
        self.disturbances += 1
        how, last_words, code = child.describe_end(), child.last_words(), child.exit_code
        # A synchronizer that no server answers lives for long, and gets nothing done.
        idle = number >= self.workers + self.servers and not self.memory.board.counters[number].read().heartbeat
        member.deaths.note(time.monotonic() - child.started, idle)
        self.first_failure = self.first_failure or f"{member.name} {how}"
        child.close()
        member.child = None
        _, left_out = self._blame.note(number, code)
        if left_out:
            self._retired["bad"] += 1
            member.deaths.forgive()
        self._retire(number)
        if number < self.workers:
            if self.steps is None or not left_to_a_successor(self.steps, self.memory.ledger, number):
                self.memory.ledger.take_back(LEASED, number)
            self.memory.evaluation.take_back(LEASED, number)
            if self.on_failure == "stop":
                raise ProcessError(f"{member.name} {how}; stopped, as --on-failure says")
            if self.on_failure == "continue":
                self.on_notice(f"{member.name} {how}; going on without it", last_words)
                self._give_up(number)
                return
        elif number < self.workers + self.servers:
            self.memory.ledger.take_back(HELD, number)
        if not member.deaths.too_many:
            self.on_notice(f"{member.name} {how}; started again", last_words)
            self._start(member)
            return
        self.on_notice(
            f"{member.name} {how}; given up after {several(member.deaths.in_a_row, 'early death')}", last_words
        )
        self._give_up(number)

    def _retire(self, number: int) -> None:
        """Keep a dead process's counters and give its row to its successor."""
        row = self.memory.board.counters[number]
        progress = row.read()
        for name in _SUMS:
            self._retired[name] += getattr(progress, name)
        if number < self.workers:
            self._retired_workers.append((number, progress))
        row.clear()

    def _give_up(self, number: int) -> None:
        """Rearrange the rings around a process that will not come back."""
        alive = [index for index, member in enumerate(self.members) if member.child is not None]
        servers = [index for index in alive if self.workers <= index < self.workers + self.servers]
        lost = number >= self.workers + self.servers or (not servers and self.servers > 0)
        if number < self.workers and self.steps is not None:
            raise ProcessError(f"the run cannot go on without one of its workers: {self.first_failure} (first failure)")
        if lost or not any(index < self.workers for index in alive):
            raise ProcessError(f"the run cannot go on: {self.first_failure} (first failure)")
        for ring, ends in zip(self.memory.rings, self.memory.shape.rings, strict=True):
            if self.members[ends.worker].child is None:
                ring.producer = NO_PRODUCER
            elif ring.producer == number:
                ring.producer = servers[number % len(servers)]

    def _drain(self, ring: Any) -> None:
        """Consume in a lost worker's place: free the batches that wait in its ring, for others to serve again."""
        while (index := ring.peek()) is not None:
            tag = ring.slots[index].read_tag()
            self.memory.ledger.give_back(tag.epoch, tag.batch, tag.server)
            ring.consume()

    def totals(self) -> Mapping[str, float]:
        """Return the sums of all workers' and data servers' counters since the start, the dead included."""
        totals = dict(self._retired)
        for row in self.memory.board.counters:
            progress = row.read()
            for name in _SUMS:
                totals[name] += getattr(progress, name)
        return totals

    def by_worker(self, seconds: float) -> list[WorkerFigures]:
        """Return what each worker's place did, the dead included, in `seconds` of training."""
        rows = [[row.read()] for row in self.memory.board.counters[: self.workers]]
        for number, dead in self._retired_workers:
            rows[number].append(dead)
        images = [sum(each.images for each in place) for place in rows]
        return [
            WorkerFigures(
                number, images[number], images[number] / max(sum(images), 1), images[number] / max(seconds, 1e-9),
                sum(each.waited_ns for each in place) * 1e-9, sum(each.held_ns for each in place) * 1e-9,
                max(each.lead for each in place),
            )
            for number, place in enumerate(rows)
        ]  # fmt: skip

    def rows(self) -> list[Progress]:
        """Return the counters of the processes in their places now: workers, then data servers."""
        return [row.read() for row in self.memory.board.counters]

    def obeying(self) -> list[int]:
        """Return the numbers of the processes that follow orders to be idle: workers and the synchronizer that live."""
        numbers = [*range(self.workers), *range(self.workers + self.servers, len(self.members))]
        return [number for number in numbers if self.members[number].child is not None]

    def children(self) -> dict[str, Child]:
        """Return name -> process of the living."""
        return {member.name: member.child for member in self.members if member.child is not None}

    def pids(self) -> dict[str, int]:
        """Return name -> process id of the living."""
        return {member.name: member.child.pid for member in self.members if member.child is not None}

    def stop(self) -> None:
        """End all processes: ask, wait a little, then kill."""
        self.memory.board.give_order(STOP)
        deadline = time.monotonic() + _STOP_DEADLINE
        for member in self.members:
            if member.child is not None:
                if not member.child.wait(deadline):
                    member.child.kill()
                member.child.close()
                member.child = None


def _worker_cores(workers: int, share: tuple[int, int]) -> list[int | None]:
    """Return the core of each worker; None for all, unless workers fill the machine.

    Two smaller runs would otherwise pin to the same cores.
    """
    cores: list[int | None] = list(allowed_cores())
    index, replicas = share
    if workers * replicas != len(cores):
        return [None] * workers
    return cores[index * workers : (index + 1) * workers]
