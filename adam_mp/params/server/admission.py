"""Whether a server takes a message about a shard. It depends on the sender, the run, and the bucket map.

Only replicas that are members of the run may read and change weights. The coordinator tells the servers who they are.
These functions only decide; the caller answers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.server.shard_table import ShardTable
from adam_mp.transport.messages import Kind, Message

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
    table: ShardTable | None,
) -> Obstacle | None:  # fmt: skip
    """Return why a server of `run` does not take a message about a shard, None if it takes it.

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
    of_matrix = message.kind == Kind.FACTORS
    known = table.parts_of(message.shard) if of_matrix else message.shard in table.entries
    if message.map_epoch != bucket_map.epoch or not known:
        return Obstacle(Kind.MOVED, bucket_map)
    entries = table.parts_of(message.shard) if of_matrix else [table.entries[message.shard]]
    filled = message.kind == Kind.FIRST or all(entry.version for entry in entries)
    return None if filled else Obstacle(Kind.EMPTY)
