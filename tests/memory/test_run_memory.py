from __future__ import annotations

import dataclasses
import os

import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from adam_mp.memory.ring import RingShape
from adam_mp.memory.run_memory import RunHandle, RunMemory, RunShape
from adam_mp.memory.segment import SegmentHandle


def shape(workers, servers):
    arrays = {"images": ("|u1", (5, 3, 3, 1)), "labels": ("<i4", (5,)), "none": ("<i8", (0,))}
    return RunShape(workers, servers, 7, 2, 13, RingShape(2, 2, (3, 3, 1)), arrays)


@given(st.integers(1, 9), st.integers(0, 9))
def test_every_worker_is_fed_and_every_data_server_feeds(workers, servers):
    rings = shape(workers, servers).rings
    if not servers:
        assert rings == []
        return
    assert {worker for _, worker in rings} == set(range(workers))
    assert {server for server, _ in rings} == set(range(workers, workers + servers))
    assert len(set(rings)) == len(rings)


@given(st.integers(1, 3), st.integers(1, 3))
@hypothesis_settings(max_examples=10)
def test_parts_do_not_overlap_and_attaching_sees_them(workers, servers):
    memory = RunMemory.create(shape(workers, servers))
    handle = memory.handle
    other = RunMemory.attach(
        RunHandle(SegmentHandle(os.dup(handle.segment.descriptor), handle.segment.size), handle.shape)
    )
    memory.ledger.open(4, np.zeros(7, np.uint8))
    memory.evaluation.open(9, np.zeros(2, np.uint8))
    memory.results[:] = 1.5
    memory.sample_order[:] = range(13)
    for number, ring in enumerate(memory.rings):
        for slot in ring.slots:
            for field in dataclasses.fields(slot):
                getattr(slot, field.name)[...] = number
    for array in memory.arrays.values():
        array[...] = 3
    for row in memory.board.counters:
        row.add("images", 11)
    assert other.ledger.round == 4
    assert other.evaluation.round == 9
    assert other.ledger.statistics().free == 7
    assert (other.results == 1.5).all()
    assert other.sample_order.tolist() == list(range(13))
    for number, (ring, (server, worker)) in enumerate(zip(other.rings, other.shape.rings, strict=True)):
        assert ring.producer == server
        assert ring.statistics().published == 0
        assert all((slot.images == number).all() and (slot.words == number).all() for slot in ring.slots)
        assert any(ring is mine for mine in other.rings_of(worker))
    assert all((array == 3).all() for array in other.arrays.values())
    assert [row.read().images for row in other.board.counters] == [11] * (workers + servers)
    other.close()
    memory.close()
