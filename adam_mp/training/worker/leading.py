"""The leader of a group: it leases batches, announces them to all members, and reports them when all have done them.

It does its own part of each work as every member does. If a member died, the batches that were on their way are still
leased and in their slots: the leader announces them again, and no image is counted twice.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from adam_mp.compute.views import mean_scores, measure
from adam_mp.data.pictures import open_pictures
from adam_mp.kernels.atomic import publish
from adam_mp.memory.board import OTHERS, STOP, TEST, TRAIN, VALIDATE, Order
from adam_mp.memory.group import SCORE, SETTLE_MOMENTS, TAKE_MOMENTS, Work
from adam_mp.memory.group import TRAIN as TRAIN_WORK
from adam_mp.memory.ring import Tag
from adam_mp.memory.staleness import column
from adam_mp.training.plan.calibration import CALIBRATED, SAMPLES
from adam_mp.training.worker.lanes import Lane
from adam_mp.training.worker.member import Member
from adam_mp.training.worker.scoring import ScoringLane
from adam_mp.training.worker.spec import WorkerSpec


class _Flight(NamedTuple):
    """A batch on its way: the number of its work, what its slot holds, and how many updates the weights had then."""

    number: int
    work: Work
    tag: Tag
    read_at: int


class _InterruptedError(Exception):
    """A work cannot end: a member has died, or the run ends."""


class Leader(Member):
    """Partition 0 of a group."""

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        self._flights: list[_Flight] = []
        self._losses: dict[int, float] = {}  # of works that this member has ended and others may have not
        assert spec.pictures is not None, "the leader makes pictures to evaluate"
        self._pictures = open_pictures(spec.pictures, self.memory, self.counters)
        self._images: np.ndarray = np.zeros((spec.batch_size, *spec.network.input_shape), np.float32)
        self._labels: np.ndarray = np.zeros(spec.batch_size, np.int32)
        self._calibrated = -1  # the evaluation for which the norms have their statistics
        self._chunk: tuple[int, int] | None = None  # round and number of a chunk that is leased and not evaluated

    def obeys(self, sequence: int) -> bool:
        """Return whether nothing is on its way any more, on any member."""
        return not self.gathers and not self._flights and not self.flying

    def lead(self, order: Order) -> bool:
        """Report what all have done, then announce what the order asks for."""
        if self.gathers:
            return self._resume()
        if self._flights and self.group.ended() > self._flights[0].number:
            self._report(self._flights.pop(0))
            return True
        if order.kind == TRAIN:
            return self._announce_batch()
        if order.kind in (VALIDATE, TEST) and not self._flights:
            try:
                return self._evaluate_chunk(order.kind)
            except _InterruptedError:
                return True
        return False

    def _resume(self) -> bool:
        """Let the group go on once all members have dropped their works, and announce the batches again."""
        if self.generation != self.group.generation or not self.group.all_acknowledged(self.generation):
            return False
        if self.group.resumed_at(self.generation) is not None:
            return False
        self.group.resume(self.generation)
        self._losses.clear()
        self._flights = [each._replace(number=self.group.announce(each.work)) for each in self._flights]
        return True

    # Training.

    def _announce_batch(self) -> bool:
        """Lease the next batch of the rings, and announce it; return whether there was one, and a lane for it."""
        group = self.group
        if self.memory.board.held_up or group.announced - group.ended() >= group.shape.lanes:
            return False
        for number, ring in enumerate(self.rings):
            ahead = sum(flight.work.ring == number for flight in self._flights)
            waiting = ring.published()[ahead:]
            if not waiting:
                continue
            tag = ring.slots[waiting[0]].read_tag()
            if ahead and not (tag.images and self.memory.ledger.holds(tag.epoch, tag.batch, tag.server)):
                continue  # to be dropped, which is done once it is the oldest of its ring
            if not self.memory.ledger.lease(tag.epoch, tag.batch, tag.server, self.spec.process):
                if not ahead:
                    ring.consume()
                return not ahead
            if not tag.images:  # none of its images could be read
                self.memory.ledger.finish(tag.epoch, tag.batch, self.spec.process)
                ring.consume()
                return True
            here, ahead = self.store.read_updates(), len(self._flights)
            step, update = self.store.read_step() + ahead, here + ahead + 1
            work = Work(TRAIN_WORK, tag.images, tag.epoch, tag.batch, number, waiting[0], step, update)
            self._flights.append(_Flight(group.announce(work), work, tag, here))
            return True
        return False

    def over(self, lane: Lane | ScoringLane) -> None:
        super().over(lane)
        if isinstance(lane, Lane):
            self._losses[lane.number] = lane.loss

    def _report(self, flight: _Flight) -> None:
        """Report a batch that all members have trained, or on which the loss diverged; give its slot back."""
        tag, loss = flight.tag, self._losses.pop(flight.number)
        if not math.isfinite(loss):
            self.counters.publish("fault_step", flight.read_at)
            self.counters.publish("fault_epoch", tag.epoch + 1)
            self.counters.publish("faults", self.counters.observe("faults") + 1)
        else:
            earlier = self.store.count_update()
            if self.average is not None and not self.is_apart:
                self.average.after_update(earlier + 1)
            if self.memory.ledger.finish(tag.epoch, tag.batch, self.spec.process):
                self.counters.add("images", tag.images)
                self.counters.add_loss(loss, tag.images)
            staleness = earlier - flight.read_at
            self.counters.add("updates", 1)
            self.counters.add("staleness", staleness)
            self.memory.staleness[self.spec.process][column(staleness)] += 1
        self.rings[flight.work.ring].consume()

    def lack(self) -> int:
        """Return what it waits for; the others, too, while they have yet to end what it has ended."""
        return OTHERS if self._flights else super().lack()

    # Evaluation.

    def _evaluate_chunk(self, order: int) -> bool:
        """Evaluate a chunk of the set that the order names, and write its result; return False if none is free."""
        ledger, process = self.memory.evaluation, self.spec.process
        round_number = ledger.round
        if round_number < 0:
            return False
        if round_number != self._calibrated:
            self._calibrate(round_number)
        if self._chunk is None or self._chunk[0] != round_number:
            chunk = ledger.claim_lease(round_number, process)
            if chunk is None:
                return False
            self._chunk = round_number, chunk
        chunk, batch = self._chunk[1], self.spec.batch_size
        numbers = self.memory.arrays["validation" if order == VALIDATE else "test"]
        count = self._fill(numbers[chunk * batch : (chunk + 1) * batch])
        result = np.zeros(2)
        if count:
            scores = mean_scores(self.spec.views, self._images[:count], self.group.pictures, self._score)
            result = measure(scores, self._labels[:count])
        self.memory.results[chunk] = (*result, count)
        self._chunk = None
        ledger.finish(round_number, chunk, process)
        return True

    def _calibrate(self, round_number: int) -> None:
        """Have all members measure the statistics of their norms, if there are any, with the present weights."""
        arrays, batch = self.memory.arrays, self.spec.batch_size
        samples, images = arrays.get(SAMPLES, np.zeros(0, np.int64)), 0
        for start in range(0, len(samples), batch):
            if count := self._fill(samples[start : start + batch]):
                self.group.pictures[:count] = self._images[:count]
                self._do(Work(TAKE_MOMENTS, count))
                images += count
        if len(samples):
            self._do(Work(SETTLE_MOMENTS, 0))
            publish(arrays[CALIBRATED], 1, images)
            publish(arrays[CALIBRATED], 0, round_number)
        self._calibrated = round_number

    def _fill(self, samples: np.ndarray) -> int:
        """Make the pictures of samples; return how many could be made."""
        self._pictures.prepare(samples)
        return self._pictures.fill(samples, self._images, self._labels, None)

    def _score(self, count: int) -> np.ndarray:
        self._do(Work(SCORE, count))
        return self.scoring.scores

    def _do(self, work: Work) -> None:
        """Announce a work, and do it with the others to its end. Raises _InterruptedError if it cannot end."""
        number = self.group.announce(work)
        while self.group.ended() <= number:
            if self.gathers or self.memory.board.order().kind == STOP:
                raise _InterruptedError
            self.rest(self.advance(), training=False)
