"""A server's answers about shards: each is owed until the transport takes it.

The server applies an update at once. The answer may have to wait: for one of the buffers that hold weights on their
way, or for room in the transport's queue to the peer. An owed answer has no payload; the weights are copied when they
leave, so a peer gets the newest. Peers take turns, one answer each.

What a slow peer can hold is bounded. It is owed one answer for each shard, and has at most `WINDOW` buffers. A peer
that has none always gets one, even when all others are in use, so that peers whose answers do not leave cannot starve
it. A replica asks again each second, so an owed answer that nobody asks for any more is forgotten: the replica is gone.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping

import numpy as np

from adam_mp.params.server.buffers import WINDOW, BufferPool
from adam_mp.params.server.shard_table import ShardTable
from adam_mp.transport.endpoint import Endpoint, Peer, Sent
from adam_mp.transport.messages import Kind, Message

BUFFERS = 24  # that all peers share
_FORGOTTEN = 5.0  # seconds after which an answer that is not asked for again is owed no more
_TIDYING = 0.5  # seconds between looks for what is forgotten
_Key = tuple[bool, int]  # whether the question had activations; the matrix that they are of, or else the shard


@dataclasses.dataclass
class _Owed:
    """An answer to the question `sequence`, which came at `asked`: UNCHANGED at `version`, or weights if it is None."""

    sequence: int
    version: int | None
    asked: float


@dataclasses.dataclass(frozen=True)
class _Leaving:
    """Weights that the transport has: which question they answer, and whether they have left."""

    key: _Key
    sequence: int
    sent: Sent


class Answers:
    """What a server owes its peers about the shards of `table`. One thread may use it."""

    def __init__(self, endpoint: Endpoint, table: ShardTable) -> None:
        self._endpoint, self._table = endpoint, table
        self._pool = BufferPool(BUFFERS, max((4 * entry.shard.size for entry in table.entries.values()), default=64))
        self._owed: dict[Peer, dict[_Key, _Owed]] = {}  # in the order in which peers have their turn
        self._leaving: dict[Peer, list[_Leaving]] = {}
        self._tidied = 0.0

    def owe(self, peer: Peer, question: Message, version: int | None, now: float) -> None:
        """Note what a question is to be answered with: UNCHANGED at `version`, or the newest weights if that is None.

        A question that came again changes nothing while its answer is owed or on its way.
        """
        key = (question.kind == Kind.FACTORS, question.shard)
        owed = self._owed.get(peer, {}).get(key)
        leaving = (each for each in self._leaving.get(peer, []) if each.key == key and not each.sent.done)
        if any(each.sequence >= question.sequence for each in leaving):
            return
        if owed is not None and owed.sequence >= question.sequence:
            owed.asked = now
            return
        self._owed.setdefault(peer, {})[key] = _Owed(question.sequence, version, now)

    def settle(self, header: Mapping[str, int]) -> None:
        """Send what can leave now; `header` has the fields that all answers have."""
        turns = deque(self._owed)
        while turns:
            peer = turns.popleft()
            its = self._owed[peer]
            key = next(iter(its))
            if not self._send(peer, key, its[key], header):
                continue
            del its[key], self._owed[peer]
            if its:  # behind the others, now and the next time
                self._owed[peer] = its
                turns.append(peer)

    def tidy(self, now: float) -> int:
        """Forget what nobody asks for any more, and what has left; return how many answers were forgotten."""
        if now - self._tidied < _TIDYING:
            return 0
        self._tidied = now
        before = self.count
        for peer, its in list(self._owed.items()):
            self._owed[peer] = {key: owed for key, owed in its.items() if now - owed.asked < _FORGOTTEN}
            if not self._owed[peer]:
                del self._owed[peer]
        for peer, leaving in list(self._leaving.items()):
            self._leaving[peer] = _not_done(leaving)
            if not self._leaving[peer]:
                del self._leaving[peer]
        return before - self.count

    @property
    def count(self) -> int:
        """How many answers are owed."""
        return sum(map(len, self._owed.values()))

    def _send(self, peer: Peer, key: _Key, owed: _Owed, header: Mapping[str, int]) -> bool:
        """Hand an answer to the transport; tell whether it left our hands."""
        echo = {**header, "shard": key[1], "sequence": owed.sequence}
        if owed.version is not None:
            return self._endpoint.send(peer, Message(Kind.UNCHANGED, version=owed.version, **echo)) is not None
        leaving = self._leaving[peer] = _not_done(self._leaving.get(peer, []))
        buffer = self._pool.take(spare=not leaving) if len(leaving) < WINDOW else None
        if buffer is None:
            return False
        entry = self._table.entries[key[1]]
        payload = buffer[: 4 * entry.shard.size]
        payload.view(np.float32)[...] = entry.weights
        sent = self._endpoint.send(peer, Message(Kind.FRESH, payload, version=entry.version, **echo))
        self._pool.give_back(buffer, sent)
        if sent is None:
            return False
        leaving.append(_Leaving(key, owed.sequence, sent))
        return True


def _not_done(leaving: list[_Leaving]) -> list[_Leaving]:
    return [each for each in leaving if not each.sent.done]
