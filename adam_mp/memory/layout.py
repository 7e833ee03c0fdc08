"""Where each named tensor lives in the flat space, and how that space is cut into shards and buckets.

The layout follows from the parameters' names and shapes alone, so every process and every machine computes the same.
Tensors begin at multiples of 64 bytes (a cache line, a vector register). *Shards* are the unit in which replicas
exchange weights with parameter servers, which save them; they are hashed into *buckets*, the unit of ownership
(paper, section 3.3). A matrix has shards of its own, of whole rows, so that a parameter server can multiply activations
and errors straight into the shards it owns.

Shards have at most 1 MB, as in the paper. For several parameter servers a small network is cut into smaller shards, so
that each owns about the same share. For one parameter server it is not: each shard costs a message and an answer, which
take longer than a few more bytes in one message.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from functools import cached_property

import numpy as np

ALIGNMENT = 16  # float32 numbers in 64 bytes
SHARD = (1 << 20) // 4  # float32 values in 1 MB: the most that a shard has
_LEAST = (64 << 10) // 4  # float32 values: shards for several parameter servers are not cut finer than this
# Shards in a parameter server's share, if _LEAST allows. With six, the largest of four shares is 1.1 times the mean.
_PARTS = 6
BUCKETS = 64


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A named tensor's place in the flat space: `offset` in float32 values, and shape."""

    name: str
    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many float32 values the tensor has."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Shard:
    """A piece of the flat space: the float32 values from `start` up to, not including, `stop`.

    A shard of a matrix: `tensor` is the matrix's index in the layout, and the shard holds `rows` whole rows from
    `first_row` on (the last shard of a matrix also its padding). A shard of other tensors: `tensor` is None.
    """

    start: int
    stop: int
    tensor: int | None = None
    first_row: int = 0
    rows: int = 0

    @property
    def size(self) -> int:
        """How many float32 values the shard has."""
        return self.stop - self.start

    @property
    def place(self) -> slice:
        """The shard's place in the flat space."""
        return slice(self.start, self.stop)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Named tensors in a flat space of `size` float32 values, padded at the end to a whole cache line.

    Its shards are cut for `servers` parameter servers.
    """

    tensors: tuple[Tensor, ...]
    size: int
    servers: int = 1

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> Layout:
        """Lay out tensors of the given names and shapes, in the order given."""
        tensors, offset = [], 0
        for name, shape in shapes.items():
            tensors.append(Tensor(name, offset, tuple(shape)))
            offset += -(-tensors[-1].size // ALIGNMENT) * ALIGNMENT
        return cls(tuple(tensors), max(offset, ALIGNMENT))

    def for_servers(self, servers: int) -> Layout:
        """Return the same layout with shards for `servers` parameter servers."""
        return self if servers == self.servers else dataclasses.replace(self, servers=servers)

    @property
    def digest(self) -> int:
        """A 63-bit digest, equal for equal layouts; arenas and snapshots of parameter servers are checked by it."""
        text = repr([(tensor.name, tensor.offset, tensor.shape) for tensor in self.tensors] + [self.servers])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """The shards, in the order of their places; together they cover the flat space."""
        largest = SHARD
        if self.servers > 1:
            largest = min(SHARD, max(_LEAST, -(-self.size // (_PARTS * self.servers))))
        shards: list[Shard] = []
        packed = 0  # where the part of the flat space begins that no shard covers yet
        for index, tensor in enumerate(self.tensors):
            if len(tensor.shape) != 2:
                continue
            shards += _pieces(packed, tensor.offset, largest)
            packed = self.tensors[index + 1].offset if index + 1 < len(self.tensors) else self.size
            rows, columns = tensor.shape
            for row, end in _equal_parts(rows, max(1, largest // columns)):
                stop = packed if end == rows else tensor.offset + end * columns
                shards.append(Shard(tensor.offset + row * columns, stop, index, row, end - row))
        return (*shards, *_pieces(packed, self.size, largest))

    def bucket(self, shard: int) -> int:
        """Return the bucket that shard number `shard` is hashed into."""
        digest = hashlib.blake2b(shard.to_bytes(8, "little"), digest_size=8).digest()
        return int.from_bytes(digest, "little") % BUCKETS

    def views(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Return name -> view of `flat` [size] in the tensor's shape."""
        return {
            tensor.name: flat[tensor.offset : tensor.offset + tensor.size].reshape(tensor.shape)
            for tensor in self.tensors
        }


@dataclasses.dataclass(frozen=True)
class Held:
    """The shards of a run's weights that a machine exchanges, and where they lie in its own flat space.

    `layout` is that of all of the run's weights, divided for its parameter servers. `numbers` are those of the shards
    that the machine has, ascending; `shards` are the same, with their places in its flat space of `size` numbers.
    """

    layout: Layout
    numbers: tuple[int, ...]
    shards: tuple[Shard, ...]
    size: int

    @classmethod
    def all_of(cls, layout: Layout) -> Held:
        """Return all shards of a layout, each where the layout has it."""
        return cls(layout, tuple(range(len(layout.shards))), layout.shards, layout.size)

    @classmethod
    def some_of(cls, layout: Layout, offsets: Mapping[str, int], size: int) -> Held:
        """Return the shards of some matrices; `offsets` says where each begins in the machine's flat space."""
        numbers, shards = [], []
        for number, shard in enumerate(layout.shards):
            tensor = None if shard.tensor is None else layout.tensors[shard.tensor]
            if tensor is not None and tensor.name in offsets:
                moved = offsets[tensor.name] - tensor.offset
                numbers.append(number)
                shards.append(dataclasses.replace(shard, start=shard.start + moved, stop=shard.stop + moved))
        return cls(layout, tuple(numbers), tuple(shards), size)

    @property
    def servers(self) -> int:
        """For how many parameter servers the layout is divided."""
        return self.layout.servers

    @property
    def space(self) -> Layout:
        """The layout of the machine's flat space, of which nothing but its size counts."""
        return Layout.of({"held": (self.size,)})


def _pieces(start: int, stop: int, largest: int) -> list[Shard]:
    """Cut a part of the flat space that belongs to no matrix into shards of whole cache lines."""
    parts = _equal_parts((stop - start) // ALIGNMENT, largest // ALIGNMENT)
    return [Shard(start + ALIGNMENT * low, start + ALIGNMENT * high) for low, high in parts]


def _equal_parts(count: int, most: int) -> list[tuple[int, int]]:
    """Cut the range from 0 up to, not including, `count` into parts; return (begin, end) of each, without its end.

    A part has at most `most` numbers. There are as few parts as possible, and their sizes differ by one at most.
    """
    parts = -(-count // most)
    return [(count * part // parts, count * (part + 1) // parts) for part in range(parts)]
