"""The segment "run" of a run: board, ledgers, turns, rings, and the data set's arrays.

The supervisor plans it (`RunShape`), creates it and copies the data set into it; children attach with the handle.
Weights, cache, synchronous steps and the exchange have segments of their own.
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
    """The process numbers of the worker and, at the start, of the data server at the two ends of a ring.

    `Ring.producer` says which data server fills the ring now: the supervisor may give it to another one.
    """

    server: int
    worker: int


@dataclasses.dataclass(frozen=True)
class RunShape:
    """The sizes of a run's memory.

    `batches` are the training batches of an epoch, at most; `chunks` the chunks of an evaluation, at most; `samples`
    the training samples of an epoch; `arrays` the data set's arrays, name -> (dtype, shape). Processes are numbered:
    workers first, then data servers, then helpers: synchronizer, courier.
    """

    workers: int
    data_servers: int
    batches: int
    chunks: int
    samples: int
    ring: RingShape
    arrays: Mapping[str, Field]
    helpers: int = 0
    in_turns: bool = False  # each batch is dealt to one worker (`turns`)
    parts: int = 1  # workers that train each batch together; the first of them takes it

    @property
    def processes(self) -> int:
        """How many processes have a row on the board."""
        return self.workers + self.data_servers + self.helpers

    @property
    def rings(self) -> list[RingEnds]:
        """The ends of each ring; each worker that takes batches and each data server has at least one ring."""
        if not self.data_servers:
            return []
        takers = range(0, self.workers, self.parts)
        count = max(len(takers), self.data_servers)
        return [RingEnds(self.workers + i % self.data_servers, takers[i % len(takers)]) for i in range(count)]

    @property
    def sizes(self) -> dict[str, int]:
        """Name -> bytes of each part, in their order in the segment."""
        return {
            "board": Board.bytes_needed(self.processes),
            "ledger": Ledger.bytes_needed(self.batches),
            "evaluation": Ledger.bytes_needed(self.chunks),
            "results": 24 * self.chunks,
            "sample_order": 8 * self.samples,
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
    """Views of the parts of a run's memory; each part's class says which process may do what with it.

    `ledger` leases training batches, `evaluation` the chunks of an evaluation. `results` float64 [chunks, 3] holds each
    chunk's sum of losses, number of images classified correctly, and number of images. `sample_order` int64 [samples]
    is the epoch's order of samples. `turns` says which worker trains which batch, if the shape is `in_turns`.
    `staleness` int64 [workers, COLUMNS] is each worker's histogram since the start. `arrays` is the data set.
    """

    def __init__(self, segment: Segment, shape: RunShape) -> None:
        self.segment, self.shape = segment, shape
        offsets, _ = shape.offsets()
        self.board = Board(segment, offsets["board"], shape.processes)
        self.ledger = Ledger(segment, offsets["ledger"], shape.batches)
        self.evaluation = Ledger(segment, offsets["evaluation"], shape.chunks)
        self.results = segment.array(np.float64, (shape.chunks, 3), offsets["results"])
        self.sample_order = segment.array(np.int64, (shape.samples,), offsets["sample_order"])
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
        """What to send to a child, which must also inherit the segment's descriptor."""
        return RunHandle(self.segment.handle, self.shape)

    def rings_of(self, worker: int) -> list[Ring]:
        """Return the rings that `worker` consumes."""
        return [ring for ring, ends in zip(self.rings, self.shape.rings, strict=True) if ends.worker == worker]

    def close(self) -> None:
        """Give up this process's mapping."""
        del self.board, self.ledger, self.evaluation, self.results, self.sample_order, self.turns, self.staleness
        del self.rings, self.arrays
        self.segment.close()
