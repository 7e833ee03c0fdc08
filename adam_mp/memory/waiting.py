"""Waiting without locks: sleep a little, longer each time, and look again.

A process that polls cannot miss a wake-up from one that died. The sleeps are short against a batch and long against
a system call, so that an idle process takes a few thousandths of a core.
"""

from __future__ import annotations

import time

_SHORTEST, _LONGEST = 50e-6, 2e-3


class Backoff:
    """Sleeps between looks at a shared word: 50 microseconds at first, doubling up to 2 milliseconds."""

    def __init__(self) -> None:
        self._sleep = _SHORTEST

    def pause(self) -> None:
        """Sleep once."""
        time.sleep(self._sleep)
        self._sleep = min(2 * self._sleep, _LONGEST)

    def reset(self) -> None:
        """Begin with short sleeps again, after something was found."""
        self._sleep = _SHORTEST
