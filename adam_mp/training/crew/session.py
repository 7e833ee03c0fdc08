"""A session: the shared memory and the processes of a run, from their making to their end.

A session gives orders and knows which processes have acknowledged them, evaluates, and looks after its processes. Its
user decides which order comes when: the driver of a training run, a benchmark, or an evaluation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from adam_mp.data.reading.dataset import epoch_order
from adam_mp.errors import DataError, several
from adam_mp.kernels.atomic import observe
from adam_mp.memory.board import IDLE, TEST, TRAIN, VALIDATE
from adam_mp.memory.layout import Layout
from adam_mp.memory.ledger import FREE, TRAINED
from adam_mp.memory.run_memory import RunMemory
from adam_mp.memory.store import ParameterStore
from adam_mp.process.child import Child
from adam_mp.process.interruption import Interruption
from adam_mp.training.crew.crew import Crew, synchronizer_of
from adam_mp.training.crew.preparation import Shared, leaders_courier, make_specs, prepare_memory
from adam_mp.training.crew.watchdog import Watchdog
from adam_mp.training.plan.calibration import CALIBRATED, SAMPLES, STATISTICS, statistics_in
from adam_mp.training.plan.quorum import within_quorum
from adam_mp.training.plan.run_plan import RunPlan

if TYPE_CHECKING:  # a run of one machine does not import what runs of many need
    from adam_mp.params.replica.factors import FactorShape
    from adam_mp.params.replica.synchronizer import SynchronizerSpec

PAUSE_LOOK, EVALUATION_LOOK = 0.001, 0.01  # seconds between two looks: at who is idle, at what is evaluated


@dataclasses.dataclass(frozen=True)
class Exchanging:
    """What a replica's session needs to exchange its weights with so many `parameter_servers`.

    `factors` are the layers whose updates go to them as activations and errors, if any do; `synchronizer` returns what
    the synchronizer is told, given the session's memory. If the servers are `copied`, it keeps updates until copies
    have them.
    """

    parameter_servers: int
    copied: bool
    factors: FactorShape | None
    synchronizer: Callable[[Shared], SynchronizerSpec]


class Session:
    """The memory and processes that a plan asks for. Only one thread may use a session.

    Use as a context manager: leaving it ends all processes and frees all memory, whatever happened. Entering raises
    SpaceError, before any memory is taken, if there is not enough; no process starts before `start`.

    `notice` takes lines for the user, with details; `keeps` is whether the run writes checkpoints and models;
    `exchanging` is for a replica. `others` returns processes outside of the session whose stacks the watchdog prints
    too: parameter servers and further replicas.
    """

    shared: Shared
    memory: RunMemory
    store: ParameterStore
    crew: Crew

    def __init__(
        self, plan: RunPlan, interruption: Interruption, notice: Callable[..., None], keeps: bool = False,
        exchanging: Exchanging | None = None, others: Callable[[], Mapping[str, Child]] = dict,
    ) -> None:  # fmt: skip
        self.plan, self._interruption, self._notice, self._keeps = plan, interruption, notice, keeps
        self._exchanging, self._others = exchanging, others
        self._sequence = self._evaluations = 0
        self._is_evaluating = False  # whether no order to train came since the last evaluation began

    def __enter__(self) -> Session:
        with contextlib.ExitStack() as ends:
            self._make_all(ends)
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ends.__exit__(*error)

    def _make_all(self, ends: contextlib.ExitStack) -> None:
        """Make everything but processes, and register on `ends` how each thing ends."""
        plan, exchanging = self.plan, self._exchanging
        ends.enter_context(self._interruption.note_asking())
        factors = None if exchanging is None else exchanging.factors
        servers, copied = (1, False) if exchanging is None else (exchanging.parameter_servers, exchanging.copied)
        shared = prepare_memory(plan, factors, servers, self._keeps, copied)
        ends.callback(shared.close)
        self.shared, self.memory, self.store = shared, shared.memory, shared.store
        workers, data_servers = make_specs(plan, shared, factors)
        helpers = [] if exchanging is None else [synchronizer_of(exchanging.synchronizer(shared))]
        if plan.elsewhere is not None:
            helpers.append(leaders_courier(plan, shared))
        self.crew = Crew(
            self.memory, shared.descriptors, workers, data_servers, plan.settings.restarts, self._notice, helpers,
            plan.share, plan.settings.on_failure, shared.steps, shared.cache, shared.groups,
        )  # fmt: skip
        # A slow batch is no stall: allow twenty times what a batch should take with all workers on one core.
        batch_seconds = plan.costs.train_seconds * plan.settings.batch_size * plan.split.workers
        patience = max(plan.settings.stall_seconds, 20 * batch_seconds)
        self._watchdog = Watchdog(patience, self.crew, self._others, self._interruption, self._notice)
        ends.callback(self.crew.stop)

    def start(self) -> None:
        """Start all processes; does not wait for them."""
        self.crew.start()

    def stop(self) -> None:
        """End all processes, before the memory is freed."""
        self.crew.stop()

    # Looking after the processes.

    def step_while_starting(self) -> None:
        """Replace processes that died, and print the stacks of all if the user asked for them. Raises ProcessError."""
        self.crew.step()
        self._watchdog.answer()

    def check_moving(self, moved: bool = False) -> None:
        """Raise StalledError if nothing has moved for too long; `moved` says that something did on other machines."""
        self._watchdog.step(moved)

    def step(self) -> None:
        """Replace processes that died, print stacks if asked, end a stalled run. To be called at short intervals."""
        self.step_while_starting()
        self.check_moving()

    def totals(self) -> Mapping[str, float]:
        """Return the sums of all processes' counters since the start, dead processes included."""
        return self.crew.totals()

    def staleness(self) -> np.ndarray:
        """Return the histogram of staleness since the start, over all workers."""
        counts: np.ndarray = self.memory.staleness.sum(axis=0)
        return counts

    # Orders.

    def order(self, kind: int) -> None:
        """Write an order for all workers and the synchronizer on the board."""
        self._is_evaluating &= kind != TRAIN
        self._sequence = self.memory.board.give_order(kind)

    def behind(self) -> frozenset[int]:
        """Return the numbers of the processes that have not acknowledged the last order yet.

        The successor of a process that died has to acknowledge the order too; a place that was given up is left out.
        """
        rows = self.crew.rows()
        return frozenset(number for number in self.crew.obeying() if rows[number].acknowledged < self._sequence)

    def pause(self, step: Callable[[], None]) -> None:
        """Order IDLE and wait, calling `step`, until all have acknowledged it: then none touches weights or leases."""
        self.order(IDLE)
        while True:
            step()
            if not self.behind():
                return
            time.sleep(PAUSE_LOOK)

    # Epochs.

    def deal(self, epoch: int, states: np.ndarray) -> np.ndarray:
        """Write the epoch's `sample_order`; where all workers make each update together, deal the batches too.

        `states` [batches] are the ledger's states of the epoch; returns those with which to open the ledger. To be
        called while workers are idle.
        """
        plan, steps = self.plan, self.shared.steps
        self.memory.sample_order[...] = epoch_order(plan.data.training, plan.settings.seed, epoch)
        if steps is not None:  # choose the quorum's batches now: it must not depend on which worker is quicker
            states = within_quorum(states, plan.settings.quorum, plan.settings.batch_size, len(plan.data.training))
            steps.reset()
            self.memory.turns.deal(np.flatnonzero(states == FREE), self.store.read_updates())
        return states

    def open_epoch(self, epoch: int, states: np.ndarray) -> None:
        """Let the data servers begin with an epoch of which this machine trains all batches."""
        self.memory.ledger.open(epoch, self.deal(epoch, states))

    # Evaluation.

    def evaluate(self, part: str, step: Callable[[], None] | None = None) -> tuple[float, float]:
        """Evaluate the "validation" or "test" samples on all workers; return (mean loss, accuracy).

        Samples that cannot be read are left out. Calls `step` at short intervals, the session's own if it is None.
        Raises DataError if no sample can be read.
        """
        step = step or self.step
        self.open_evaluation(part)
        self.order(VALIDATE if part == "validation" else TEST)
        while True:
            step()
            if self.is_evaluated():
                break
            time.sleep(EVALUATION_LOOK)
        self.pause(step)
        return self.evaluated(part)

    def open_evaluation(self, part: str) -> None:
        """Open the evaluation ledger for the chunks of a part; the order to evaluate comes after that."""
        self._open_chunks(math.ceil(len(self._numbers(part)) / self.plan.settings.batch_size))

    def _open_chunks(self, chunks: int) -> None:
        self._evaluations += 1
        self._is_evaluating = True
        self.memory.evaluation.open(self._evaluations, np.zeros(chunks, np.uint8))

    def statistics(self, step: Callable[[], None]) -> dict[str, np.ndarray]:
        """Return a copy of the statistics of norms for the present weights, by name. Workers must be idle.

        They measure them in each evaluation. If these weights were not evaluated, they are asked for them now; `step`
        is called at short intervals meanwhile. Raises DataError if no training image can be read.
        """
        arrays, network = self.memory.arrays, self.plan.network
        if self._measures_statistics and not (self._is_evaluating and self._is_calibrated()):
            self._open_chunks(0)
            self.order(TEST)
            while not self._is_calibrated():
                step()
                time.sleep(EVALUATION_LOOK)
            self.pause(step)
        self._check_calibrated()
        if self.plan.elsewhere is not None:
            self._fetch_statistics()
        return {name: view.copy() for name, view in statistics_in(arrays, network).items()}

    def _fetch_statistics(self) -> None:
        """Fetch what norms on other machines have measured, of the channels that they alone have."""
        plan, flat = self.plan, self.memory.arrays.get(STATISTICS)
        if flat is None or plan.partitions is None or plan.elsewhere is None:
            return
        for tensor in Layout.of(plan.network.statistics).tensors:
            columns = plan.partitions.columns.get(f"{tensor.name.rpartition('.')[0]}.scale", ())
            for part, place in enumerate(columns[1:], 1):
                begin, end = (tensor.offset + each for each in place)
                flat[begin:end] = plan.elsewhere.read(part, STATISTICS, begin, end)

    @property
    def _measures_statistics(self) -> bool:
        return self.memory.arrays.get(SAMPLES, np.zeros(0)).size > 0

    def _is_calibrated(self) -> bool:
        return int(observe(self.memory.arrays[CALIBRATED], 0)) == self._evaluations

    def _check_calibrated(self) -> None:
        if self._measures_statistics and self.memory.arrays[CALIBRATED][1] == 0:
            samples = self.memory.arrays[SAMPLES]
            raise DataError(
                f"none of the {len(samples)} training images by which norms are measured can be read; such as "
                f"{self.plan.data.dataset.place(int(samples[0]))}"
            )

    def is_evaluated(self) -> bool:
        """Tell whether all chunks are evaluated."""
        return bool(np.all(self.memory.evaluation.states() == TRAINED))

    def evaluated(self, part: str) -> tuple[float, float]:
        """Return (mean loss, accuracy) of a part that is evaluated. Raises DataError if no sample could be read."""
        self._check_calibrated()
        chunks = len(self.memory.evaluation.states())
        losses, right, images = self.memory.results[:chunks].sum(axis=0)
        if images == 0:
            numbers = self._numbers(part)
            dataset, bad = self.plan.data.dataset, self.memory.arrays.get("bad")
            known = numbers if bad is None else numbers[bad[numbers] > 0]
            why = f"such as {dataset.place(int(numbers[0]))}"
            if bad is not None and len(known):
                why = dataset.worst_of(known, bad[known])
            raise DataError(f"none of the {several(len(numbers), f'{part} image')} can be read; {why}")
        return float(losses / images), float(right / images)

    def _numbers(self, part: str) -> np.ndarray:
        """Return the numbers of the samples of a part, "validation" or "test", in the data set."""
        return self.plan.data.validation if part == "validation" else self.plan.data.test
