"""A member of a group: a worker that has one partition of the model (paper, sections 2.3 and 3.2).

The leader, partition 0, leases batches and announces them as works (`leading.Leader`); all members do the works in that
order, each its part. A member has several batches on their way, and runs whichever has its messages, the oldest first.
So while it waits for a value of one batch, it computes another.
"""

from __future__ import annotations

import math
import time

import numpy as np

from adam_mp.compute.context import TrainingContext
from adam_mp.compute.optimizer import UpdateNumbers
from adam_mp.compute.part_storage import PartStorage
from adam_mp.compute.part_updates import PartUpdate
from adam_mp.data.augmentation import draw_key
from adam_mp.memory.board import EXCHANGE, LACKS, OTHERS, STOP, TRAIN, Order
from adam_mp.memory.group import TRAIN as TRAIN_WORK
from adam_mp.memory.group import Group, Work
from adam_mp.memory.run_memory import RunMemory
from adam_mp.memory.store import ParameterStore
from adam_mp.memory.waiting import AMONG_WORKERS, Backoff
from adam_mp.training.plan.calibration import statistics_in
from adam_mp.training.settings.averages import AVERAGE
from adam_mp.training.worker.averaging import MovingAverage
from adam_mp.training.worker.lanes import Lane
from adam_mp.training.worker.learning_rate import LearningRate
from adam_mp.training.worker.scoring import ScoringLane
from adam_mp.training.worker.spec import PartSpec, WorkerSpec

_SPIN = 50e-6  # seconds in which a member looks for messages without a sleep


class Member:
    """One process of a group: its lanes, and what it does next."""

    def __init__(self, spec: WorkerSpec) -> None:
        own = spec.part
        assert own is not None, "a member has a part"
        self.spec, self.is_apart = spec, own.apart
        self.memory = RunMemory.attach(spec.memory)
        self.store = ParameterStore.attach(spec.store)
        self.group = Group.attach(own.group, own.part)
        self.counters = self.memory.board.counters[spec.process]
        leader = spec.process if own.apart else spec.process - own.part
        self.leader_counters = self.memory.board.counters[leader]
        self.rings = self.memory.rings_of(leader)
        self._slots = [ring.slots for ring in self.rings] or [self.group.arrivals]
        self.numbers = UpdateNumbers(spec.optimizer, self.store.workers)
        self._rate = LearningRate(spec.schedule, spec.network.classes, self.memory.board, self.numbers)
        self.average = _average_of(spec, self.store)
        storage = PartStorage(own.plan)
        self._lanes = self._make_lanes(storage, own)
        self.scoring = self._make_scoring(storage, own)
        self.flying: list[Lane | ScoringLane] = []  # on their way, the oldest first
        self.generation = -1
        self._next: int | None = None  # the work to begin next; None while the group gathers
        self._idle, self._among, self._moved_at = Backoff(), Backoff(AMONG_WORKERS), 0.0

    def _make_lanes(self, storage: PartStorage, own: PartSpec) -> list[Lane]:
        spec, graph, layout = self.spec, own.plan.graphs[own.part], storage.part_layout(own.part)
        weights = {
            **self._part_of(self.store.weights, storage, own), **self._statistics(storage, own.part),
        }  # fmt: skip
        gradient: np.ndarray = np.zeros(layout.size, np.float32)
        owner = 0 if own.apart else spec.process // own.plan.parts
        lanes = []
        for mail in self.group.mails[:-1]:
            context = TrainingContext(
                graph, weights, spec.batch_size, choices=spec.choices, gradient=gradient,
                smoothing=spec.label_smoothing, mail=mail, layout=layout,
            )  # fmt: skip
            update = PartUpdate(
                storage, own.part, spec.optimizer, self.store, context, self.numbers.array, spec.shares, mail,
                spec.clip_norm, owner, own.apart,
            )  # fmt: skip
            lanes.append(Lane(context, mail, update, self._begin_backward))
        return lanes

    def _make_scoring(self, storage: PartStorage, own: PartSpec) -> ScoringLane:
        graph, mail = own.plan.graphs[own.part], self.group.mails[-1]
        flat = self.store.weights if self.spec.average is None else self.store.states[AVERAGE]
        weights = {**self._part_of(flat, storage, own), **self._statistics(storage, own.part)}
        context = TrainingContext(
            graph, weights, self.spec.batch_size, choices=self.spec.choices, backward=False, mail=mail
        )  # fmt: skip
        return ScoringLane(context, mail, self.group)

    def _part_of(self, flat: np.ndarray, storage: PartStorage, own: PartSpec) -> dict[str, np.ndarray]:
        """Return this partition's tensors in a flat space of the store."""
        return self.store.layout.views(flat) if own.apart else storage.part_views(flat, own.part)

    def _statistics(self, storage: PartStorage, part: int) -> dict[str, np.ndarray]:
        return storage.part_statistics(statistics_in(self.memory.arrays, self.spec.network), part)

    # The loop.

    def run(self) -> None:
        """Follow the supervisor's orders until STOP."""
        self.counters.publish("ready", 1)
        acknowledged = -1
        while True:
            order = self.memory.board.order()
            if order.kind == STOP:
                return
            moved = self.gather() or self.lead(order) or self.advance()
            if order.sequence != acknowledged and self.obeys(order.sequence):
                self.counters.publish("acknowledged", order.sequence)
                acknowledged = order.sequence
                moved = True
            self.rest(moved, order.kind == TRAIN)

    def obeys(self, sequence: int) -> bool:
        """Return whether this member does nothing any more that an earlier order asked for.

        The leader stops announcing first. Then the works that are announced are done.
        """
        if self.leader_counters.observe("acknowledged") < sequence:
            return False
        return not self.flying and self._next is not None and self._next == self.group.announced

    def gather(self) -> bool:
        """In a new generation, drop all works, and wait until all have; return whether anything was done."""
        generation = self.group.generation
        if generation == self.generation and self._next is not None:
            return False
        if generation != self.generation:
            for lane in self._lanes:
                lane.drop()
            self.scoring.drop()
            self.flying.clear()
            self.generation, self._next = generation, None
            self.group.acknowledge(generation)
            return True
        self._next = self.group.resumed_at(generation)
        if self._next is None:
            return False
        self.group.end(self._next - 1)
        return True

    def lead(self, order: Order) -> bool:
        """Announce what the order asks for, if this member is the leader; return whether anything was done."""
        return False

    @property
    def gathers(self) -> bool:
        """Whether this member has dropped its works, and may not go on yet."""
        return self._next is None or self.generation != self.group.generation

    def advance(self) -> bool:
        """Begin announced works, and run one segment of the oldest batch that can go on; tell whether one could."""
        if self._next is None:
            return False
        while self._next < self.group.announced:
            self._begin(self._next)
            self._next += 1
        for position, lane in enumerate(self.flying):
            if lane.may_run(oldest=position == 0):
                began = time.perf_counter_ns()
                lane.run()
                self._end_first()
                self.counters.add("busy_ns", time.perf_counter_ns() - began)
                return True
        return False

    def _begin(self, number: int) -> None:
        work = self.group.work(number)
        if work.kind != TRAIN_WORK:
            self.scoring.begin(number, work)
            self.flying.append(self.scoring)
            return
        lane = self._lanes[number % len(self._lanes)]
        slot = self._slots[work.ring][work.slot]
        lane.begin(number, work, slot, draw_key(self.spec.seed, work.epoch, work.batch))
        self.flying.append(lane)

    def _end_first(self) -> None:
        while self.flying and self.flying[0].is_over:
            lane = self.flying.pop(0)
            self.over(lane)
            self.group.end(lane.number)

    def over(self, lane: Lane | ScoringLane) -> None:
        """Note that this member's part of a work is done; move the average of its weights if it has one of its own."""
        self.counters.add("heartbeat", 1)
        if isinstance(lane, Lane) and lane.work is not None and self.average is not None and self.is_apart:
            self.average.after_update(lane.work.update, lane.work.step + 1)

    def _begin_backward(self, work: Work, loss: float) -> None:
        """Set what the update reads: the backward pass of a dense layer updates its weights already."""
        self._rate.set(work.epoch, work.step, loss / work.images if math.isfinite(loss) else math.inf)
        self.numbers.set_step(work.update)

    def rest(self, moved: bool, training: bool) -> None:
        """Go on at once if anything was done, or was a moment ago; else sleep a little."""
        now = time.perf_counter()
        if moved:
            self._idle.reset()
            self._among.reset()
            self._moved_at = now
        elif now - self._moved_at > _SPIN:
            (self._among if self.flying or self.gathers else self._idle).pause()
            if training:
                self.counters.add(LACKS[self.lack()], int(1e9 * (time.perf_counter() - now)))

    def lack(self) -> int:
        """Return what this member waits for: the others, the exchange, or what the supervisor says."""
        if self.flying or self.gathers:
            return OTHERS
        return EXCHANGE if self.memory.board.held_up else self.memory.board.lack


def _average_of(spec: WorkerSpec, store: ParameterStore) -> MovingAverage | None:
    """Return the average that moves with the updates, None if there is none."""
    if spec.average is None or not spec.average.moves:
        return None
    return MovingAverage(spec.average, store)
