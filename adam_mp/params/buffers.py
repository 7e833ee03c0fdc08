"""Buffers for payloads on their way: taken from a bounded pool, used again once the transport lets go of them."""

from __future__ import annotations

import numpy as np

from adam_mp.transport.endpoint import Sent


class BufferPool:
    """At most `count` buffers of `size` bytes, made when first needed. One thread may use it."""

    def __init__(self, count: int, size: int) -> None:
        self._count, self._size = count, size
        self._free: list[np.ndarray] = []
        self._held: list[tuple[np.ndarray, Sent]] = []
        self._made = 0

    def take(self) -> np.ndarray | None:
        """Return a buffer, uint8 [size], 64-byte aligned; None if all are on their way."""
        if not self._free:
            busy = []
            for buffer, sent in self._held:
                if sent.done:
                    self._free.append(buffer)
                else:
                    busy.append((buffer, sent))
            self._held = busy
        if self._free:
            return self._free.pop()
        if self._made == self._count:
            return None
        self._made += 1
        raw = np.empty(self._size + 64, np.uint8)
        start = -raw.ctypes.data % 64
        return raw[start : start + self._size]

    def give_back(self, buffer: np.ndarray, sent: Sent | None = None) -> None:
        """Return a buffer that was taken; with `sent`, once that is done."""
        if sent is None or sent.done:
            self._free.append(buffer)
        else:
            self._held.append((buffer, sent))

    @property
    def on_their_way(self) -> int:
        """How many buffers a transport holds, as of the last look."""
        return len(self._held)
