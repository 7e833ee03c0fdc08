"""Where each named tensor lives in the flat space, and how that space is cut into shards and buckets.

The layout follows from the parameters' names and shapes alone, so every process and every machine computes the same.
Tensors begin at multiples of 64 bytes (a cache line, a vector register). *Shards* of 1 MB are the unit of exchange
and persistence; they are hashed into *buckets*, the unit of ownership (paper, section 3.3).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping

import numpy as np

ALIGNMENT = 16  # float32 numbers in 64 bytes
SHARD = (1 << 20) // 4  # float32 numbers in 1 MB
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
class Layout:
    """Named tensors in a flat space of `size` float32 numbers, padded at the end to a whole cache line."""

    tensors: tuple[Tensor, ...]
    size: int

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> Layout:
        """Lay out tensors of the given names and shapes, in their order."""
        tensors, offset = [], 0
        for name, shape in shapes.items():
            tensors.append(Tensor(name, offset, tuple(shape)))
            offset += -(-tensors[-1].size // ALIGNMENT) * ALIGNMENT
        return cls(tuple(tensors), max(offset, ALIGNMENT))

    @property
    def digest(self) -> int:
        """A 63-bit fingerprint: equal for equal layouts, so that arenas and peers can be checked against it."""
        text = repr([(tensor.name, tensor.offset, tensor.shape) for tensor in self.tensors])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1

    @property
    def shards(self) -> tuple[slice, ...]:
        """The pieces of the flat space of at most 1 MB each, in order."""
        return tuple(slice(start, min(start + SHARD, self.size)) for start in range(0, self.size, SHARD))

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
