"""The worker: the paper's training loop (section 3.2). Take a batch, forward, backward, update, report; no locks.

A worker follows the board's orders. While told to TRAIN it consumes its rings; told to VALIDATE or TEST it evaluates
chunks of the data set; told to be IDLE it touches nothing. It ends when told to STOP, or when its supervisor is gone
(`child`).
"""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np

from adam_mp.compute.choice import KernelChoices
from adam_mp.compute.context import Program, TrainingContext
from adam_mp.compute.optimizer import DEFAULTS, Optimizer, Update
from adam_mp.data.augmentation import draw_key
from adam_mp.data.pictures import Pictures, PictureSpec, open_pictures
from adam_mp.kernels.update import HYPER
from adam_mp.memory.board import STOP, TEST, TRAIN, VALIDATE
from adam_mp.memory.ring import Ring
from adam_mp.memory.run_memory import RunHandle, RunMemory
from adam_mp.memory.staleness import column
from adam_mp.memory.steps import Contribution, StepHandle, StepMemory
from adam_mp.memory.store import ParameterStore, StoreHandle
from adam_mp.memory.waiting import AMONG_WORKERS, Backoff
from adam_mp.memory.wanted import find_wanted
from adam_mp.network.network import Network
from adam_mp.params.replica.factors import FactorShape, Outbox
from adam_mp.training.settings.schedule import Rates, Schedule, share_of_rate
from adam_mp.training.worker.bounded import BoundedClock
from adam_mp.training.worker.synchronous import SynchronousStep
from adam_mp.transport.local import ChannelHandle

_LR, _STEP = HYPER.index("lr"), HYPER.index("step")


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
    momentum: float
    weight_decay: float
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
        self.rings = self.memory.rings_of(spec.process)
        steps = None if spec.steps is None else StepMemory.attach(spec.steps)
        self.context = TrainingContext(
            spec.network, self.store.tensors, spec.batch_size, choices=spec.choices,
            gradient=None if steps is None else steps.gradients[spec.process],
        )  # fmt: skip
        self.hyper = make_hyper(spec.momentum, spec.weight_decay)
        self.step = None if steps is None else self.join_steps(steps)
        self.updates = [] if steps is not None else bind_updates(spec.optimizer, self.store, self.context, self.hyper)
        self.clock = self.bounded_clock()
        self.staleness = self.memory.staleness[spec.process]
        self.programs: dict[tuple[int, int, int], Program] = {}
        self.outbox = None if spec.outbox is None else Outbox(spec.outbox)
        self.factors: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}  # by the identity of a program
        pictures = open_pictures(spec.pictures, self.memory, self.counters)
        self.evaluation = EvaluationBuffer(spec, self.context, self.memory, pictures)
        self.waiting, self.waiting_for_others = Backoff(), Backoff(AMONG_WORKERS)
        self.held = False  # whether it waits for other workers, not for data
        self.rates = Rates(spec.schedule)

    def run(self) -> None:
        """Follow the board's orders until STOP."""
        self.counters.publish("ready", 1)
        acknowledged = -1
        while True:
            # Before an order is acknowledged: who arrives last at a step sees it through, and only then is idle.
            if self.step is not None and self.step.pending and self.complete_step():
                self.counters.add("heartbeat", 1)
                self.waiting.reset()
            sequence, order = self.memory.board.order()
            if sequence != acknowledged:
                self.counters.publish("acknowledged", sequence)
                acknowledged = sequence
                self.waiting.reset()
            if order == STOP:
                return
            busy = False
            if order == TRAIN:
                busy = self.train_batch()
            elif order in (VALIDATE, TEST):
                busy = self.evaluation.evaluate_chunk(order)
            if busy:
                self.counters.add("heartbeat", 1)
                self.waiting.reset()
                continue
            began = time.perf_counter_ns()
            (self.waiting_for_others if self.held else self.waiting).pause()
            if order == TRAIN:
                self.counters.add("held_ns" if self.held else "waited_ns", time.perf_counter_ns() - began)

    @property
    def stopped(self) -> bool:
        """Whether the run ends."""
        return self.memory.board.order().kind == STOP

    def train_batch(self) -> bool:
        """Train the next batch; False if there is none now, or if others are to be waited for (`held`)."""
        if self.step is not None:
            return self.train_turn(self.step)
        waiting = ((number, ring, ring.peek()) for number, ring in enumerate(self.rings))
        number, ring, index = next((found for found in waiting if found[2] is not None), (0, None, None))
        if ring is None or index is None:
            if self.clock is not None:
                self.clock.leave()
            self.held = False
            return False
        self.held = self.clock is not None and not self.clock.may_begin()
        if self.held:
            return False
        began = time.perf_counter_ns()
        epoch, batch, count, server = ring.slots[index].read_tag()
        if self.memory.ledger.lease(epoch, batch, server, self.spec.process):
            if count:
                self.train(self.program(number, ring, index, count), epoch, batch, count)
            else:  # none of its images could be had
                self.memory.ledger.finish(epoch, batch, self.spec.process)
            self.counters.add("busy_ns", time.perf_counter_ns() - began)
        ring.consume()
        return True

    def train(self, program: Program, epoch: int, batch: int, count: int) -> None:
        """Forward, backward, update, report: the whole life of one leased batch."""
        read = self.store.read_updates()
        self.context.set_dropout_key(draw_key(self.spec.seed, epoch, batch))
        start = time.perf_counter_ns()
        program.run_forward()
        forwarded = time.perf_counter_ns()
        loss = float(program.totals[0])
        if not math.isfinite(loss):
            self.report_divergence(epoch, read)
            return
        self.set_rate(epoch, self.store.read_step(), loss / count)
        program.run_backward()
        propagated = time.perf_counter_ns()
        before = self.store.count_update()
        self.hyper[_STEP] = before + 1
        for update in self.updates:
            update()
        if self.outbox is not None:  # after the update: what is told of is in the weights
            self.outbox.put(self.factors[id(program)], float(self.hyper[_LR]), self.spec.weight_decay)
        self.counters.add("update_ns", time.perf_counter_ns() - propagated)
        self.counters.add("backward_ns", propagated - forwarded)
        self.counters.add("forward_ns", forwarded - start)
        if self.memory.ledger.finish(epoch, batch, self.spec.process):
            self.counters.add("images", count)
            self.counters.add_loss(loss, count)
        self.counters.add("updates", 1)
        self.counters.add("staleness", before - read)
        self.staleness[column(before - read)] += 1
        if self.clock is not None:
            self.counters.keep_largest("lead", self.clock.advance())

    def train_turn(self, step: SynchronousStep) -> bool:
        """Bring the gradient of the batch whose turn it is to the step; False if it is not there, or others are not."""
        self.held = step.pending
        epoch = self.memory.ledger.round
        wanted = None if self.held or epoch < 0 else step.next(epoch)
        if wanted is None:
            return False
        place = find_wanted(self.rings, self.memory.ledger, epoch, wanted)
        if place is None:
            return False
        ring = place.ring
        _, batch, count, server = place.tag
        if self.memory.ledger.lease(epoch, batch, server, self.spec.process):
            self.arrive(step, epoch, Contribution(batch, count, 0.0), place[:3])
        ring.consume()
        if step.pending:
            self.complete_step()
        return True

    def arrive(self, step: SynchronousStep, epoch: int, given: Contribution, place: tuple[int, Ring, int]) -> None:
        """Compute the gradient of a leased batch, and bring it to the step; not if its loss is NaN or infinite."""
        loss, began = 0.0, time.perf_counter_ns()
        if given.images:
            program = self.program(*place, given.images)
            self.context.set_dropout_key(draw_key(self.spec.seed, epoch, given.batch))
            program.run_forward()
            loss = float(program.totals[0])
            if not math.isfinite(loss):
                self.report_divergence(epoch, self.store.read_updates())
                return
            forwarded = time.perf_counter_ns()
            program.run_backward()
            self.counters.add("forward_ns", forwarded - began)
            self.counters.add("backward_ns", time.perf_counter_ns() - forwarded)
        step.arrive(epoch, dataclasses.replace(given, loss=loss))
        self.counters.add("busy_ns", time.perf_counter_ns() - began)

    def complete_step(self) -> bool:
        """See the pending step through, if all have arrived; tell whether."""
        assert self.step is not None
        began = time.perf_counter_ns()
        own = self.step.complete()
        if own is None:
            return False
        self.counters.add("update_ns", time.perf_counter_ns() - began)
        self.counters.add("images", own.images)
        self.counters.add_loss(own.loss, own.images)
        if self.spec.process == 0:  # it has a part in every step
            self.counters.add("updates", 1)
            self.staleness[0] += 1
        return True

    def join_steps(self, steps: StepMemory) -> SynchronousStep:
        """Take part in steps that all workers make together."""
        return SynchronousStep(
            self.spec.process, steps, self.memory.turns, self.memory.ledger, self.store, self.spec.optimizer,
            self.hyper, self.set_rate, lambda: self.stopped,
        )  # fmt: skip

    def bounded_clock(self) -> BoundedClock | None:
        """Return this worker's clock, where nobody may be far ahead."""
        if self.spec.bound is None:
            return None
        workers = self.memory.board.counters[: self.memory.shape.workers]
        return BoundedClock(self.spec.process, workers, self.spec.bound)

    def program(self, number: int, ring: Ring, index: int, count: int) -> Program:
        """Return the program for `count` images in that slot, made when first needed and kept."""
        program = self.programs.get((number, index, count))
        if program is None:
            slot = ring.slots[index]
            program = self.context.program(slot.images[:count], slot.labels[:count])
            self.programs[number, index, count] = program
            if self.spec.factors is not None:
                names = [self.store.layout.tensors[tensor].name for tensor in self.spec.factors.tensors]
                images = slot.images[:count]
                self.factors[id(program)] = [self.context.factors(name, images) for name in names]
        return program

    def set_rate(self, epoch: int, step: int, loss: float) -> None:
        """Set the learning rate for the next update, of a batch of mean `loss`."""
        share = share_of_rate(loss, self.spec.network.classes) * self.memory.board.rate_share
        self.hyper[_LR] = self.rates.value(epoch, step) * share

    def report_divergence(self, epoch: int, step: int) -> None:
        """Tell the supervisor that the loss is NaN or infinite; the weights stay as they are."""
        self.counters.publish("fault_step", step)
        self.counters.publish("fault_epoch", epoch + 1)
        self.counters.publish("faults", self.counters.observe("faults") + 1)


class EvaluationBuffer:
    """Evaluates chunks of the validation or test set with the worker's context."""

    def __init__(self, spec: WorkerSpec, context: TrainingContext, memory: RunMemory, pictures: Pictures) -> None:
        self.spec, self.context, self.memory, self.pictures = spec, context, memory, pictures
        self.images = np.zeros((context.batch, *spec.network.input_shape), np.float32)
        self.labels = np.zeros(context.batch, np.int32)
        self.programs: dict[int, Program] = {}

    def evaluate_chunk(self, order: int) -> bool:
        """Lease a chunk, evaluate it, write its result; False if none is free."""
        ledger = self.memory.evaluation
        round_number = ledger.round
        chunk = ledger.claim_lease(round_number, self.spec.process) if round_number >= 0 else None
        if chunk is None:
            return False
        numbers = self.memory.arrays["validation" if order == VALIDATE else "test"]
        samples = numbers[chunk * self.context.batch : (chunk + 1) * self.context.batch]
        self.pictures.prepare(samples)
        count = self.pictures.fill(samples, self.images, self.labels, None)
        self.memory.results[chunk] = (*self.measure(count), count)
        ledger.finish(round_number, chunk, self.spec.process)
        return True

    def measure(self, count: int) -> np.ndarray:
        """Return the sum of losses and the number right of the first `count` images."""
        if count == 0:
            return np.zeros(2)
        program = self.programs.get(count)
        if program is None:
            program = self.context.program(self.images[:count], self.labels[:count], training=False)
            self.programs[count] = program
        program.run_forward()
        return program.totals


def make_hyper(momentum: float, weight_decay: float) -> np.ndarray:
    """Return the optimizer's numbers in the order of `HYPER`, with learning rate and step 0."""
    values = {"lr": 0.0, "weight_decay": weight_decay, "momentum": momentum, "step": 0.0, **DEFAULTS}
    return np.array([values[name] for name in HYPER])


def bind_updates(
    optimizer: Optimizer, store: ParameterStore, context: TrainingContext, hyper: np.ndarray
) -> list[Update]:
    """Return the functions that apply the context's gradient to the store.

    Plain gradient descent lets dense layers update their weights in the backward pass itself, and is applied only to
    the stretches of the flat space between them.
    """
    if not optimizer.is_plain_descent:
        return [optimizer.bind(store.weights, context.gradient, store.states, hyper)]
    done = set(context.update_directly(hyper))
    updates, start = [], 0
    for tensor in [*store.layout.tensors, None]:
        if tensor is None or tensor.name in done:
            end = store.layout.size if tensor is None else tensor.offset
            if end > start:
                updates.append(optimizer.bind(store.weights[start:end], context.gradient[start:end], {}, hyper))
            start = end if tensor is None else tensor.offset + tensor.size
    return updates


def work(spec: WorkerSpec) -> None:
    """Run a worker in this process."""
    Worker(spec).run()
