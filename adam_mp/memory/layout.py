"""Where each named tensor lives in the flat space, and how that space is cut into shards and buckets.

The layout follows from the parameters' names and shapes alone, so every process and every machine computes the same.
Tensors begin at multiples of 64 bytes (a cache line, a vector register). *Shards* are the unit of exchange and
persistence; they are hashed into *buckets*, the unit of ownership (paper, section 3.3). A matrix has shards of its own,
of whole rows, so that a server can multiply activations and errors straight into those it has.

Shards have at most 1 MB, as in the paper. Several servers get a small network in smaller shards, so that each has about
as much of it. One server does not: each shard is a message and an answer, which cost more than so few bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from functools import cached_property

import numpy as np

ALIGNMENT = 16  # float32 numbers in 64 bytes
SHARD = (1 << 20) // 4  # float32 numbers in 1 MB, of which a shard has no more
_LEAST = (64 << 10) // 4  # numbers that a shard may always have
_PARTS = 6  # into which a server's share is cut at least: the largest of four then has 1.1 times the mean
BUCKETS = 64


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A named tensor's place in the flat space: offset in numbers, and shape."""

    name: str
    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Shard:
    """A piece of the flat space, numbers `start` to `stop`.

    Of a matrix: `tensor` is its index in the layout, and the piece holds `rows` whole rows from `first_row` on (and, at
    the matrix's end, its padding). Otherwise `tensor` is None.
    """

    start: int
    stop: int
    tensor: int | None = None
    first_row: int = 0
    rows: int = 0

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return self.stop - self.start

    @property
    def place(self) -> slice:
        """Its place in the flat space."""
        return slice(self.start, self.stop)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Named tensors in a flat space of `size` float32 numbers, padded at the end to a whole cache line.

    Its shards are those for `servers` parameter servers.
    """

    tensors: tuple[Tensor, ...]
    size: int
    servers: int = 1

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> Layout:
        """Lay out tensors of the given names and shapes, in their order."""
        tensors, offset = [], 0
        for name, shape in shapes.items():
            tensors.append(Tensor(name, offset, tuple(shape)))
            offset += -(-tensors[-1].size // ALIGNMENT) * ALIGNMENT
        return cls(tuple(tensors), max(offset, ALIGNMENT))

    def for_servers(self, servers: int) -> Layout:
        """Return the same layout with shards for so many servers."""
        return self if servers == self.servers else dataclasses.replace(self, servers=servers)

    @property
    def digest(self) -> int:
        """A 63-bit fingerprint: equal for equal layouts, so that arenas and peers can be checked against it."""
        text = repr([(tensor.name, tensor.offset, tensor.shape) for tensor in self.tensors] + [self.servers])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """The shards, in order; together they are the flat space."""
        largest = SHARD
        if self.servers > 1:
            largest = min(SHARD, max(_LEAST, -(-self.size // (_PARTS * self.servers))))
        shards: list[Shard] = []
        packed = 0  # where the numbers begin that no shard has yet
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


def _pieces(start: int, stop: int, largest: int) -> list[Shard]:
    """Cut numbers that belong to no matrix into shards of whole cache lines."""
    parts = _equal_parts((stop - start) // ALIGNMENT, largest // ALIGNMENT)
    return [Shard(start + ALIGNMENT * low, start + ALIGNMENT * high) for low, high in parts]


def _equal_parts(count: int, most: int) -> list[tuple[int, int]]:
    """Cut 0 to `count` into few parts of at most `most`, which differ by one at most; return (begin, end) of each."""
    parts = -(-count // most)
    return [(count * part // parts, count * (part + 1) // parts) for part in range(parts)]
