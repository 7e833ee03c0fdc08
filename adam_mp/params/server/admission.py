"""Whether a server takes a message about a shard: who sent it, of which run, under which bucket map. Decisions alone.

Only replicas that are members of the run read weights and change them. The coordinator tells servers who they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.params.server.shard_table import ShardTable
from adam_mp.transport.messages import Kind, Message

_OLDEST = BucketMap(0, ())  # older than all maps: its receiver takes no notice of it, and asks again


@dataclasses.dataclass(frozen=True)
class Obstacle:
    """Why a message is not taken: the answer's kind, EMPTY, MOVED (to `map`) or REFUSED (for `reason`).

    `stranger` says that its sender is no member, as far as this server knows: it may have joined just now.
    """

    kind: Kind
    map: BucketMap = _OLDEST
    reason: str = ""
    stranger: bool = False


def find_obstacle(
    message: Message, run: int, phase: str, is_replica: Callable[[int], bool], bucket_map: BucketMap | None,
    table: ShardTable | None,
) -> Obstacle | None:  # fmt: skip
    """Return why a server of `run` does not take a message about a shard, None if it does.

    Before a replica has told a restarted coordinator which run it is (`phase` "waiting"), a message of another run is
    not refused: its sender asks again.
    """
    if message.run != run:
        if phase == "waiting":
            return Obstacle(Kind.MOVED)
        return Obstacle(Kind.REFUSED, reason=f"the message is of run {message.run:x}, this server of run {run:x}")
    if not is_replica(message.sender):
        return Obstacle(Kind.REFUSED, reason="its sender is no replica of this run, or joined just now", stranger=True)
    if table is None or bucket_map is None:
        return Obstacle(Kind.EMPTY)
    of_matrix = message.kind == Kind.FACTORS
    known = table.parts_of(message.shard) if of_matrix else message.shard in table.entries
    if message.epoch != bucket_map.epoch or not known:
        return Obstacle(Kind.MOVED, bucket_map)
    entries = table.parts_of(message.shard) if of_matrix else [table.entries[message.shard]]
    filled = message.kind == Kind.FIRST or all(entry.version for entry in entries)
    return None if filled else Obstacle(Kind.EMPTY)
