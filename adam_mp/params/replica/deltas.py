"""Deltas in the encodings of messages: float32, float16 or bfloat16.

`sent` becomes the base plus the rounded delta. So what rounding loses stays in `local - sent`, and goes with the next
delta.
"""

from __future__ import annotations

import numpy as np

from adam_mp.kernels.exchange import take_delta, take_delta_bfloat16
from adam_mp.transport.messages import ENCODINGS

_FLOAT32, _FLOAT16, _BFLOAT16 = range(len(ENCODINGS))


class DeltaMaker:
    """Makes deltas of shards of at most `largest` numbers. One thread may use it."""

    def __init__(self, largest: int) -> None:
        self._delta: np.ndarray = np.zeros(largest, np.float32)

    def make(
        self, encoding: int, local: np.ndarray, base: np.ndarray, sent: np.ndarray, buffer: np.ndarray
    ) -> tuple[np.ndarray, bool]:  # fmt: skip
        """Put the encoded `delta = local - base` into `buffer`, and set `sent = base + delta`, delta as encoded.

        `local`, `base` and `sent` are float32 [n], `buffer` uint8 of at least 4n bytes. Return the payload [n], a view
        of the buffer, and whether any number differs from 0.
        """
        if encoding == _FLOAT32:
            payload = buffer[: 4 * len(base)].view(np.float32)
            return payload, bool(take_delta(local, base, sent, payload))
        if encoding == _BFLOAT16:
            halves = buffer[: 2 * len(base)].view(np.uint16)
            return halves, bool(take_delta_bfloat16(local, base, sent, halves))
        delta = self._delta[: len(base)]
        np.subtract(local, base, out=delta)
        rounded = buffer[: 2 * len(base)].view(np.float16)
        rounded[...] = delta
        np.add(base, rounded, out=sent)
        return rounded, bool(delta.any())
