"""A parameter server's answers about shards: the server owes each answer until the transport takes it.

The server applies an update at once. The answer may have to wait for a free buffer that holds the weights on their way,
or for room in the transport's queue to the peer. An owed answer has no payload: the server copies the weights when it
hands the answer to the transport, so a peer gets the newest weights. Peers take turns, one answer each.

A slow peer can hold a bounded amount of memory: the server owes it one answer a shard at most, and it has `WINDOW`
buffers at most. A peer without a buffer always gets one, even if all are in use: so slow peers cannot starve others.

A replica repeats an unanswered request each second. If it has not for `_FORGOTTEN` seconds, the replica is gone, and
the server forgets the answer.
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

BUFFERS = 24  # shared by all peers
_FORGOTTEN = 5.0  # seconds after the last request for an answer until the server forgets it
_TIDYING = 0.5  # seconds between two searches for answers to forget
_Key = tuple[bool, int, int]  # (True, matrix, group) for a request with activations, else (False, shard, 0)


@dataclasses.dataclass
class _Owed:
    """The answer to request `sequence`, last received at `asked`: UNCHANGED with `version`, or, if None, weights.

    It is under the map epoch of the request.
    """

    sequence: int
    map_epoch: int
    version: int | None
    asked: float


@dataclasses.dataclass(frozen=True)
class _Leaving:
    """Weights that the transport has taken: the request that they answer, and whether they have left (`sent.done`)."""

    key: _Key
    sequence: int
    map_epoch: int
    sent: Sent


class Answers:
    """The answers that a server owes its peers about the shards of `table`. One thread may use it."""

    def __init__(self, endpoint: Endpoint, table: ShardTable, largest: int) -> None:
        """Make a pool of buffers for shards of at most `largest` bytes."""
        self._endpoint, self._table = endpoint, table
        self._pool = BufferPool(BUFFERS, largest)
        self._owed: dict[Peer, dict[_Key, _Owed]] = {}  # the peer whose turn it is stands first
        self._leaving: dict[Peer, list[_Leaving]] = {}
        self._tidied = 0.0

    def owe(self, peer: Peer, request: Message, version: int | None, now: float) -> None:
        """Note the answer to a request: UNCHANGED with `version`, or the newest weights if `version` is None.

        A repeated request does not change the answer while that is owed or on its way, unless it is under a newer map
        epoch: the replica does not take the answer to an older one.
        """
        of_matrix = request.kind == Kind.FACTORS
        key = (of_matrix, request.shard, request.group if of_matrix else 0)
        owed = self._owed.get(peer, {}).get(key)
        leaving = (each for each in self._leaving.get(peer, []) if each.key == key and not each.sent.done)
        asked = (request.map_epoch, request.sequence)
        if any((each.map_epoch, each.sequence) >= asked for each in leaving):
            return
        if owed is not None and (owed.map_epoch, owed.sequence) >= asked:
            owed.asked = now
            return
        self._owed.setdefault(peer, {})[key] = _Owed(request.sequence, request.map_epoch, version, now)

    def settle(self, header: Mapping[str, int]) -> None:
        """Hand the transport all answers that it takes now; `header` has the fields that all answers share.

        An answer about a shard that the server does not have any more is forgotten: the peer asks the new primary.
        """
        turns = deque(self._owed)
        while turns:
            peer = turns.popleft()
            its = self._owed[peer]
            key = next(iter(its))
            if not self._send(peer, key, its[key], header):
                continue
            del its[key], self._owed[peer]
            if its:  # the peer's next answer waits behind those of all other peers
                self._owed[peer] = its
                turns.append(peer)

    def tidy(self, now: float) -> int:
        """Forget answers that no peer asks for any more; return how many. Also drop the notes of sent ones."""
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
        """Hand an answer to the transport; return whether the transport took it."""
        echo = {**header, "shard": key[1], "sequence": owed.sequence, "map_epoch": owed.map_epoch}
        if owed.version is not None:
            return self._endpoint.send(peer, Message(Kind.UNCHANGED, version=owed.version, **echo)) is not None
        entry = self._table.entries.get(key[1])
        if entry is None:
            return True
        leaving = self._leaving[peer] = _not_done(self._leaving.get(peer, []))
        buffer = self._pool.take(spare=not leaving) if len(leaving) < WINDOW else None
        if buffer is None:
            return False
        payload = buffer[: 4 * entry.shard.size]
        payload.view(np.float32)[...] = entry.weights
        sent = self._endpoint.send(peer, Message(Kind.FRESH, payload, version=entry.version, **echo))
        self._pool.give_back(buffer, sent)
        if sent is None:
            return False
        leaving.append(_Leaving(key, owed.sequence, owed.map_epoch, sent))
        return True


def _not_done(leaving: list[_Leaving]) -> list[_Leaving]:
    return [each for each in leaving if not each.sent.done]
