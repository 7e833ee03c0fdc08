"""The crew: all child processes of a run on this machine. It starts, replaces and ends them.

When a process dies, the crew frees the batches that it held, then starts a successor. A process that dies again and
again soon after its start is given up: batches that wait in a lost worker's rings are freed for other workers, and a
lost data server's rings are given to another. The run goes on while at least one worker and one data server live; where
all workers make each update together, while all workers live.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from adam_mp.data.serving.blame import Blame
from adam_mp.data.serving.server import DataServerSpec, serve
from adam_mp.errors import ProcessError, refusal, several
from adam_mp.machine import allowed_cores
from adam_mp.memory.board import HERE, STOP, Progress
from adam_mp.memory.cache import ImageCache, shrink_after_death
from adam_mp.memory.group import GroupMemory
from adam_mp.memory.ledger import HELD, LEASED
from adam_mp.memory.ring import NO_PRODUCER
from adam_mp.memory.run_memory import RunMemory
from adam_mp.memory.steps import StepMemory
from adam_mp.process.child import Child, start_child
from adam_mp.process.early_deaths import EarlyDeaths
from adam_mp.training.folder.figures import WorkerFigures
from adam_mp.training.worker.spec import WorkerSpec
from adam_mp.training.worker.synchronous import left_to_a_successor
from adam_mp.training.worker.worker import work

if TYPE_CHECKING:
    from adam_mp.params.replica.synchronizer import SynchronizerSpec
    from adam_mp.partitions.courier import CourierSpec

_START_DEADLINE = 120.0
_STOP_DEADLINE = 5.0
_MORE_MEMORY = "; give the run more memory, fewer --cores or a smaller --batch-size"
_SUMS = ("heartbeat", "images", "updates", "staleness", "waited_ns", "leases_ns", "exchange_ns",
         "held_ns", "busy_ns", "loss", "augmented",
         "hits", "decoded", "decode_ns", "augment_ns", "bad")  # fmt: skip


class Helper(NamedTuple):
    """A process beside workers and data servers that a crew may have: a synchronizer or a courier."""

    name: str
    function: Callable[[Any], None]
    spec: Any


def synchronizer_of(spec: SynchronizerSpec) -> Helper:
    """Return the helper that exchanges weights with parameter servers."""
    from adam_mp.params.replica.synchronizer import synchronize

    return Helper("synchronizer", synchronize, spec)


def courier_of(spec: CourierSpec) -> Helper:
    """Return the helper that brings what the partitions on several machines send each other."""
    from adam_mp.partitions.courier import carry

    return Helper("courier", carry, spec)


@dataclasses.dataclass
class _Member:
    """One place in the crew: what its process is told, its early deaths, its present process (None once given up)."""

    name: str
    function: Callable[[Any], None]
    spec: Any
    core: int | None
    deaths: EarlyDeaths
    child: Child | None = None


class Crew:
    """Workers, data servers and perhaps helpers of a run. Used by the supervisor's thread alone.

    `descriptors` are the open files that each process inherits. `share` is (index, count) among the replicas of this
    machine, which all have as many workers. `on_failure` says what to do after a worker's death: "restart" it,
    "continue" without it, or "stop" the run. `steps` is the memory of the steps that all workers make together, if they
    do. `cache` has the decoded images, and is made smaller when a process is killed for want of memory. `groups` is
    the memory of the groups whose workers have a partition each. `on_notice` takes a line for the user, details, and
    perhaps lines to show below that line.
    """

    def __init__(
        self, memory: RunMemory, descriptors: list[int], workers: list[WorkerSpec], data_servers: list[DataServerSpec],
        restarts: int, on_notice: Callable[..., None], helpers: Sequence[Helper] = (),
        share: tuple[int, int] = (0, 1), on_failure: str = "restart", steps: StepMemory | None = None,
        cache: ImageCache | None = None, groups: GroupMemory | None = None,
    ) -> None:  # fmt: skip
        self.memory, self.descriptors = memory, descriptors
        self.on_notice, self.on_failure, self.steps = on_notice, on_failure, steps
        self.groups = groups
        tasks: list[tuple[str, Callable[[Any], None], Any, int | None]] = [
            (f"worker {spec.process}", work, spec, core)
            for spec, core in zip(workers, _worker_cores(len(workers), share), strict=True)
        ]
        tasks += [(f"data server {number}", serve, spec, None) for number, spec in enumerate(data_servers)]
        tasks += [(*helper, None) for helper in helpers]
        self.members = [_Member(*task, EarlyDeaths(restarts)) for task in tasks]
        self.workers, self.data_servers = len(workers), len(data_servers)
        self.first_failure: str | None = None
        self._blame, self._cache = Blame(memory), cache
        self._advice = ""  # what to do if the run cannot go on
        self.disturbances = 0  # processes that died, and changes of who makes the pictures
        self._made_by = 0  # who makes the pictures (ELSEWHERE, HERE), as the user was told last
        self._retired = dict.fromkeys(_SUMS, 0.0)  # sums of the counters of dead processes
        self._retired_workers: list[tuple[int, Progress]] = []  # worker number, and the counters of a dead process

    def start(self) -> None:
        """Start all processes; does not wait for them."""
        for member in self.members:
            self._start(member)

    def wait_ready(self, tend: Callable[[], None]) -> None:
        """Wait until one worker, one data server and all helpers are at work, of each kind that the crew has.

        Calls `tend`, which must call `step`, at short intervals. Raises ProcessError.
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
        """Return the kinds of processes of which the crew has some and none is at work yet."""
        ready = [bool(row.read().ready) for row in self.memory.board.counters]
        last = self.workers + self.data_servers
        kinds = {
            "worker": ready[: self.workers],
            "data server": ready[self.workers : last],
            **{self.members[number].name: ready[number : number + 1] for number in range(last, len(self.members))},
        }
        return [kind for kind, some in kinds.items() if some and not any(some)]

    def _start(self, member: _Member) -> None:
        try:
            member.child = start_child(member.name, member.function, member.spec, self.descriptors, member.core)
        except OSError as error:
            raise ProcessError(f"cannot start {member.name}: {refusal(error)}") from None

    def step(self) -> None:
        """Replace processes that died; raises ProcessError, which names the first failure, if the run cannot go on."""
        for number, member in enumerate(self.members):
            if member.child is not None and member.child.exit_code is not None:
                self._bury(number, member)
        self._tell_who_makes_pictures()
        for ring, ends in zip(self.memory.rings, self.memory.shape.rings, strict=True):
            if self.members[ends.worker].child is None:
                self._drain(ring)

    def _tell_who_makes_pictures(self) -> None:
        """Tell the user once when this machine must make the pictures itself, and once when others do so again.

        This concerns runs with --data-from. A data server prints the reason, so its last printed line is the notice.
        """
        places = range(self.workers, self.workers + self.data_servers)
        words = {number: self.memory.board.counters[number].observe("made_by") for number in places}
        made_by = max(words.values(), default=0)  # HERE is larger: one data server that makes its own counts for all
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
        """Free what a dead process held; then start a successor, give its place up, or raise ProcessError."""
        child = member.child
        assert child is not None
        self.disturbances += 1
        how, last_words, code = child.describe_end(), child.last_words(), child.exit_code
        last_lines, row = child.last_lines(), self.memory.board.counters[number].read()
        # A helper without a heartbeat got no answer: its death counts as early, however long it tried.
        idle = number >= self.workers + self.data_servers and not row.heartbeat
        member.deaths.note(time.monotonic() - child.started, idle, "" if row.ready else child.own_fault())
        self.first_failure = self.first_failure or f"{member.name} {how}"
        made_room = shrink_after_death(self._cache, child.wanted_memory)
        if made_room:
            member.deaths.forgive()
        elif child.wanted_memory:
            self._advice = _MORE_MEMORY
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
            if self.groups is not None:  # the others of its group drop what they have begun together
                self.groups.groups[number // self.groups.shape.parts_here].renew()
            if self.on_failure == "stop":
                raise ProcessError(f"{member.name} {how}; stopped, as --on-failure says")
            if self.on_failure == "continue":
                self.on_notice(f"{member.name} {how}; {made_room}going on without it", last_words)
                self._give_up(number)
                return
        elif number < self.workers + self.data_servers:
            self.memory.ledger.take_back(HELD, number)
        elif self.groups is not None and member.name == "courier":  # what it had taken from others may be lost
            self.groups.groups[0].renew()
        if not member.deaths.too_many:
            self.on_notice(f"{member.name} {how}; {made_room}started again", last_words)
            self._start(member)
            return
        deaths = several(member.deaths.in_a_row, "early death")
        shown, below = ("; its last lines:", last_lines.removeprefix("\n")) if member.deaths.hopeless else ("", "")
        self.on_notice(f"{member.name} {how}; given up after {deaths}{shown}", last_words, below)
        self._give_up(number)

    def _retire(self, number: int) -> None:
        """Keep a dead process's counters, and clear its row of the board for a successor."""
        row = self.memory.board.counters[number]
        progress = row.read()
        for name in _SUMS:
            self._retired[name] += getattr(progress, name)
        if number < self.workers:
            self._retired_workers.append((number, progress))
        row.clear()

    def _give_up(self, number: int) -> None:
        """Give the rings of a process that has no successor to others; raises ProcessError if the run cannot go on."""
        alive = [index for index, member in enumerate(self.members) if member.child is not None]
        serving = [index for index in alive if self.workers <= index < self.workers + self.data_servers]
        lost = number >= self.workers + self.data_servers or (not serving and self.data_servers > 0)
        why = f"{self.first_failure} (first failure){self._advice}"
        if number < self.workers and self.groups is not None:
            raise ProcessError(f"the run cannot go on without one of its partitions: {why}")
        if number < self.workers and self.steps is not None:
            raise ProcessError(f"the run cannot go on without one of its workers: {why}")
        if lost or not any(index < self.workers for index in alive):
            raise ProcessError(f"the run cannot go on: {why}")
        for ring, ends in zip(self.memory.rings, self.memory.shape.rings, strict=True):
            if self.members[ends.worker].child is None:
                ring.producer = NO_PRODUCER
            elif ring.producer == number:
                ring.producer = serving[number % len(serving)]

    def _drain(self, ring: Any) -> None:
        """Empty the ring of a lost worker, and free its batches, so that data servers make them for other workers."""
        while (index := ring.peek()) is not None:
            tag = ring.slots[index].read_tag()
            self.memory.ledger.give_back(tag.epoch, tag.batch, tag.server)
            ring.consume()

    def totals(self) -> Mapping[str, float]:
        """Return the sums of all processes' counters since the start, dead processes included."""
        totals = dict(self._retired)
        for row in self.memory.board.counters:
            progress = row.read()
            for name in _SUMS:
                totals[name] += getattr(progress, name)
        return totals

    def by_worker(self, seconds: float) -> list[WorkerFigures]:
        """Return what each worker did in `seconds` of training, its dead predecessors included.

        The workers that have one model in parts are one group, with the mean of their waits.
        """
        parts = self.memory.shape.parts
        rows: list[list[Progress]] = [[] for _ in range(self.workers // parts)]
        present = enumerate(row.read() for row in self.memory.board.counters[: self.workers])
        for number, progress in (*present, *self._retired_workers):
            rows[number // parts].append(progress)
        images, share = [sum(each.images for each in place) for place in rows], 1e-9 / parts
        return [
            WorkerFigures(
                number, images[number], images[number] / max(sum(images), 1), images[number] / max(seconds, 1e-9),
                sum(each.waited_ns for each in place) * share, sum(each.held_ns for each in place) * share,
                max(each.lead for each in place), sum(each.leases_ns for each in place) * share,
                sum(each.exchange_ns for each in place) * share,
            )
            for number, place in enumerate(rows)
        ]  # fmt: skip

    def rows(self) -> list[Progress]:
        """Return the counters of the present processes: workers, then data servers, then helpers."""
        return [row.read() for row in self.memory.board.counters]

    def obeying(self) -> list[int]:
        """Return the numbers of the living processes that acknowledge orders: workers and helpers."""
        numbers = [*range(self.workers), *range(self.workers + self.data_servers, len(self.members))]
        return [number for number in numbers if self.members[number].child is not None]

    def children(self) -> dict[str, Child]:
        """Return name -> child of the living processes."""
        return {member.name: member.child for member in self.members if member.child is not None}

    def pids(self) -> dict[str, int]:
        """Return name -> process id of the living processes."""
        return {member.name: member.child.pid for member in self.members if member.child is not None}

    def stop(self) -> None:
        """End all processes: order STOP, wait up to five seconds, then kill those that are left."""
        self.memory.board.give_order(STOP)
        deadline = time.monotonic() + _STOP_DEADLINE
        for member in self.members:
            if member.child is not None:
                if not member.child.wait(deadline):
                    member.child.kill()
                member.child.close()
                member.child = None


def _worker_cores(workers: int, share: tuple[int, int]) -> list[int | None]:
    """Return the core to pin each worker to; None for all unless this machine's replicas have a worker for every core.

    Smaller runs are not pinned, because two of them would pin their workers to the same cores.
    """
    cores: list[int | None] = list(allowed_cores())
    index, replicas = share
    if workers * replicas != len(cores):
        return [None] * workers
    return cores[index * workers : (index + 1) * workers]
