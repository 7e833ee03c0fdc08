"""Finding a worker's next batch in its rings: the oldest there, or the one whose turn it is.

Data servers claim a worker's batches in the order of its turns, so the next one is usually the oldest of a ring. After
a death it may be anywhere: the supervisor frees the batches of the dead process, and any data server with room claims
them again, behind later batches. Then the worker gives those later batches back, to get at the one it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from adam_mp.memory.ledger import Ledger
from adam_mp.memory.ring import NO_PRODUCER, Ring, Tag


class WaitingBatch(NamedTuple):
    """A batch that waits for its worker: the oldest in `ring`, which is number `ring_number` of the worker's rings.

    `slot` is the index of its slot in the ring, `tag` what the slot holds. `ring.consume()` gives the slot back.
    """

    ring_number: int
    ring: Ring
    slot: int
    tag: Tag


def find_oldest(rings: Sequence[Ring]) -> WaitingBatch | None:
    """Return the oldest batch of the first ring that has one; None if all rings are empty."""
    for number, ring in enumerate(rings):
        index = ring.peek()
        if index is not None:
            return WaitingBatch(number, ring, index, ring.slots[index].read_tag())
    return None


def find_wanted(rings: Sequence[Ring], ledger: Ledger, epoch: int, wanted: int) -> WaitingBatch | None:
    """Return batch `wanted` of the epoch, as the oldest of its ring; None if no ring has it yet.

    Batches that were freed meanwhile are dropped from the rings. Batches before the wanted one are given back to the
    ledger; a data server will make them again.
    """
    for ring in rings:
        _drop_taken_back(ring, ledger)
    for number, ring in enumerate(rings):
        for index in ring.published():
            tag = ring.slots[index].read_tag()
            if (tag.epoch, tag.batch) == (epoch, wanted) and ledger.holds(epoch, wanted, tag.server):
                while ring.peek() != index:
                    _give_back_oldest(ring, ledger)
                return WaitingBatch(number, ring, index, tag)
    _make_room(rings, ledger, epoch, wanted)
    return None


def _drop_taken_back(ring: Ring, ledger: Ledger) -> None:
    """Drop the oldest slots of a ring that their data server does not hold any more."""
    while (index := ring.peek()) is not None:
        tag = ring.slots[index].read_tag()
        if ledger.holds(tag.epoch, tag.batch, tag.server):
            return
        ring.consume()


def _make_room(rings: Sequence[Ring], ledger: Ledger, epoch: int, wanted: int) -> None:
    """Give back the oldest batch of a ring, if no data server that can make the wanted batch has a free slot for it."""
    server = ledger.held_by(epoch, wanted)  # a data server may have claimed it already, and wait for a free slot
    if server is None and not ledger.is_free(epoch, wanted):
        return
    served = [ring for ring in rings if ring.producer != NO_PRODUCER and server in (None, ring.producer)]
    if served and all(ring.full for ring in served):
        _give_back_oldest(served[0], ledger)


def _give_back_oldest(ring: Ring, ledger: Ledger) -> None:
    index = ring.peek()
    assert index is not None, "the ring is not empty"
    tag = ring.slots[index].read_tag()
    ledger.give_back(tag.epoch, tag.batch, tag.server)
    ring.consume()
