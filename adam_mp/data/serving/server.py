"""The data server: a process that keeps the rings of workers full of batches (paper, section 3.1).

It claims the next batch of the epoch in the ledger, makes the batch's pictures directly in a ring slot, mixes them
there if the run has mixup or CutMix (`data.mixing`), and publishes the slot. It works ahead of the workers by as many
slots as the rings have. The next epoch is opened while the workers still validate, so its first batches are ready when
they are done. While a data server makes one batch, its threads read the files of the next.

If other machines shall make the pictures (--data-from), the data server asks them for batches instead, also one ahead,
and makes batches itself while none of them answers.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import numpy as np

from adam_mp.data.augmentation import picture_key
from adam_mp.data.mixing import Mixing
from adam_mp.data.pictures import Pictures, PictureSpec, open_pictures
from adam_mp.memory.board import STOP
from adam_mp.memory.ring import Ring, Tag
from adam_mp.memory.run_memory import RunHandle, RunMemory
from adam_mp.memory.waiting import Pace
from adam_mp.process.output import standard_error

if TYPE_CHECKING:
    from adam_mp.data.serving.last_resort import PicturesOfServers
    from adam_mp.data.serving.remote import RemoteSource


@dataclasses.dataclass(frozen=True)
class DataServerSpec:
    """What a data server is told: its process number, the run's memory, and how to make batches.

    `remote` names the data servers on other machines that make the pictures while one answers; None: there are none.
    `mixing` is how each batch is mixed then.
    """

    process: int
    memory: RunHandle
    batch_size: int
    seed: int
    pictures: PictureSpec
    remote: RemoteSource | None = None
    mixing: Mixing = Mixing()


class DataServer:
    """The loop of one data server; ends when the board says STOP."""

    def __init__(self, spec: DataServerSpec) -> None:
        self.spec = spec
        self.memory = RunMemory.attach(spec.memory)
        self.counters = self.memory.board.counters[spec.process]
        self.pictures: Pictures | PicturesOfServers
        if spec.remote is None:
            self.pictures = open_pictures(spec.pictures, self.memory, self.counters)
        else:
            from adam_mp.data.serving.last_resort import (
                PicturesOfServers,  # imported here: it brings ZeroMQ, which a run on one machine does not need
            )

            self.pictures = PicturesOfServers(spec.pictures, spec.remote, self.memory, self.counters, _tell)
        # Worker (always 0, unless batches are dealt in turns) -> (epoch, batch) that is claimed and read ahead.
        self.next: dict[int, tuple[int, int]] = {}

    def run(self) -> None:
        """Serve until the run stops."""
        pace = Pace()
        self.counters.publish("ready", 1)
        while self.memory.board.order().kind != STOP:
            free = self.room()  # before the rings are filled: what workers have used up since the last filling
            while self.fill_rings() and self.memory.board.order().kind != STOP:
                pass
            pace.pause(free)

    def room(self) -> float:
        """Return which share of the slots is free in the emptiest ring of this data server, 0 to 1."""
        mine = [ring for ring in self.memory.rings if ring.producer == self.spec.process]
        return max((1 - ring.statistics().waiting / ring.shape.slots for ring in mine), default=0.0)

    def fill_rings(self) -> int:
        """Write one batch into each ring of this data server that has a free slot; return how many batches."""
        made = 0
        epoch = self.memory.ledger.round
        if epoch < 0:
            return 0
        rings = zip(self.memory.rings, self.memory.shape.rings, strict=True)
        mine = [(ring, ends.worker) for ring, ends in rings if ring.producer == self.spec.process]
        if not mine:  # its workers are gone, so it has no ring to fill: free its batches for other data servers
            for held in self.next.values():
                self.memory.ledger.give_back(*held, self.spec.process)
            self.next = {}
        for ring, worker in mine:
            if ring.reserve() is not None:
                batch = self.take_batch(epoch, worker)
                if batch is not None:
                    self.write_batch(ring, epoch, batch)
                    made += 1
        return made

    def claim(self, epoch: int, worker: int) -> int | None:
        """Claim the next free batch; where batches are dealt in turns, the next of `worker`. None if none is free."""
        if self.memory.shape.in_turns:
            return self.memory.ledger.claim_of(epoch, self.spec.process, self.memory.turns.hand(worker))
        return self.memory.ledger.claim(epoch, self.spec.process)

    def take_batch(self, epoch: int, worker: int) -> int | None:
        """Return the batch to make now for `worker`, None if there is none; have the one after it read ahead."""
        if not self.pictures.reads_ahead:
            return self.claim(epoch, worker)
        place = worker if self.memory.shape.in_turns else 0
        held, batch = self.next.pop(place, (-1, 0))
        if held != epoch:
            first = self.claim(epoch, worker)
            if first is None:
                return None
            batch = first
        following = self.claim(epoch, worker)
        wanted = [self.samples(batch)]
        if following is not None:
            self.next[place] = (epoch, following)
            wanted.append(self.samples(following))
        self.pictures.prepare(*wanted, key=picture_key(self.spec.seed, epoch))
        return batch

    def samples(self, batch: int) -> np.ndarray:
        """Return the sample numbers of a batch of the open epoch."""
        return self.memory.sample_order[batch * self.spec.batch_size : (batch + 1) * self.spec.batch_size]

    def write_batch(self, ring: Ring, epoch: int, batch: int) -> None:
        """Make the pictures of batch number `batch` of `epoch` in the ring's next slot, mix and publish them."""
        slot = ring.reserve()
        assert slot is not None, "a reserved slot stays free until it is published"
        count = self.pictures.fill(self.samples(batch), slot.images, slot.labels, picture_key(self.spec.seed, epoch))
        slot.mixed[0] = self.mix(slot.images[:count], epoch, batch)
        slot.write_tag(Tag(epoch, batch, count, self.spec.process))
        # A run that goes back to its last good state skips all batches first, and then changes the order of samples.
        # It opens the same round again. A slot with the old pictures, published now, would be taken for the new batch
        # of that number, once this data server has claimed that one.
        if self.memory.ledger.holds(epoch, batch, self.spec.process):
            ring.publish()
        self.counters.add("augmented", count)
        self.counters.add("heartbeat", 1)

    def mix(self, images: np.ndarray, epoch: int, batch: int) -> float:
        """Mix the pictures of a batch in place; return the share that each has of its partner's (`data.mixing`)."""
        began = time.perf_counter_ns()
        mixed = self.spec.mixing.mix(images, self.spec.seed, epoch, batch)
        if self.spec.mixing and self.spec.remote is None:  # else the pictures' own time is counted elsewhere
            self.counters.add("augment_ns", time.perf_counter_ns() - began)
        return mixed


def _tell(text: str) -> None:
    """Print a line for the supervisor, which reads this process's output when `made_by` on the board changes."""
    standard_error().say(text)


def serve(spec: DataServerSpec) -> None:
    """Run a data server in this process."""
    DataServer(spec).run()
