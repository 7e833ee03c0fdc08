"""Bundles of shards in a COPY message, and what its answer says of each. Pure functions.

A COPY holds all shards that are due to one server, of any groups: a message costs more than the bytes of a small shard.
Its payload is a row for each shard, then all pairs of sender and last update, then all weights, back to back:

    (map epoch of the group, shard, version, number of pairs) | ... | (sender, sequence) | ... | weights | ...

`sequence` in the header is the number of rows, `version` the number of the bundle. The answer COPIED repeats both;
`group` of 1 asks for new connections: the primary gets no answers, though its copies may arrive. The answer's
rows end with the map epoch under which the shard was taken in place of the number of pairs. Any other epoch refuses the
shard: it is the newest that the answering server knows, or 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from adam_mp.memory.layout import Layout
from adam_mp.transport.messages import FrameError, Message

_ROW, _PAIR = 32, 16  # bytes
Row = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class ShardCopy:
    """A shard as its primary has it under map epoch `epoch`, with the last update of each sender in it (`applied`).

    `weights` are float32 [shard.size], or empty if `version` is 0: then the primary has none yet.
    """

    epoch: int
    shard: int
    version: int
    applied: Mapping[int, int]
    weights: np.ndarray

    @property
    def bytes(self) -> int:
        """Bytes that it takes in a payload."""
        return _ROW + _PAIR * len(self.applied) + self.weights.nbytes


def pack_copies(copies: Sequence[ShardCopy]) -> np.ndarray:
    """Return the payload of a COPY, uint8: it shares no memory with the weights."""
    payload = np.empty(sum(copy.bytes for copy in copies), np.uint8)
    head = [number for copy in copies for number in (copy.epoch, copy.shard, copy.version, len(copy.applied))]
    head += [number for copy in copies for pair in copy.applied.items() for number in pair]
    payload[: 8 * len(head)].view(np.uint64)[...] = np.array(head, np.uint64)
    at = 8 * len(head)
    for copy in copies:
        payload[at : at + copy.weights.nbytes].view(np.float32)[...] = copy.weights
        at += copy.weights.nbytes
    return payload


def unpack_copies(message: Message, layout: Layout) -> list[ShardCopy]:
    """Return the shards in a COPY; their weights are views of its payload. Raises FrameError if it is malformed."""
    rows = _read_rows(message)
    if any(shard >= len(layout.shards) for _, shard, _, _ in rows):
        raise FrameError("COPY names a shard that the run has not")
    sizes = [layout.shards[shard].size if version else 0 for _, shard, version, _ in rows]
    count, size = sum(row[3] for row in rows), sum(sizes)
    after = _ROW * len(rows) + _PAIR * count
    if message.length != after + 4 * size:
        raise FrameError(f"COPY has {message.length} bytes; expected {after + 4 * size}")
    pairs = np.frombuffer(message.payload, "<u8", 2 * count, _ROW * len(rows)).reshape(-1, 2).tolist()
    weights = np.frombuffer(message.payload, "<f4", offset=after)
    copies, pair, at = [], 0, 0
    for (epoch, shard, version, count), size in zip(rows, sizes, strict=True):
        applied = dict(pairs[pair : pair + count])
        copies.append(ShardCopy(epoch, shard, version, applied, weights[at : at + size]))
        pair, at = pair + count, at + size
    return copies


def pack_verdicts(rows: Sequence[Row]) -> bytes:
    """Return the payload of a COPIED: map epoch, shard and version of each copy, and the epoch that tells its fate."""
    return np.array(rows, "<u8").tobytes()


def read_verdicts(message: Message) -> list[Row]:
    """Return the rows of a COPIED; raises FrameError if it is malformed."""
    rows = _read_rows(message)
    if message.length != _ROW * len(rows):
        raise FrameError(f"COPIED has {message.length} bytes; expected {_ROW * len(rows)}")
    return rows


def _read_rows(message: Message) -> list[Row]:
    count = message.sequence
    if _ROW * count > message.length:
        raise FrameError(f"{message.kind.name} has {message.length} bytes; expected {count} rows of {_ROW}")
    return [
        (row[0], row[1], row[2], row[3])
        for row in np.frombuffer(message.payload, "<u8", 4 * count).reshape(-1, 4).tolist()
    ]
