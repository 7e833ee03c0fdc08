"""Waiting without locks: sleep a little and look again.

A process that polls cannot miss a wake-up from one that died. Who starves sleeps as `Backoff` says: short against a
batch and long against a system call, so that an idle process takes a few thousandths of a core. Who keeps others from
starving sleeps at a `Pace`: as long as what it has made will last.
"""

from __future__ import annotations

import time

_SHORTEST, _LONGEST = 50e-6, 2e-3
_LONGEST_PACE = 25e-3
AMONG_WORKERS = 100e-6  # seconds: longest sleep of a worker that waits for another, which is about to be done


class Backoff:
    """Sleeps between looks at a shared word: 50 microseconds at first, doubling up to `longest` seconds."""

    def __init__(self, longest: float = _LONGEST) -> None:
        self._sleep, self._longest = _SHORTEST, longest

    def pause(self) -> None:
        """Sleep once."""
        time.sleep(self._sleep)
        self._sleep = min(2 * self._sleep, self._longest)

    def reset(self) -> None:
        """Begin with short sleeps again, after something was found."""
        self._sleep = _SHORTEST


class Pace:
    """Sleeps of a producer between fillings of a buffer, such that about half of it is used up meanwhile.

    Each filling takes a core from somebody for a moment, so few long ones disturb less than many short ones (measured:
    1,400 wake-ups a second cost two workers on two cores 4% of their speed).
    """

    def __init__(self) -> None:
        self._sleep = _SHORTEST

    def pause(self, used: float) -> None:
        """Sleep once. `used` is the share of the buffer that was free before this filling, 0 to 1."""
        if used > 1 / 2:
            self._sleep = max(self._sleep / 2, _SHORTEST)
        elif used < 1 / 4:
            self._sleep = min(self._sleep * 2, _LONGEST_PACE)
        time.sleep(self._sleep)
