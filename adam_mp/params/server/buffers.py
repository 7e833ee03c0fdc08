"""Buffers for payloads on their way: a bounded pool, which reuses a buffer once the transport has sent it."""

from __future__ import annotations

import numpy as np

from adam_mp.transport.endpoint import Sent

WINDOW = 4  # most shards on their way at once between a replica and a server, in each direction


class BufferPool:
    """At most `count` buffers of `size` bytes, made when first needed, and spare ones beyond. One thread may use it."""

    def __init__(self, count: int, size: int) -> None:
        self._count, self._size = count, size
        self._free: list[np.ndarray] = []
        self._held: list[tuple[np.ndarray, Sent]] = []
        self._made = 0

    def take(self, spare: bool = False) -> np.ndarray | None:
        """Return a buffer, uint8 [size], 64-byte aligned; None if all are on their way.

        With `spare`, the pool then makes one more, and lets a returned buffer go later instead.
        """
        if not self._free:
            held, self._held = self._held, []
            for buffer, sent in held:
                self.give_back(buffer, sent)
        if self._free:
            return self._free.pop()
        if self._made >= self._count and not spare:
            return None
        self._made += 1
        raw = np.empty(self._size + 64, np.uint8)
        start = -raw.ctypes.data % 64
        return raw[start : start + self._size]

    def give_back(self, buffer: np.ndarray, sent: Sent | None = None) -> None:
        """Return a taken buffer to the pool; if `sent` has it as payload, the pool reuses it once that has left."""
        if sent is not None and not sent.done:
            self._held.append((buffer, sent))
        elif self._made > self._count:
            self._made -= 1
        else:
            self._free.append(buffer)
