"""Machines of a group in one process: each has a memory of its own, and a courier that the test steps."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from adam_mp.memory.board import Board
from adam_mp.memory.group import Group, GroupMemory, GroupShape
from adam_mp.memory.ring import Slot
from adam_mp.memory.segment import Segment
from adam_mp.network.spread import Interval
from adam_mp.partitions.courier import Courier, CourierSpec

RUN = 77


def empty_slot(shape: GroupShape) -> Slot:
    """A slot of the leader's ring."""
    images: np.ndarray = np.zeros((shape.batch, *shape.image), np.float32)
    return Slot(np.zeros(7, np.int64), np.zeros(1), np.zeros(shape.batch, np.int32), images)


class Mesh:
    """One machine for each partition of `shape`; `slots` are those of the leader's ring."""

    def __init__(self, shape: Callable[[int], GroupShape], folder, rows=None, slots=None):
        self.parts, first = shape(0).parts, shape(0)
        self.places = tuple(f"unix:{folder}/{part}" for part in range(self.parts))
        self.rows = rows or (Interval(0, first.image[0]),) * self.parts
        self.memories = [GroupMemory.create(shape(part), 1) for part in range(self.parts)]
        self.members = [Group.attach(memory.handle(0), part) for part, memory in enumerate(self.memories)]
        self._segments = [Segment.create("board", Board.bytes_needed(2)) for _ in range(self.parts)]
        self.boards = [Board(segment, 0, 2) for segment in self._segments]
        self.slots = slots or [empty_slot(first)]
        self.couriers: list[Courier | None] = [None] * self.parts
        for part in range(self.parts):
            self.start(part)

    def start(self, part: int) -> None:
        spec = CourierSpec(0, part, None, self.memories[part].handle(0), RUN, self.places, self.rows, None)  # type: ignore[arg-type]
        self.couriers[part] = Courier(spec, self.members[part], self.boards[part], [self.slots] if part == 0 else [])

    def stop(self, part: int) -> None:
        courier = self.couriers[part]
        assert courier is not None
        courier.close()
        self.couriers[part] = None

    def step(self) -> None:
        for courier in self.couriers:
            if courier is not None:
                courier.step()

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
            self.step()
            time.sleep(0.001)

    def gather(self) -> int:
        """Do as members and leader do until all go on in one generation; return it."""

        def goes_on() -> bool:
            leader = self.members[0]
            for member in self.members:
                member.acknowledge(member.generation)
            if leader.all_acknowledged(leader.generation) and leader.resumed_at(leader.generation) is None:
                leader.resume(leader.generation)
            return all(member.resumed_at(leader.generation) is not None for member in self.members)

        self.until(goes_on, "all go on")
        return self.members[0].generation

    def close(self) -> None:
        for part, courier in enumerate(self.couriers):
            if courier is not None:
                self.stop(part)
        self.members.clear()
        self.boards.clear()
        for memory in self.memories:
            memory.close()
        for segment in self._segments:
            segment.close()
