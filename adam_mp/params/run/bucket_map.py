"""Which parameter server has which shard: shards are hashed into buckets, and buckets spread equally over groups.

Every member computes the same groups of shards from the layout and the number of groups. So a map needs little in a
message: the list of servers, who has which group (`copy_groups`), and the map epoch, which grows with each change.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from adam_mp.errors import SettingsError
from adam_mp.memory.layout import BUCKETS, Layout
from adam_mp.params.run.copy_groups import CopyGroup

COMMIT_COPIED, COMMIT_ALL = COMMITS = "copied", "all"
_LONGEST_NAME = 100  # letters of a tensor's name in a message


@dataclasses.dataclass(frozen=True)
class ServerPlace:
    """A parameter server: its identity, where it listens, and where for copies, "" in a run without them."""

    identity: int
    address: str
    copies: str = ""


@dataclasses.dataclass(frozen=True)
class BucketMap:
    """The servers of a run, in the order in which they get their buckets. `epoch` is the map epoch, from 1.

    `copied` are the groups of buckets of a run with copies. In a run without, it is empty, and each server has a group
    of its own. `commit` says when a server of a run with copies answers an update: at once, while copies are on their
    way (COMMIT_COPIED), or when all in-sync copies have it (COMMIT_ALL).
    """

    epoch: int
    servers: tuple[ServerPlace, ...]
    copied: tuple[CopyGroup, ...] = ()
    commit: str = COMMIT_COPIED

    @property
    def groups(self) -> tuple[CopyGroup, ...]:
        """Who has each group of buckets."""
        return self.copied or tuple(CopyGroup(self.epoch, place) for place in range(len(self.servers)))

    def groups_of(self, layout: Layout) -> tuple[int, ...]:
        """Return, for each shard of `cut(layout)`, the number of its group."""
        return _spread_shards(self.cut(layout), len(self.copied) or len(self.servers))

    @property
    def has_replicas_keep(self) -> bool:
        """Whether a replica keeps each update until copies have it, because servers answer before that."""
        return bool(self.copied) and self.commit == COMMIT_COPIED

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the servers listen."""
        return tuple(server.address for server in self.servers)

    def place_of(self, identity: int) -> int | None:
        """Return the index in `servers` of the server with this identity, None if it is not in the map."""
        return next((place for place, server in enumerate(self.servers) if server.identity == identity), None)

    def cut(self, layout: Layout) -> Layout:
        """Return the layout divided into shards for this number of servers; all members number the shards by it."""
        return layout.for_servers(len(self.servers))

    def owners(self, layout: Layout) -> tuple[int, ...]:
        """Return, for each shard of `cut(layout)`, the index in `servers` of the server that is its primary."""
        groups = self.groups
        return tuple(groups[group].primary for group in self.groups_of(layout))

    def shards_of(self, layout: Layout, identity: int) -> tuple[int, ...]:
        """Return the shards of `cut(layout)` of which a server is primary, ascending; none if it is not in the map."""
        places = [index for index, server in enumerate(self.servers) if server.identity == identity]
        return tuple(shard for shard, owner in enumerate(self.owners(layout)) if owner in places)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        values: dict[str, Any] = {
            "epoch": self.epoch,
            "servers": [
                [server.identity, server.address, *((server.copies,) if server.copies else ())]
                for server in self.servers
            ],
        }
        if self.copied:
            values["commit"] = self.commit
            values["groups"] = [
                [group.epoch, group.primary, list(group.in_sync), list(group.joining), group.since]
                for group in self.copied
            ]
        return values

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> BucketMap:
        """Rebuild a map from `as_dict`.

        Raises ValueError, KeyError, TypeError or OverflowError if the values are malformed.
        """
        servers = tuple(
            ServerPlace(int(identity), str(address), *map(str, copies))
            for identity, address, *copies in facts["servers"]
        )
        copied = tuple(
            CopyGroup(int(epoch), int(primary), tuple(map(int, in_sync)), tuple(map(int, joining)), int(since))
            for epoch, primary, in_sync, joining, since in facts.get("groups", ())
        )
        if any(not 0 <= place < len(servers) for group in copied for place in group.holders):
            raise ValueError("a group of buckets is on a server that is not in the map")
        if any(len(set(group.holders)) < len(group.holders) for group in copied):
            raise ValueError("a group of buckets is twice on a server")
        if any(not 0 <= group.since <= group.epoch <= int(facts["epoch"]) for group in copied):
            raise ValueError("a group of buckets has a map epoch that the map has not")
        commit = facts.get("commit", COMMIT_COPIED)
        if commit not in COMMITS:
            raise ValueError("the map has an unknown commit mode")
        return cls(int(facts["epoch"]), servers, copied, commit)


def spread_buckets(layout: Layout, groups: int) -> tuple[int, ...]:
    """Return, for each bucket, the number of its group: from the largest down, each goes to the smallest group."""
    sizes = [0] * BUCKETS
    for number, shard in enumerate(layout.shards):
        sizes[layout.bucket(number)] += shard.size
    owners, loads, counts = [0] * BUCKETS, [0] * groups, [0] * groups
    for bucket in sorted(range(BUCKETS), key=lambda bucket: (-sizes[bucket], bucket)):
        owner = min(range(groups), key=lambda index: (loads[index], counts[index], index))
        owners[bucket] = owner
        loads[owner] += sizes[bucket]
        counts[owner] += 1
    return tuple(owners)


@dataclasses.dataclass(frozen=True)
class LayoutFacts:
    """A layout as messages carry it: the tensors' names and shapes."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, layout: Layout) -> LayoutFacts:
        """Return names and shapes of a layout's tensors."""
        return cls(tuple((tensor.name, tensor.shape) for tensor in layout.tensors))

    @classmethod
    def from_list(cls, facts: Sequence[Any]) -> LayoutFacts:
        """Rebuild the layout's facts from `as_list`; raises SettingsError if they are malformed."""
        try:
            shapes = tuple((str(name), tuple(int(side) for side in shape)) for name, shape in facts)
        except (TypeError, ValueError):
            raise SettingsError("a peer sent a malformed layout; is it of another version of adam_mp?") from None
        if any(side < 1 for _, shape in shapes for side in shape):
            raise SettingsError("a peer sent a layout with an empty tensor; is it of another version of adam_mp?")
        return cls(shapes)

    @property
    def numbers(self) -> int:
        """How many numbers all tensors have together."""
        return sum(math.prod(shape) for _, shape in self.shapes)

    def as_list(self) -> list[Any]:
        """Return plain values for JSON."""
        return [[name, list(shape)] for name, shape in self.shapes]

    def difference(self, other: LayoutFacts) -> str | None:
        """Name the first tensor in which `other` differs, with both shapes; None if they are the same."""
        for ours, theirs in itertools.zip_longest(self.shapes, other.shapes):
            if ours != theirs:
                return f"{_described(theirs)}, the run has {_described(ours)}"
        return None

    @functools.cached_property
    def layout(self) -> Layout:
        """The layout itself."""
        return Layout.of(dict(self.shapes))


def _described(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    """Return a tensor's name and shape in words, as in `conv1.weight 25x20`; "no more" for None."""
    return f"{tensor[0][:_LONGEST_NAME]} {'x'.join(map(str, tensor[1])) or 'of one number'}" if tensor else "no more"


@functools.lru_cache(maxsize=4)
def shards_of_groups(layout: LayoutFacts, servers: int, groups: int) -> tuple[tuple[int, ...], ...]:
    """Return the shards of each of `groups` groups, ascending, for a map of `servers` servers.

    Cached, because it hashes every shard of the layout.
    """
    found: list[list[int]] = [[] for _ in range(groups)]
    for shard, group in enumerate(_spread_shards(layout.layout.for_servers(servers), groups)):
        found[group].append(shard)
    return tuple(map(tuple, found))


def _spread_shards(cut: Layout, groups: int) -> tuple[int, ...]:
    """Return the number of each shard's group."""
    buckets = spread_buckets(cut, groups)
    return tuple(buckets[cut.bucket(shard)] for shard in range(len(cut.shards)))
