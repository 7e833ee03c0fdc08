"""Where a replica's messages about shards go: to the primary of each shard's group, under the group's map epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from adam_mp.memory.layout import Held
from adam_mp.params.run.bucket_map import BucketMap
from adam_mp.transport.endpoint import Peer


@dataclasses.dataclass(frozen=True)
class Routes:
    """`numbers`, `groups` and `owners` have the number in the run, the group and the primary of each shard held.

    `epochs` is by group. `copies` are, by group, the servers with in-sync copies. `run` and `sender` are header fields
    of all messages.
    """

    numbers: tuple[int, ...]
    groups: tuple[int, ...]
    owners: tuple[Peer, ...]
    epochs: tuple[int, ...]
    copies: tuple[tuple[Peer, ...], ...]
    run: int
    sender: int

    @classmethod
    def of(cls, bucket_map: BucketMap, held: Held, peers: Sequence[Peer], run: int, sender: int) -> Routes:
        """Return the routes by a map; `peers` are its servers, in its order, as an endpoint knows them."""
        groups, all_numbers = bucket_map.groups, bucket_map.groups_of(held.layout)
        own = tuple(all_numbers[number] for number in held.numbers)
        return cls(
            held.numbers,
            own,
            tuple(peers[groups[number].primary] for number in own),
            tuple(group.epoch for group in groups),
            tuple(tuple(peers[place] for place in group.in_sync) for group in groups),
            run,
            sender,
        )

    def header(self, group: int) -> dict[str, int]:
        """Return the header fields of a message about a group."""
        return {"run": self.run, "sender": self.sender, "map_epoch": self.epochs[group], "group": group}

    def header_of(self, shard: int) -> dict[str, int]:
        """Return the header fields of a message about a shard; `shard` counts those held."""
        return {**self.header(self.groups[shard]), "shard": self.numbers[shard]}

    def epoch_of(self, shard: int) -> int:
        """Return the map epoch of a shard's group."""
        return self.epochs[self.groups[shard]]

    def copies_of(self, peer: Peer) -> list[Peer]:
        """Return the servers with in-sync copies of the groups of a primary."""
        groups = {group for group, owner in zip(self.groups, self.owners, strict=True) if owner == peer}
        return list(dict.fromkeys(copy for group in sorted(groups) for copy in self.copies[group]))
