"""The data-server process: keeps the workers' rings full of augmented batches (paper, section 3.1).

It claims the next batch of the epoch, warps its images straight from the shared data set into a ring slot, and
publishes it. It works ahead of the workers by as many slots as the rings have, across the end of an epoch too: while
the workers validate, the first batches of the next epoch are made.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from adam_mp.data.augmentation import Augmentation, draw_key
from adam_mp.data.dataset import Normalization
from adam_mp.kernels.warp import warp_batch
from adam_mp.memory.board import STOP
from adam_mp.memory.ring import Ring
from adam_mp.memory.run_memory import RunHandle, RunMemory
from adam_mp.memory.waiting import Pace


@dataclasses.dataclass(frozen=True)
class DataServerSpec:
    """What a data server is told: its number among the processes, the run's memory, and how to make the batches."""

    process: int
    memory: RunHandle
    batch_size: int
    seed: int
    augmentation: Augmentation
    normalization: Normalization


class DataServer:
    """The loop of one data server; ends when the board says STOP."""

    def __init__(self, spec: DataServerSpec) -> None:
        self.spec = spec
        self.memory = RunMemory.attach(spec.memory)
        self.images, self.labels = self.memory.arrays["train_images"], self.memory.arrays["train_labels"]
        self.counters = self.memory.board.counters[spec.process]
        self.ranges = spec.augmentation.ranges
        self.mean = np.array(spec.normalization.mean, np.float32)
        self.deviation = np.array(spec.normalization.deviation, np.float32)
        self.fill = np.float32(spec.normalization.fill)

    def run(self) -> None:
        """Serve until the run stops."""
        pace = Pace()
        self.counters.publish("ready", 1)
        while self.memory.board.order()[1] != STOP:
            used = self.room()
            while self.fill_rings() and self.memory.board.order()[1] != STOP:
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
        for ring in self.memory.rings:
            if ring.producer == self.spec.process and ring.reserve() is not None:
                batch = self.memory.ledger.claim(epoch, self.spec.process)
                if batch is None:
                    break
                self.write_batch(ring, epoch, batch)
                made += 1
        return made

    def write_batch(self, ring: Ring, epoch: int, batch: int) -> None:
        """Augment and normalise batch number `batch` of `epoch` into the ring's next slot, and publish it."""
        slot = ring.reserve()
        assert slot is not None, "a reserved slot stays free until it is published"
        samples = self.memory.order[batch * self.spec.batch_size : (batch + 1) * self.spec.batch_size]
        count = len(samples)
        key = np.uint64(draw_key(self.spec.seed, epoch))
        warp_batch(
            self.images, samples, slot.images[:count], self.ranges, key, self.mean, self.deviation, self.fill
        )  # fmt: skip
        slot.labels[:count] = self.labels[samples]
        slot.tag[:4] = epoch, batch, count, self.spec.process
        ring.publish()
        self.counters.add("augmented", count)
        self.counters.add("heartbeat", 1)


def serve(spec: DataServerSpec) -> None:
    """Run a data server in this process."""
    DataServer(spec).run()
