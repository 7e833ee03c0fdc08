"""Waiting without locks: sleep a little and look again.

A process that looks by itself needs no wake-up, which a process that died could never send. A process that waits for
input sleeps as `Backoff` says: its sleeps are short beside the time of a batch and long beside a system call, so that
an idle process takes a few thousandths of a core. A process that fills a buffer for others sleeps as `Pace` says: until
about half of the buffer is used up.
"""

from __future__ import annotations

import time

_SHORTEST, _LONGEST = 50e-6, 2e-3
_LONGEST_PACE = 25e-3
AMONG_WORKERS = 100e-6  # seconds: longest sleep of a worker that waits for another worker, which is almost done


class Backoff:
    """Sleeps between looks at shared memory: 50 microseconds at first, doubled each time up to `longest` seconds."""

    def __init__(self, longest: float = _LONGEST) -> None:
        self._sleep, self._longest = _SHORTEST, longest

    def pause(self) -> None:
        """Sleep once."""
        time.sleep(self._sleep)
        self._sleep = min(2 * self._sleep, self._longest)

    def reset(self) -> None:
        """Begin with short sleeps again; the caller has found what it waited for."""
        self._sleep = _SHORTEST


class Pace:
    """Sleeps of a producer between two fillings of a buffer, until about half of the buffer is used up.

    Each filling takes a core from another process for a moment, so a few long fillings disturb less than many short
    ones (measured: 1,400 wake-ups a second cost two workers on two cores 4% of their speed).
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
