"""Whether a parameter server takes a message about a shard. It depends on the sender, the run, and the bucket map.

Only replicas that are members of the run may read and change weights. The coordinator tells the servers who they are.
These functions only decide; the caller answers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.server.shard_table import ShardTable
from adam_mp.transport.messages import FrameError, Kind, Message, read_confirm

_OLDEST = BucketMap(0, ())  # older than all maps: a replica ignores it and asks again


@dataclasses.dataclass(frozen=True)
class Obstacle:
    """Why a server does not take a message; `kind` is that of the answer.

    EMPTY: the server has no weights for the shard. MOVED: its bucket map is another, `map`. REFUSED: for `reason`. A
    `stranger` is no member as far as this server knows; it may have joined since the coordinator's last news.
    """

    kind: Kind
    map: BucketMap = _OLDEST
    reason: str = ""
    stranger: bool = False


def find_obstacle(
    message: Message, run: int, phase: str, is_replica: Callable[[int], bool], bucket_map: BucketMap | None,
    table: ShardTable | None, leads: Mapping[int, int],
) -> Obstacle | None:  # fmt: skip
    """Return why a server of `run` does not take a message about a shard, None if it takes it.

    `leads` has the map epoch of each group of which the server is primary. A message must name exactly that epoch: so a
    server that another has replaced answers nobody who knows its successor.

    In the phase "waiting" a message of another run gets MOVED instead of REFUSED, so its sender asks again: a restarted
    coordinator takes a new number for its run until a replica tells it the former one.
    """
    if message.run != run:
        if phase == "waiting":
            return Obstacle(Kind.MOVED)
        return Obstacle(Kind.REFUSED, reason=f"the message is of run {message.run:x}, this server of run {run:x}")
    if not is_replica(message.sender):
        return Obstacle(Kind.REFUSED, reason="the sender is no replica of this run, or joined just now", stranger=True)
    if table is None or bucket_map is None:
        return Obstacle(Kind.EMPTY)
    if message.kind == Kind.FACTORS:
        group, entries = message.group, table.parts_of(message.shard, message.group)
    elif message.kind == Kind.CONFIRM:
        return _find_obstacle_to_confirm(message, bucket_map, table, leads)
    else:
        entries = [table.entries[message.shard]] if message.shard in table.entries else []
        group = entries[0].group if entries else -1
    if not entries or leads.get(group) != message.map_epoch:
        return Obstacle(Kind.MOVED, bucket_map)
    filled = message.kind == Kind.FIRST or all(entry.version for entry in entries)
    return None if filled else Obstacle(Kind.EMPTY)


def _find_obstacle_to_confirm(
    message: Message, bucket_map: BucketMap, table: ShardTable, leads: Mapping[int, int]
) -> Obstacle | None:  # fmt: skip
    """Return MOVED if the message is about no shard, or about one of which the server is not primary by its epoch."""
    try:
        rows = read_confirm(message)
    except FrameError as error:
        return Obstacle(Kind.REFUSED, reason=str(error))
    leading = (shard in table.entries and leads.get(table.entries[shard].group) == epoch for epoch, shard, _ in rows)
    return None if rows and all(leading) else Obstacle(Kind.MOVED, bucket_map)
