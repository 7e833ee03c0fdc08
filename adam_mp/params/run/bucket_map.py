"""Which server has which shard: shards are hashed into buckets, buckets are spread equally over the servers.

Every party computes the same from the layout and the servers' names, so a map is small: who there is, and its epoch,
which grows with each change.
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

_LONGEST_NAME = 100  # letters of a tensor's name in a message


@dataclasses.dataclass(frozen=True)
class ServerPlace:
    """A parameter server: its identity, and where it listens."""

    identity: int
    address: str


@dataclasses.dataclass(frozen=True)
class BucketMap:
    """The servers of a run, in the order in which buckets are dealt, as of `epoch` (from 1)."""

    epoch: int
    servers: tuple[ServerPlace, ...]

    def cut(self, layout: Layout) -> Layout:
        """Return the layout with shards for these servers, by which all members of a run number them."""
        return layout.for_servers(len(self.servers))

    def owners(self, layout: Layout) -> tuple[int, ...]:
        """Return, for each shard of the layout as it is cut for these servers, the index of the server that has it."""
        layout = self.cut(layout)
        buckets = spread_buckets(layout, len(self.servers))
        return tuple(buckets[layout.bucket(shard)] for shard in range(len(layout.shards)))

    def shards_of(self, layout: Layout, identity: int) -> tuple[int, ...]:
        """Return one server's shards of the layout as it is cut for all, ascending; none if it is not in the map."""
        places = [index for index, server in enumerate(self.servers) if server.identity == identity]
        return tuple(shard for shard, owner in enumerate(self.owners(layout)) if owner in places)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"epoch": self.epoch, "servers": [[server.identity, server.address] for server in self.servers]}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> BucketMap:
        """Rebuild a map; raises ValueError, KeyError or TypeError if it is none."""
        servers = tuple(ServerPlace(int(identity), str(address)) for identity, address in facts["servers"])
        return cls(int(facts["epoch"]), servers)


def spread_buckets(layout: Layout, servers: int) -> tuple[int, ...]:
    """Return the server's index of each bucket: the largest bucket first, each to the server with the fewest bytes."""
    sizes = [0] * BUCKETS
    for number, shard in enumerate(layout.shards):
        sizes[layout.bucket(number)] += shard.size
    owners, loads, counts = [0] * BUCKETS, [0] * servers, [0] * servers
    for bucket in sorted(range(BUCKETS), key=lambda bucket: (-sizes[bucket], bucket)):
        owner = min(range(servers), key=lambda index: (loads[index], counts[index], index))
        owners[bucket] = owner
        loads[owner] += sizes[bucket]
        counts[owner] += 1
    return tuple(owners)


@dataclasses.dataclass(frozen=True)
class LayoutFacts:
    """A layout as it goes over the wire: names and shapes."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, layout: Layout) -> LayoutFacts:
        """Return the facts of a layout."""
        return cls(tuple((tensor.name, tensor.shape) for tensor in layout.tensors))

    @classmethod
    def from_list(cls, facts: Sequence[Any]) -> LayoutFacts:
        """Rebuild them; raises SettingsError if they are none."""
        try:
            shapes = tuple((str(name), tuple(int(side) for side in shape)) for name, shape in facts)
        except (TypeError, ValueError):
            raise SettingsError("a layout that came from a peer is malformed; is it of another version?") from None
        if any(side < 1 for _, shape in shapes for side in shape):
            raise SettingsError("a layout that came from a peer has an empty tensor; is it of another version?")
        return cls(shapes)

    @property
    def numbers(self) -> int:
        """How many numbers the tensors have."""
        return sum(math.prod(shape) for _, shape in self.shapes)

    def as_list(self) -> list[Any]:
        """Return plain values."""
        return [[name, list(shape)] for name, shape in self.shapes]

    def difference(self, other: LayoutFacts) -> str | None:
        """Name the first tensor in which `other` differs, with both shapes; None if it does not."""
        for ours, theirs in itertools.zip_longest(self.shapes, other.shapes):
            if ours != theirs:
                return f"{_described(theirs)}, the run has {_described(ours)}"
        return None

    @functools.cached_property
    def layout(self) -> Layout:
        """The layout itself."""
        return Layout.of(dict(self.shapes))


def _described(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    """Say a tensor's name and shape, as in `conv1.weight 5x5x1x20`."""
    return f"{tensor[0][:_LONGEST_NAME]} {'x'.join(map(str, tensor[1])) or 'of one number'}" if tensor else "no more"


@functools.lru_cache(maxsize=1)
def own_shards(bucket_map: BucketMap, layout: LayoutFacts, identity: int) -> tuple[int, ...]:
    """Return the shards of one server; all of them are hashed for it, and it is asked with each news."""
    return bucket_map.shards_of(layout.layout, identity)
