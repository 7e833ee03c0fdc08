"""Whether silence is the fault of the servers that are silent, or of the one that hears none: a decision alone.

A server that is cut off hears nobody. It must not take over from servers that live, nor go on without their copies.
"""

from __future__ import annotations

from collections.abc import Sequence

_ALONE = 3.0  # seconds for which a server blames nobody when it heard no other: after a cut, all dial again in 2.5 s
_GAP = 1.0  # seconds without a message after which a server may have been cut off


class Blame:
    """What one server has heard. A server is missing when it is silent for `patience` seconds; `now` is in seconds."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._heard = self._hears_since = self._was_lonely = float("-inf")

    def hear(self, now: float) -> None:
        """Note that somebody spoke to this server, on another way than that of copies: it is not cut off."""
        if now - self._heard > _GAP:
            self._hears_since = now
        self._heard = now

    def falls_on_others(self, unheard: Sequence[float], now: float) -> bool:
        """Tell whether others that are silent are to blame; `unheard` is how many seconds ago each was heard last."""
        lonely = min(unheard, default=0.0) - self._patience
        if lonely <= 0:
            return now - self._was_lonely > _ALONE
        self._was_lonely = now
        return self._falls_on_all(lonely, len(unheard), now)

    def _falls_on_all(self, lonely: float, others: int, now: float) -> bool:
        """Tell whether the others are to blame, all of which this server has not heard for `lonely` seconds too long.

        It may be the one that is cut off, or was until just now. If replicas speak to it all the time, it is not. Then
        the others may all be dead; if they live, they replace this server before it blames them.
        """
        if others == 1:
            return now - self._heard < lonely + self._patience / 2
        return lonely > _ALONE and now - self._heard <= _GAP and now - self._hears_since > _ALONE
