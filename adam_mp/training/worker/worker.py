"""The worker: the paper's training loop (section 3.2). Take a batch, forward, backward, update, report; no locks.

A worker follows the board's orders. While told to TRAIN it consumes its rings; told to VALIDATE or TEST it evaluates
chunks of the data set; told to be IDLE it touches nothing. It ends when told to STOP, or when its supervisor is gone
(`child`).

Which batch it takes, and how its gradient gets into the weights, is a `Step`: `AsyncStep`, `BoundedStep` or
`SynchronousStep`.
"""

from __future__ import annotations

import dataclasses
import math
import time

from adam_mp.compute.choice import KernelChoices
from adam_mp.compute.context import TrainingContext
from adam_mp.compute.optimizer import Optimizer, UpdateNumbers
from adam_mp.compute.updates import bind_updates
from adam_mp.data.augmentation import draw_key
from adam_mp.data.pictures import PictureSpec, open_pictures
from adam_mp.memory.board import STOP, TEST, TRAIN, VALIDATE
from adam_mp.memory.run_memory import RunHandle, RunMemory
from adam_mp.memory.steps import StepHandle, StepMemory
from adam_mp.memory.store import ParameterStore, StoreHandle
from adam_mp.memory.waiting import AMONG_WORKERS, Backoff
from adam_mp.memory.wanted import WaitingBatch
from adam_mp.network.network import Network
from adam_mp.params.replica.factors import FactorShape, Outbox
from adam_mp.training.settings.schedule import Schedule
from adam_mp.training.worker.asynchronous import AsyncStep
from adam_mp.training.worker.bounded import BoundedClock, BoundedStep
from adam_mp.training.worker.evaluator import Evaluator
from adam_mp.training.worker.learning_rate import LearningRate
from adam_mp.training.worker.slot_programs import SlotPrograms
from adam_mp.training.worker.step import Gradient, Outcome, Step
from adam_mp.training.worker.synchronous import SynchronousStep
from adam_mp.transport.local import ChannelHandle


@dataclasses.dataclass(frozen=True)
class WorkerSpec:
    """What a worker is told: its number among the processes, what to train, on which shared memory, and how.

    `bound` is by how many updates it may be ahead of the slowest; `steps` the memory of steps that all make together.
    """

    process: int
    memory: RunHandle
    store: StoreHandle
    network: Network
    choices: KernelChoices
    pictures: PictureSpec
    optimizer: Optimizer
    schedule: Schedule
    batch_size: int
    seed: int
    factors: FactorShape | None = None
    outbox: ChannelHandle | None = None
    bound: int | None = None
    steps: StepHandle | None = None


class Worker:
    """One worker process: its context, its view of the shared memory, its loop."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.memory = RunMemory.attach(spec.memory)
        self.store = ParameterStore.attach(spec.store)
        self.counters = self.memory.board.counters[spec.process]
        steps = None if spec.steps is None else StepMemory.attach(spec.steps)
        self.context = TrainingContext(
            spec.network, self.store.tensors, spec.batch_size, choices=spec.choices,
            gradient=None if steps is None else steps.gradients[spec.process],
        )  # fmt: skip
        self.step = make_step(spec, self.memory, self.store, self.context, steps)
        self.programs = SlotPrograms(self.context, spec.factors)
        pictures = open_pictures(spec.pictures, self.memory, self.counters)
        self.evaluator = Evaluator(spec.process, self.context, self.memory, pictures)
        self.waiting, self.waiting_for_others = Backoff(), Backoff(AMONG_WORKERS)

    def run(self) -> None:
        """Follow the board's orders until STOP."""
        self.counters.publish("ready", 1)
        acknowledged = -1
        while True:
            # Before an order is acknowledged: who arrives last at a step sees it through, and only then is idle.
            if self.step.settle():
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
        """Take a batch, lease it, train it, give its slot back; or tell why there is none to train."""
        batch = self.step.take()
        if isinstance(batch, Outcome):
            return batch
        began, tag = time.perf_counter_ns(), batch.tag
        if self.memory.ledger.lease(tag.epoch, tag.batch, tag.server, self.spec.process):
            if tag.images:
                self.train(batch)
            else:  # none of its images could be had
                self.step.skip(tag)
            self.counters.add("busy_ns", time.perf_counter_ns() - began)
        batch.ring.consume()
        return Outcome.DONE

    def train(self, batch: WaitingBatch) -> None:
        """Forward, backward, update, report: the life of one leased batch."""
        tag = batch.tag
        read_at = self.store.read_updates()
        program, factors = self.programs.of(batch)
        self.context.set_dropout_key(draw_key(self.spec.seed, tag.epoch, tag.batch))
        start = time.perf_counter_ns()
        program.run_forward()
        forwarded = time.perf_counter_ns()
        loss = float(program.totals[0])
        if not math.isfinite(loss):
            self.report_divergence(tag.epoch, read_at)
            return
        self.step.prepare(tag, loss)
        program.run_backward()
        self.counters.add("backward_ns", time.perf_counter_ns() - forwarded)
        self.counters.add("forward_ns", forwarded - start)
        self.step.update(Gradient(tag, loss, read_at, factors))

    def rest(self, outcome: Outcome, training: bool) -> None:
        """Sleep a little, because nothing could be done; tell how long it lacked data, or waited for other workers."""
        began = time.perf_counter_ns()
        held = outcome is Outcome.WAITING_FOR_OTHERS
        (self.waiting_for_others if held else self.waiting).pause()
        if training:
            self.counters.add("held_ns" if held else "waited_ns", time.perf_counter_ns() - began)

    def note_progress(self) -> None:
        """Tell the supervisor that this worker lives, and look again soon."""
        self.counters.add("heartbeat", 1)
        self.waiting.reset()

    def report_divergence(self, epoch: int, step: int) -> None:
        """Tell the supervisor that the loss is NaN or infinite; the weights stay as they are."""
        self.counters.publish("fault_step", step)
        self.counters.publish("fault_epoch", epoch + 1)
        self.counters.publish("faults", self.counters.observe("faults") + 1)


def make_step(
    spec: WorkerSpec, memory: RunMemory, store: ParameterStore, context: TrainingContext, steps: StepMemory | None
) -> Step:
    """Return the way in which this worker keeps together with the others."""
    numbers = UpdateNumbers(spec.optimizer)
    rate = LearningRate(spec.schedule, spec.network.classes, memory.board, numbers)
    if steps is not None:
        return SynchronousStep(spec.process, memory, steps, store, spec.optimizer, numbers, rate)
    updates = bind_updates(spec.optimizer, store, context, numbers.array)
    outbox = None if spec.outbox is None else Outbox(spec.outbox)
    step = AsyncStep(spec.process, memory, store, updates, numbers, rate, outbox)
    if spec.bound is None:
        return step
    rows = memory.board.counters[: memory.shape.workers]
    return BoundedStep(step, BoundedClock(spec.process, rows, spec.bound), rows[spec.process])


def work(spec: WorkerSpec) -> None:
    """Run a worker in this process."""
    Worker(spec).run()
