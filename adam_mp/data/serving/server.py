"""The data-server process: keeps the workers' rings full of augmented batches (paper, section 3.1).

It claims the next batch of the epoch, has its pictures made straight in a ring slot, and publishes it. It works ahead
of the workers by as many slots as the rings have, across the end of an epoch too: while the workers validate, the first
batches of the next epoch are made. While it makes one batch, the files of the next are read.

Where other machines make the pictures, it asks them for the batches instead, one ahead in the same way, and makes them
itself while none answers.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

import numpy as np

from adam_mp.data.augmentation import draw_key
from adam_mp.data.pictures import Pictures, PictureSpec, open_pictures
from adam_mp.memory.board import STOP
from adam_mp.memory.ring import Ring, Tag
from adam_mp.memory.run_memory import RunHandle, RunMemory
from adam_mp.memory.waiting import Pace

if TYPE_CHECKING:
    from adam_mp.data.serving.last_resort import PicturesOfServers
    from adam_mp.data.serving.remote import RemoteSource


@dataclasses.dataclass(frozen=True)
class DataServerSpec:
    """What a data server is told: its number among the processes, the run's memory, and how to make the batches.

    `remote` are the machines that make them, as long as one answers; None: this process does.
    """

    process: int
    memory: RunHandle
    batch_size: int
    seed: int
    pictures: PictureSpec
    remote: RemoteSource | None = None


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
                PicturesOfServers,  # with ZeroMQ, which runs on one machine do without
            )

            self.pictures = PicturesOfServers(spec.pictures, spec.remote, self.memory, self.counters, _tell)
        self.next: dict[int, tuple[int, int]] = {}  # worker -> (epoch, batch) that is claimed and being read

    def run(self) -> None:
        """Serve until the run stops."""
        pace = Pace()
        self.counters.publish("ready", 1)
        while self.memory.board.order().kind != STOP:
            used = self.room()
            while self.fill_rings() and self.memory.board.order().kind != STOP:
                pass
            pace.pause(used)

    def room(self) -> float:
        """Return how much of the emptiest of this server's rings is free, 0 to 1."""
        mine = [ring for ring in self.memory.rings if ring.producer == self.spec.process]
        return max((1 - ring.statistics().waiting / ring.shape.slots for ring in mine), default=0.0)

    def fill_rings(self) -> int:
        """Write one batch into each of this server's rings that has room; return how many."""
        made = 0
        epoch = self.memory.ledger.round
        if epoch < 0:
            return 0
        rings = zip(self.memory.rings, self.memory.shape.rings, strict=True)
        mine = [(ring, ends.worker) for ring, ends in rings if ring.producer == self.spec.process]
        if not mine:  # its workers are gone: others serve what it holds
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
        """Claim the next free batch, of those that are this worker's where each has its turns."""
        if self.memory.shape.in_turns:
            return self.memory.ledger.claim_of(epoch, self.spec.process, self.memory.turns.hand(worker))
        return self.memory.ledger.claim(epoch, self.spec.process)

    def take_batch(self, epoch: int, worker: int) -> int | None:
        """Return the batch to make now, and claim the one after it so that its files are read meanwhile."""
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
        self.pictures.prepare(*wanted, key=draw_key(self.spec.seed, epoch))
        return batch

    def samples(self, batch: int) -> np.ndarray:
        """Return the sample numbers of a batch of the open epoch."""
        return self.memory.order[batch * self.spec.batch_size : (batch + 1) * self.spec.batch_size]

    def write_batch(self, ring: Ring, epoch: int, batch: int) -> None:
        """Make the pictures of batch number `batch` of `epoch` in the ring's next slot, and publish it."""
        slot = ring.reserve()
        assert slot is not None, "a reserved slot stays free until it is published"
        count = self.pictures.fill(self.samples(batch), slot.images, slot.labels, draw_key(self.spec.seed, epoch))
        slot.write_tag(Tag(epoch, batch, count, self.spec.process))
        # A run that goes back to an earlier epoch takes all batches first, and then changes the order of samples. The
        # round comes again, so these pictures might be taken for those of a batch that this server holds then.
        if self.memory.ledger.holds(epoch, batch, self.spec.process):
            ring.publish()
        self.counters.add("augmented", count)
        self.counters.add("heartbeat", 1)


def _tell(text: str) -> None:
    """Leave a line for the supervisor, which reads it when a word on the board has changed."""
    print(text, file=sys.stderr, flush=True)


def serve(spec: DataServerSpec) -> None:
    """Run a data server in this process."""
    DataServer(spec).run()
