"""A partition's exchange with parameter servers: the memory of its synchronizer, and what its supervisor tells that.

Each machine exchanges what its partition updates: its block of the weights, and its slice of the tensors that all
partitions have in full. To the parameter servers, all machines of a group are one replica, with one identity. The
leader alone speaks to the coordinator; it tells the others the bucket map, and each round that has begun there.
"""

from __future__ import annotations

from pathlib import Path

from adam_mp.memory.exchange import ExchangeMemory
from adam_mp.memory.run_memory import RunHandle
from adam_mp.memory.store import StoreHandle
from adam_mp.params.replica.synchronizer import SynchronizerSpec, note_map
from adam_mp.partitions.statements import Exchanged, ToExchange
from adam_mp.training.crew.crew import Helper, synchronizer_of
from adam_mp.training.group.task import PartTask
from adam_mp.transport.keys import Keys


class PartExchange:
    """The memory of a partition's exchange, in `folder` if it is given; the supervisor of the partition owns it.

    Raises SpaceError if there is no room.
    """

    def __init__(self, task: PartTask, told: ToExchange, folder: str | Path | None) -> None:
        self._task, self._told = task, told
        held = task.storage.held(task.part, len(told.map.servers))
        place = None if folder is None else Path(folder)
        self._words = ExchangeMemory.create(held, place, told.map.has_replicas_keep)
        note_map(self._words, told.map)

    @property
    def descriptors(self) -> list[int]:
        """The open files that the synchronizer inherits."""
        return self._words.descriptors

    def synchronizer(self, process: int, memory: RunHandle, store: StoreHandle, keys: Keys | None) -> Helper:
        """Return the synchronizer, which has row `process` of the board in `memory`."""
        task, told = self._task, self._told
        assert task.exchange is not None, "the run has parameter servers"
        return synchronizer_of(
            SynchronizerSpec(
                process=process, memory=memory, store=store, exchange=self._words.handle, keys=keys, run=told.run,
                identity=told.identity, batch_size=task.settings.batch_size, images=0, wire=task.exchange.wire,
                factors=None, outboxes=(), patience=task.exchange.patience, follows=True,
            )
        )  # fmt: skip

    def follow(self, told: ToExchange) -> None:
        """Tell the synchronizer a newer map, and the last round that has begun on the leader's machine."""
        if told.map != self._told.map:
            note_map(self._words, told.map)
        if told.round > self._words.read("wanted"):
            self._words.note("wanted", told.round)
        self._told = told

    @property
    def exchanged(self) -> Exchanged:
        """What this machine has exchanged."""
        now = self._words.statistics()
        return Exchanged(
            now.round_done, now.rounds, now.sequence, now.pushed_bytes, now.pulled_bytes, now.resent,
            tuple(self._words.silences.tolist()),
        )  # fmt: skip

    def close(self) -> None:
        """Free the memory."""
        self._words.close()


def exchange_bytes(task: PartTask) -> int:
    """Return the bytes that the memory takes at least: with parameter servers that copy each other, half as much more.

    How many servers there are, and whether they copy, is known when the leader has joined their run.
    """
    return ExchangeMemory.bytes_needed(task.storage.held(task.part, 1))
