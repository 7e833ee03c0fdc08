"""The worker: the paper's training loop (section 3.2). Take a batch, forward, backward, update, report; no locks.

`Worker.run` is the loop. It follows the supervisor's order on the board. TRAIN: train the batches in this worker's
rings (`train_batch`, `train`). VALIDATE or TEST: evaluate chunks of that part of the data. IDLE: touch neither weights
nor leases. STOP: end. A worker also ends when its supervisor is gone (`process.entry`).

A `Step` decides which batch comes next, and brings the gradient of a batch into the weights: `AsyncStep` updates at
once, `BoundedStep` as well, unless this worker is too far ahead of the slowest, `SynchronousStep` together with all
workers. `make_step` chooses one when the worker starts.
"""

from __future__ import annotations

import math
import time

from adam_mp.compute.clipping import Clip
from adam_mp.compute.context import TrainingContext
from adam_mp.compute.optimizer import UpdateNumbers
from adam_mp.compute.shares import stretches_of
from adam_mp.compute.updates import bind_updates
from adam_mp.data.augmentation import draw_key
from adam_mp.data.pictures import open_pictures
from adam_mp.memory.board import EXCHANGE, LACKS, OTHERS, STOP, TEST, TRAIN, VALIDATE
from adam_mp.memory.run_memory import RunMemory
from adam_mp.memory.steps import StepMemory
from adam_mp.memory.store import ParameterStore
from adam_mp.memory.waiting import AMONG_WORKERS, Backoff
from adam_mp.memory.wanted import WaitingBatch
from adam_mp.params.replica.factors import Outbox
from adam_mp.training.plan.calibration import statistics_in
from adam_mp.training.settings.averages import AVERAGE
from adam_mp.training.worker.asynchronous import AsyncStep
from adam_mp.training.worker.averaging import MovingAverage
from adam_mp.training.worker.bounded import BoundedClock, BoundedStep
from adam_mp.training.worker.evaluator import Evaluator
from adam_mp.training.worker.learning_rate import LearningRate
from adam_mp.training.worker.slot_programs import SlotPrograms
from adam_mp.training.worker.spec import WorkerSpec
from adam_mp.training.worker.step import Gradient, Outcome, Step
from adam_mp.training.worker.synchronous import SynchronousStep

_LACK_OF = {Outcome.WAITING_FOR_OTHERS: OTHERS, Outcome.WAITING_FOR_EXCHANGE: EXCHANGE}


class Worker:
    """One worker process: its training context, its view of the shared memory, its loop."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.memory = RunMemory.attach(spec.memory)
        self.store = ParameterStore.attach(spec.store)
        self.counters = self.memory.board.counters[spec.process]
        steps = None if spec.steps is None else StepMemory.attach(spec.steps)
        statistics = statistics_in(self.memory.arrays, spec.network)
        self.context = TrainingContext(
            spec.network, {**self.store.tensors, **statistics}, spec.batch_size, choices=spec.choices,
            gradient=None if steps is None else steps.gradients[spec.process], smoothing=spec.label_smoothing,
        )  # fmt: skip
        self.step = make_step(spec, self.memory, self.store, self.context, steps)
        self.programs = SlotPrograms(self.context, spec.factors)
        assert spec.pictures is not None, "a worker makes pictures to evaluate"
        pictures = open_pictures(spec.pictures, self.memory, self.counters)
        evaluated = self.context
        if spec.average is not None:
            average = {**self.store.layout.views(self.store.states[AVERAGE]), **statistics}
            evaluated = TrainingContext(
                spec.network, average, spec.batch_size, choices=spec.choices, backward=False
            )  # fmt: skip
        self.evaluator = Evaluator(spec.process, evaluated, self.memory, pictures, spec.views)
        self.waiting, self.waiting_for_others = Backoff(), Backoff(AMONG_WORKERS)

    def run(self) -> None:
        """Follow the supervisor's orders until STOP."""
        self.counters.publish("ready", 1)
        acknowledged = -1
        while True:
            if self.step.settle():  # before the order is acknowledged: after IDLE is, this worker changes no weight
                self.note_progress()
            order = self.memory.board.order()
            if order.sequence != acknowledged:
                self.counters.publish("acknowledged", order.sequence)
                acknowledged = order.sequence
                self.waiting.reset()
            if order.kind == STOP:
                return
            outcome = Outcome.NOTHING_THERE
            if order.kind == TRAIN:
                outcome = self.train_batch()
            elif order.kind in (VALIDATE, TEST) and self.evaluator.evaluate_chunk(order.kind):
                outcome = Outcome.DONE
            if outcome is Outcome.DONE:
                self.note_progress()
            else:
                self.rest(outcome, training=order.kind == TRAIN)

    def train_batch(self) -> Outcome:
        """Take a batch, lease it, train it, give its slot back to the data server; or tell why there is none."""
        batch = self.step.take()
        if isinstance(batch, Outcome):
            return batch
        taken, tag = time.perf_counter_ns(), batch.tag
        # The lease fails if the supervisor took the batch back from its data server; then it is dropped here.
        if self.memory.ledger.lease(tag.epoch, tag.batch, tag.server, self.spec.process):
            if tag.images:
                self.train(batch)
            else:  # none of its images could be read
                self.step.skip(tag)
            self.counters.add("busy_ns", time.perf_counter_ns() - taken)
        batch.ring.consume()
        return Outcome.DONE

    def train(self, batch: WaitingBatch) -> None:
        """Forward, backward, update, report: the life of one leased batch."""
        tag = batch.tag
        read_at = self.store.read_updates()  # the forward pass reads the weights from here on
        program, factors = self.programs.of(batch)
        self.context.set_dropout_key(draw_key(self.spec.seed, tag.epoch, tag.batch))
        start = time.perf_counter_ns()
        program.run_forward()
        forward_end = time.perf_counter_ns()
        loss = float(program.totals[0])
        if not math.isfinite(loss):
            self.report_divergence(tag.epoch, read_at)
            return
        self.step.prepare(tag, loss)
        program.run_backward()
        self.counters.add("backward_ns", time.perf_counter_ns() - forward_end)
        self.counters.add("forward_ns", forward_end - start)
        self.step.update(Gradient(tag, loss, read_at, factors))

    def rest(self, outcome: Outcome, training: bool) -> None:
        """Sleep a little, because there was nothing to do; in training, count the time by what this worker lacks.

        That is what the outcome names; if it names nothing, it is what the supervisor says (`Board.lack`).
        """
        start = time.perf_counter_ns()
        held = outcome is Outcome.WAITING_FOR_OTHERS
        (self.waiting_for_others if held else self.waiting).pause()
        if training:
            lack = _LACK_OF.get(outcome)
            self.counters.add(LACKS[self.memory.board.lack if lack is None else lack], time.perf_counter_ns() - start)

    def note_progress(self) -> None:
        """Show the supervisor's watchdog that something was done; after that, poll for work quickly again."""
        self.counters.add("heartbeat", 1)
        self.waiting.reset()

    def report_divergence(self, epoch: int, updates: int) -> None:
        """Tell the supervisor that the loss is NaN or infinite on weights of so many updates, and make no update."""
        self.counters.publish("fault_step", updates)
        self.counters.publish("fault_epoch", epoch + 1)
        self.counters.publish("faults", self.counters.observe("faults") + 1)


def make_step(
    spec: WorkerSpec, memory: RunMemory, store: ParameterStore, context: TrainingContext, steps: StepMemory | None
) -> Step:
    """Return how this worker keeps together with the others: the `Step` of the run's consistency mode."""
    numbers = UpdateNumbers(spec.optimizer, store.workers)
    rate = LearningRate(spec.schedule, spec.network.classes, memory.board, numbers)
    stretches = stretches_of(store.layout, spec.shares)
    average = MovingAverage(spec.average, store) if spec.average is not None and spec.average.moves else None
    if steps is not None:
        return SynchronousStep(
            spec.process, memory, steps, store, spec.optimizer, numbers, rate, stretches, spec.clip_norm, average
        )  # fmt: skip
    clip = Clip(spec.clip_norm, context.gradient, stretches) if spec.clip_norm else None
    updates = bind_updates(spec.optimizer, store, context, numbers.array, spec.shares, clip, spec.process)
    outbox = None if spec.outbox is None else Outbox(spec.outbox)
    step = AsyncStep(spec.process, memory, store, updates, numbers, rate, outbox, clip, average)
    if spec.bound is None:
        return step
    rows = memory.board.counters[: memory.shape.workers]
    return BoundedStep(step, BoundedClock(spec.process, rows, spec.bound), rows[spec.process])


def work(spec: WorkerSpec) -> None:
    """Run a worker in this process: one that has the whole model, or a member of a group, which has a part."""
    if spec.part is None:
        Worker(spec).run()
        return
    from adam_mp.training.worker.leading import Leader
    from adam_mp.training.worker.member import Member

    (Leader if spec.part.part == 0 else Member)(spec).run()
