"""Finding the batch whose turn it is in a worker's rings, and having it come where it is not.

Data servers claim a worker's batches in the order of its turns, so that the next one is the oldest of a ring. After a
death it may stand anywhere: what the dead one had is claimed again by whoever has room, behind later batches.
"""

from __future__ import annotations

from collections.abc import Sequence

from adam_mp.memory.ledger import Ledger
from adam_mp.memory.ring import NO_PRODUCER, Ring


def find_wanted(rings: Sequence[Ring], ledger: Ledger, epoch: int, wanted: int) -> tuple[int, Ring, int] | None:
    """Return (number, ring, index) of the slot with batch `wanted`, made the oldest of its ring; None: not there yet.

    What was taken back meanwhile is dropped. What stands in the way of the wanted batch is given back to the ledger, to
    be made again.
    """
    for ring in rings:
        _drop_taken_back(ring, ledger)
    for number, ring in enumerate(rings):
        for index in ring.published():
            found, batch, _, server = ring.slots[index].tag[:4].tolist()
            if (found, batch) == (epoch, wanted) and ledger.holds(epoch, wanted, server):
                while ring.peek() != index:
                    _give_back_oldest(ring, ledger)
                return number, ring, index
    _make_room(rings, ledger, epoch, wanted)
    return None


def _drop_taken_back(ring: Ring, ledger: Ledger) -> None:
    """Drop the oldest slots of a ring that their data server does not hold any more."""
    while (index := ring.peek()) is not None:
        found, batch, _, server = ring.slots[index].tag[:4].tolist()
        if ledger.holds(found, batch, server):
            return
        ring.consume()


def _make_room(rings: Sequence[Ring], ledger: Ledger, epoch: int, wanted: int) -> None:
    """Give back the oldest slot of a ring, if nobody who might bring the wanted batch has room for it."""
    server = ledger.held_by(epoch, wanted)  # read ahead, for when there is room
    if server is None and not ledger.is_free(epoch, wanted):
        return
    served = [ring for ring in rings if ring.producer != NO_PRODUCER and server in (None, ring.producer)]
    if served and all(ring.full for ring in served):
        _give_back_oldest(served[0], ledger)


def _give_back_oldest(ring: Ring, ledger: Ledger) -> None:
    index = ring.peek()
    assert index is not None, "the ring is not empty"
    found, batch, _, server = ring.slots[index].tag[:4].tolist()
    ledger.give_back(found, batch, server)
    ring.consume()
