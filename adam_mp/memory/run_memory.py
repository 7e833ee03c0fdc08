"""All shared memory of a run but its weights: board, ledgers, rings, and the images, in one segment.

The supervisor plans it (`RunShape`), creates it and fills in the images; children attach with the handle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from adam_mp.memory.board import Board
from adam_mp.memory.ledger import Ledger
from adam_mp.memory.ring import Ring, RingShape
from adam_mp.memory.segment import Segment, SegmentHandle
from adam_mp.memory.staleness import COLUMNS
from adam_mp.memory.turns import Turns

Field = tuple[str, tuple[int, ...]]  # dtype and shape of an array


class RingEnds(NamedTuple):
    """The processes at the two ends of a ring; in place of a server that is lost, another fills it."""

    server: int
    worker: int


@dataclasses.dataclass(frozen=True)
class RunShape:
    """The sizes of a run's shared memory.

    `batches` training batches an epoch at most, `chunks` evaluation chunks at most, `samples` training samples an
    epoch, `arrays` name -> (dtype, shape) of the data set's arrays. Processes are numbered: workers, then data servers,
    then the synchronizer where there is one.
    """

    workers: int
    data_servers: int
    batches: int
    chunks: int
    samples: int
    ring: RingShape
    arrays: Mapping[str, Field]
    synchronizers: int = 0
    in_turns: bool = False  # each batch is a certain worker's

    @property
    def processes(self) -> int:
        """How many processes have a row on the board."""
        return self.workers + self.data_servers + self.synchronizers

    @property
    def rings(self) -> list[RingEnds]:
        """The ends of each ring: each worker has at least one, each data server too."""
        if not self.data_servers:
            return []
        count = max(self.workers, self.data_servers)
        return [RingEnds(self.workers + i % self.data_servers, i % self.workers) for i in range(count)]

    @property
    def sizes(self) -> dict[str, int]:
        """The bytes of each part, in their order."""
        return {
            "board": Board.bytes_needed(self.processes),
            "ledger": Ledger.bytes_needed(self.batches),
            "evaluation": Ledger.bytes_needed(self.chunks),
            "results": 24 * self.chunks,
            "order": 8 * self.samples,
            "turns": Turns.bytes_needed(self.batches if self.in_turns else 0),
            "staleness": 8 * COLUMNS * self.workers,
            **{f"ring{index}": self.ring.bytes for index in range(len(self.rings))},
            **{name: np.dtype(dtype).itemsize * int(np.prod(shape)) for name, (dtype, shape) in self.arrays.items()},
        }

    def offsets(self) -> tuple[dict[str, int], int]:
        """Return where each part begins, in bytes, and the size of the whole."""
        offsets, position = {}, 0
        for name, size in self.sizes.items():
            offsets[name] = position
            position += -(-size // 64) * 64
        return offsets, position


@dataclasses.dataclass(frozen=True)
class RunHandle:
    """What a child needs to attach to a run's memory."""

    segment: SegmentHandle
    shape: RunShape


class RunMemory:
    """The parts of a run's shared memory as views; who may do what with each stands in its own class.

    `ledger` leases training batches, `evaluation` chunks of an evaluation, `results` [chunks, 3] holds each chunk's sum
    of losses, number right and number of images, `order` [samples] the epoch's order of samples, `turns` whose each
    batch is where the shape says so, `staleness` each worker's histogram since the start, `arrays` the data set.
    """

    def __init__(self, segment: Segment, shape: RunShape) -> None:
        self.segment, self.shape = segment, shape
        offsets, _ = shape.offsets()
        self.board = Board(segment, offsets["board"], shape.processes)
        self.ledger = Ledger(segment, offsets["ledger"], shape.batches)
        self.evaluation = Ledger(segment, offsets["evaluation"], shape.chunks)
        self.results = segment.array(np.float64, (shape.chunks, 3), offsets["results"])
        self.order = segment.array(np.int64, (shape.samples,), offsets["order"])
        self.turns = Turns(segment, offsets["turns"], shape.batches if shape.in_turns else 0, shape.workers)
        self.staleness = segment.array(np.int64, (shape.workers, COLUMNS), offsets["staleness"])
        self.rings = [Ring(segment, offsets[f"ring{index}"], shape.ring) for index in range(len(shape.rings))]
        self.arrays = {
            name: segment.array(np.dtype(dtype), size, offsets[name]) for name, (dtype, size) in shape.arrays.items()
        }

    @classmethod
    def create(cls, shape: RunShape, folder: Path | None = None) -> RunMemory:
        """Make the memory; the calling process owns it. Raises SpaceError if there is no room."""
        memory = cls(Segment.create("run", shape.offsets()[1], folder), shape)
        for ring, ends in zip(memory.rings, shape.rings, strict=True):
            ring.producer = ends.server
        memory.ledger.open(-1, np.zeros(0, np.uint8))
        memory.evaluation.open(-1, np.zeros(0, np.uint8))
        return memory

    @classmethod
    def attach(cls, handle: RunHandle) -> RunMemory:
        """Map the memory that the supervisor made."""
        return cls(Segment.attach(handle.segment), handle.shape)

    @property
    def handle(self) -> RunHandle:
        """What to send to a child, together with the descriptor."""
        return RunHandle(self.segment.handle, self.shape)

    def rings_of(self, worker: int) -> list[Ring]:
        """Return the rings that `worker` consumes."""
        return [ring for ring, ends in zip(self.rings, self.shape.rings, strict=True) if ends.worker == worker]

    def close(self) -> None:
        """Give up this process's mapping."""
        del self.board, self.ledger, self.evaluation, self.results, self.order, self.turns, self.staleness
        del self.rings, self.arrays
        self.segment.close()
